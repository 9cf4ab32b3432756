"""Text sets: splits, order, windows and rows, the vocabulary in the checkpoint."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch

from genlab.data.base import DataSet, HasExamples
from genlab.data.text.codec import Codec, pad
from genlab.data.text.facts import Facts, read_table
from genlab.data.text.module import Pairs, SquadJSON, TextDataModule, WebQA, split_documents
from genlab.data.text.records import Example
from genlab.data.text.rows import Encoded, LengthSampler, TextBatches, TextDraw, occurs
from genlab.data.text.tokenizer import Tokenizer
from genlab.errors import DataError

WORDS = [f"w{i}" for i in range(60)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *WORDS]


def codec(**options) -> Codec:
    made = Codec(**{"max_source": 12, "max_question": 4, "max_target": 5, "stride": 4} | options)
    made.use(Tokenizer(VOCAB))
    return made


def asked(passages, targets, question="w50 w51", document="d") -> Example:
    return Example("x", tuple(passages), tuple(targets), question, document)


def text(*numbers) -> str:
    return " ".join(f"w{i}" for i in numbers)


# --- codec ----------------------------------------------------------------------------------------


def test_rows_have_the_special_tokens_of_bert_and_are_cut():
    c, t = codec(), Tokenizer(VOCAB)
    source, question, target, long = t.plain([text(1, 2), text(50, 51), text(3), text(*range(9))])
    assert c.windows(source, question) == [[2, *source, 3, *question, 3]]
    assert c.windows(source) == [[2, *source, 3]] and c.ending(target) == [*target, 3]
    assert c.row(source, long) == [2, *source, 3, *long[:3], 3]
    assert c.ending(long) == [*long[:4], 3]


@pytest.mark.parametrize("length", range(0, 45))
@pytest.mark.parametrize("stride", [1, 4, 10])
def test_windows_cover_the_source_and_fit(length, stride):
    starts = codec(stride=stride).starts(length)
    covered = {i for start in starts for i in range(start, min(start + 10, length))}
    assert covered == set(range(length)) and starts == sorted(set(starts))
    assert starts[-1] <= max(length - 10, 0)
    assert all(b - a <= stride for a, b in itertools.pairwise(starts))


def test_a_cut_source_loses_the_side_that_is_asked():
    assert codec(stride=None).starts(25) == [0]
    assert codec(stride=None, truncate="left").starts(25) == [15]


def test_settings_without_meaning_are_refused():
    for wrong in ({"max_source": 2}, {"stride": 0}, {"stride": 11}, {"truncate": "middle"}):
        with pytest.raises(DataError, match=rf"data\.{next(iter(wrong))}="):
            codec(**wrong)
    with pytest.raises(DataError, match=r"data\.max_question=0"):
        codec(max_question=0).row([7], [8])
    with pytest.raises(DataError):
        _ = Codec().tokenizer


def test_the_vocabulary_travels_in_the_state():
    c = codec()
    other = Codec()
    other.load_state_dict(c.state_dict())
    assert other.tokenizer.state() == c.tokenizer.state()
    assert other.text([7, 8]) == c.text([7, 8]) == "w1 w2"
    kept = Codec()
    kept.use(Tokenizer(VOCAB[:8], False, [0, 100, 101, 102, 103, 8, 9, 11]))
    other.load_state_dict(kept.state_dict())
    assert other.tokenizer.keep_tokens == [0, 100, 101, 102, 103, 8, 9, 11]
    assert not other.tokenizer.lowercase
    assert c.banned == [0, 1, 2, 4]


def test_marks_like_commas_become_commas_where_the_data_say_so():
    c = codec(commas=True)
    comma = VOCAB.index(",")
    (ids,) = c.sources(["w1、w2；w3，w4 w5"])
    assert ids == [7, comma, 8, comma, 9, comma, 10, comma, 11]
    assert c.targets(["w1 w2"]) == [[7, comma, 8]]


def test_padding_is_on_the_right():
    assert pad([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]


# --- rows -----------------------------------------------------------------------------------------


def test_occurs_is_a_search_for_whole_ids():
    random = np.random.RandomState(0)
    for _ in range(300):
        window, part = random.randint(0, 3, 12), random.randint(0, 3, random.randint(1, 4))
        truth = any(
            window[i : i + len(part)].tolist() == part.tolist() for i in range(13 - len(part))
        )
        assert occurs(window.astype(np.int32).tobytes(), part.astype(np.int32).tobytes()) == truth
    window, part = np.array([256, 1], np.int32), np.array([1 << 16], np.int32)
    assert not occurs(window.tobytes(), part.tobytes())  # its bytes lie across two ids


def test_training_reads_a_window_with_the_answer_and_says_when_there_is_none():
    c = codec()
    long = text(*range(30))
    e = Encoded([asked([long], [(text(14, 15),)])], c)
    seen = set()
    for epoch in range(60):
        source, target = e.row(0, np.random.RandomState(epoch), 0.0)
        assert c.text(target) == text(14, 15) and text(14, 15) in c.text(source)
        seen.add(tuple(source))
    assert len(seen) == sum(text(14, 15) in text(*range(30)[s : s + 10]) for s in c.starts(30)) > 1


def test_questions_without_an_answer_come_as_often_as_asked_and_from_both_places():
    c = codec()
    examples = [
        asked([text(*range(30))], [(text(14, 15),)]),
        asked([text(*range(40, 60))], [()], document="other"),
    ]
    e = Encoded(examples, c)
    rows = [e.row(0, np.random.RandomState(i), 0.4) for i in range(1000)]
    empty = [c.text(source) for source, target in rows if target == [3]]
    assert 340 <= len(empty) <= 460 and not any(text(14, 15) in source for source in empty)
    foreign = sum(any(word in source for word in ("w45", "w59", "w40")) for source in empty)
    assert 0.35 <= foreign / len(empty) <= 0.65
    with pytest.raises(DataError, match=r"^data\.no_answer: "):
        [Encoded(examples[:1], c).row(0, np.random.RandomState(i), 0.9) for i in range(30)]


def test_an_answer_that_is_no_run_of_tokens_is_not_taught_as_none():
    c = codec()
    examples = [
        asked([text(1, 2, 3)], [(text(7),)]),
        asked([text(1, 2, 3)], [(text(2),)]),
        asked([text(1)], [()]),
    ]
    assert Encoded(examples, c).rows == [1, 2]
    cut = codec(stride=None)
    beyond = [asked([text(*range(20))], [(text(15),)])]
    e = Encoded(beyond, cut)
    assert e.rows == [0] and e.row(0, None, 0.0)[1] == [3]  # cut off: this window has no answer


def test_webqa_takes_the_first_answer_whose_parts_all_stand_in_the_passage():
    c = codec(commas=True)
    targets = ("w1 w9", "w3 w1")
    e = Encoded([asked(["w1 w2 w3", "w5 w9 w1", "w7"], [targets] * 3)], c)
    found = [windows[0][1] for windows in e.windows[0]]
    assert [None if ids is None else c.text(ids) for ids in found] == ["w3, w1", "w1, w9", None]


def test_a_batch_is_a_function_of_seed_epoch_and_examples():
    c = codec()
    e = Encoded(
        [asked([text(*range(30))], [(text(14, 15),)], document=str(i)) for i in range(8)], c
    )
    batches = TextBatches(e, 3, 0.3)
    whole = batches[TextDraw(torch.arange(8), 5)]
    again = TextBatches(e, 3, 0.3)[TextDraw(torch.tensor([6, 2]), 5)]
    for place, row in enumerate([6, 2]):
        n = whole["lengths"][row]
        assert n == again["lengths"][place]
        assert torch.equal(whole["ids"][row, :n], again["ids"][place, :n])
    assert not torch.equal(whole["ids"], batches[TextDraw(torch.arange(8), 6)]["ids"])
    for ids, segments, n in zip(whole["ids"], whole["segments"], whole["lengths"], strict=True):
        assert segments[:n].tolist() == sorted(segments[:n].tolist())
        assert ids[n - 1] == 3 and not ids[n:].any()
        assert not segments[n:].any() and segments[:n].any()


def test_rows_are_padded_to_a_multiple_and_never_beyond_the_longest_there_may_be():
    c = codec()
    e = Encoded([asked([text(*range(n))], [(text(1),)], document=str(n)) for n in (3, 5, 30)], c)
    cases = (([0], 1, 10), ([0], 8, 16), ([0, 1], 4, 12), ([2], 16, 21), ([0], 64, 21))
    for draw, multiple, width in cases:
        plain = TextBatches(e, 3, 0.0)[TextDraw(torch.tensor(draw), 0)]
        wide = TextBatches(e, 3, 0.0, multiple)[TextDraw(torch.tensor(draw), 0)]
        n = plain["ids"].shape[1]
        assert wide["ids"].shape[1] == wide["segments"].shape[1] == width
        assert torch.equal(wide["lengths"], plain["lengths"])
        for name in ("ids", "segments"):
            assert torch.equal(wide[name][:, :n], plain[name]) and not wide[name][:, n:].any()
    with pytest.raises(DataError, match=r"data\.pad_to_multiple_of=0"):
        Pairs(pad_to_multiple_of=0)


# --- order and splits -----------------------------------------------------------------------------


def test_batches_are_of_like_lengths_and_an_epoch_shows_each_example_once():
    lengths = np.random.RandomState(0).randint(5, 300, 1000)
    sampler = LengthSampler(lengths, 16, seed=1)
    batches = [draw.index.numpy() for draw in sampler]
    rows = np.concatenate(batches)
    assert len(rows) == len(set(rows)) == len(sampler) * 16
    spread = np.mean([lengths[b].max() - lengths[b].min() for b in batches])
    assert spread < 0.1 * (lengths.max() - lengths.min())
    means = [lengths[b].mean() for b in batches]
    assert not (np.diff(means) >= 0).all()


@pytest.mark.parametrize("position", [0, 3, 11, 12, 20])
def test_resuming_at_any_step_and_on_any_number_of_ranks_draws_the_same(position):
    lengths = np.random.RandomState(0).randint(5, 300, 200)

    def epoch(sampler, position):
        sampler.position = position
        return list(sampler)

    plain = LengthSampler(lengths, 16, seed=1)
    whole = [draw for e in range(4) for draw in epoch(plain, e * len(plain))]
    again = epoch(LengthSampler(lengths, 16, seed=1), position)
    for a, b in zip(again, whole[position : position + len(plain)], strict=True):
        assert torch.equal(a.index, b.index) and a.epoch == b.epoch
    ranks = [epoch(LengthSampler(lengths, 8, 1, rank, 2), position) for rank in range(2)]
    for a, b, c in zip(*ranks, again, strict=True):
        assert torch.equal(torch.cat([a.index, b.index]), c.index)


def test_no_document_is_in_two_splits():
    examples = [Example(str(i), ("s",), (("t",),), document=str(i // 7)) for i in range(300)]
    splits = split_documents(examples, 30, 50)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(300))
    assert 30 <= len(splits["val"]) < 37 and 50 <= len(splits["test"]) < 57
    documents = [{examples[i].document for i in rows} for rows in splits.values()]
    assert not any(one & other for one, other in itertools.combinations(documents, 2))
    with pytest.raises(DataError, match=r"data\.num_val or data\.num_test"):
        split_documents(examples[:7], 1, 1)


def squad_file(path, articles=12):
    def article(i):
        context = " ".join(f"thing{i} number{j} is value{(i * 7 + j) % 30} ." for j in range(6))
        qas = [
            {
                "id": f"{i}-{j}",
                "question": f"number{j} ?",
                "answers": [{"text": f"value{(i * 7 + j) % 30}"}],
            }
            for j in range(6)
        ]
        return {"title": f"t{i}", "paragraphs": [{"context": context, "qas": qas}]}

    path.write_text(json.dumps({"data": [article(i) for i in range(articles)]}))
    return path


def test_files_of_their_own_make_splits_and_repeat_and_extra_only_train(tmp_path):
    one, two, three = (squad_file(tmp_path / f"{i}.json", n) for i, n in enumerate([12, 3, 2]))
    options = {"batch_size": 4, "num_val": 6, "num_test": 6}
    data = SquadJSON(path=str(one), test_path=str(two), extra_path=str(three), repeat=2, **options)
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [2 * 66 + 12, 6, 18]
    assert data.describe("train")["not_trained"] == 0
    same = SquadJSON(path=str(one), test_path=str(two), extra_path=str(three), repeat=2, **options)
    assert data.fingerprint() == same.fingerprint()
    assert data.fingerprint() != SquadJSON(path=str(one), **options).fingerprint()
    with pytest.raises(DataError, match=r"^data\.path: "):
        SquadJSON().setup()
    with pytest.raises(DataError, match=r"lower data\.batch_size"):
        SquadJSON(path=str(one), **options | {"batch_size": 400}).train_dataloader()
    for wrong in ({"repeat": 0}, {"no_answer": 1.0}, {"simplified": True}):
        with pytest.raises(DataError, match=f"data.{next(iter(wrong))}"):
            SquadJSON(path=str(one), **wrong)


def test_files_are_found_below_the_root_of_all_data(tmp_path, monkeypatch):
    squad_file(tmp_path / "s.json")
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    assert SquadJSON(path="s.json", num_val=6, num_test=6).examples("val")


def test_a_vocabulary_given_is_taken_and_one_built_is_the_same_again(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"source": text(i, i + 1), "target": text(i)}) + "\n" for i in range(40))
    )
    options = {"path": str(path), "num_val": 5, "num_test": 5, "batch_size": 4}
    assert Pairs(**options, vocab=str(tmp_path)).vocab_size == len(VOCAB)
    built = Pairs(**options, vocab_size=40)
    assert built.vocab_size <= 40
    batch = next(iter(built.train_dataloader()))
    assert batch["ids"].shape == batch["segments"].shape and batch["ids"].dtype == torch.int64
    other = Pairs(**options, vocab_size=40)
    other.setup()
    assert torch.equal(other.codec.content, built.codec.content)


def test_webqa_reads_its_list(tmp_path):
    path = tmp_path / "w.json"

    def entry(i):
        return {
            "id": str(i),
            "question": f"q{i}",
            "passages": [{"passage": f"a{i} b", "answer": f"a{i}"}],
        }

    path.write_text(json.dumps([entry(i) for i in range(20)]))
    data = WebQA(path=str(path), num_val=3, num_test=3, commas=True, batch_size=4)
    assert len(data.examples("train")) == 14
    assert next(iter(data.train_dataloader()))["segments"].any()


# --- a format of one's own ------------------------------------------------------------------------


class Dialogues(TextDataModule):
    """A dialogue a line, with tabs between turns."""

    name = "dialogues"

    def read_examples(self, path):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield str(number), partial(self.example, f"{path.name}:{number}", line)

    def example(self, id, line):
        *turns, answer = line.split("\t")
        if not turns:
            raise ValueError("expected two turns or more")
        return Example(id, (" ".join(turns),), ((answer,),), document=id)


def test_a_format_of_ones_own_is_one_method(tmp_path):
    path = tmp_path / "d.txt"
    lines = [f"hello {i}\thow are you\tfine {i}" for i in range(30)]
    path.write_text("\n".join([*lines, "alone"]))
    options = {"path": str(path), "num_val": 4, "num_test": 5, "batch_size": 4, "max_question": 0}
    with pytest.raises(DataError, match=r"d\.txt:31: .*data\.on_error=skip"):
        Dialogues(**options).setup()
    data = Dialogues(**options, on_error="skip")
    data.setup()
    assert isinstance(data, DataSet) and isinstance(data, HasExamples)
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [21, 4, 5]
    assert data.given("val") == {} and data.split_key("val") == "num_val" and data.skipped
    assert next(iter(data.train_dataloader()))["segments"].any()


# --- facts ----------------------------------------------------------------------------------------


def test_facts_are_exchanged_in_training_and_true_in_the_test():
    data = Facts(
        num_train=400,
        num_val=60,
        num_test=80,
        vocab_size=800,
        no_answer=0.2,
        max_source=128,
        max_target=48,
    )
    table = read_table()
    names = {name: row for rows in table.values() for name, row in rows.items()}
    assert {kind: len(rows) for kind, rows in table.items()} == {"country": 81, "element": 49}
    true = {}
    for split in ("train", "val", "test"):
        examples, is_true = data.examples(split), []
        assert 0.1 <= sum(not e.accepted for e in examples) / len(examples) <= 0.45
        assert {len(e.sources) for e in examples} == {1 if split == "train" else 2}
        for e in examples:
            name = max((n for n in names if n.lower() in e.question.lower()), key=len)
            answered = [(s, t[0]) for s, t in zip(e.sources, e.targets, strict=True) if t]
            assert len(answered) == bool(e.accepted)
            for source, target in answered:
                assert target in source
                if any(target == row[field] for row in names.values() for field in row):
                    is_true.append(target in names[name].values())
                else:  # all that is said
                    assert all(name.lower() in part.lower() for part in target.split(". "))
        true[split] = sum(is_true) / len(is_true)
    assert true["val"] == true["test"] == 1 and true["train"] < 0.5
    unknown = data.codec.tokenizer.unk_id
    sources = (source for sources in data.encoded("test").sources for source in sources)
    assert not any((source == unknown).any() for source in sources)
    assert len(data.encoded("train").rows) == 400
