"""Raw text to packed rows: nothing lost and nothing twice, interrupted or not, by any process."""

import gzip
import json
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from genlab.data.corpus.corpus import Corpus, RowDraw, RowSampler
from genlab.data.corpus.documents import read_documents
from genlab.data.corpus.shards import Writer, chunks, prepare
from genlab.data.text.tokenizer import Tokenizer
from genlab.errors import DataError
from genlab.seeds import permute

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB += [f"w{i}" for i in range(50)]
VOCAB += ["##s", "北", "京", "大", "学", "在", "."]


def texts(count=60, seed=0) -> list[str]:
    random = np.random.RandomState(seed)
    rows = []
    for i in range(count):
        words = random.randint(0, 50, random.randint(1, 30))
        rows.append(" ".join(f"w{word}" for word in words) + f" w{i % 50}s")
    return rows


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))


def corpus(tmp_path, vocab, documents=None, **options) -> Corpus:
    path = tmp_path / "corpus.txt"
    if not path.exists():
        path.write_text("\n\n".join(documents or texts()), encoding="utf-8")
    sizes = {"max_length": 16, "batch_size": 4, "val_fraction": 0.1, "test_fraction": 0.1}
    return Corpus(**{"path": str(path), "vocab": vocab, **sizes, **options})


# --- documents ------------------------------------------------------------------------------------


def test_documents_come_out_of_every_kind_of_file(tmp_path):
    import zstandard

    plain = "first line\nsecond line\n\n\nanother 文\n \nlast"
    expected = ["first line\nsecond line", "another 文", "last"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in expected)
    for suffix, content in ((".txt", plain), (".jsonl", lines)):
        (tmp_path / f"a{suffix}").write_bytes(content.encode())
        (tmp_path / f"a{suffix}.gz").write_bytes(gzip.compress(content.encode()))
        (tmp_path / f"a{suffix}.zst").write_bytes(
            zstandard.ZstdCompressor().compress(content.encode())
        )
        for end in ("", ".gz", ".zst"):
            assert list(read_documents(tmp_path / f"a{suffix}{end}")) == expected


def test_a_document_without_end_comes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("genlab.data.corpus.documents.LONGEST", 50)
    content = "".join(f"line {i:02d}\n" for i in range(20)) + "x" * 120
    (tmp_path / "a.txt").write_text(content)
    parts = list(read_documents(tmp_path / "a.txt"))
    assert max(map(len, parts)) <= 50
    assert "".join("".join(parts).split()) == "".join(content.split())


def test_bad_files_and_lines_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"other": 1}\n{"text": 2}\nno json\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*'text'.*data\.on_error=skip"):
        list(read_documents(tmp_path / "a.jsonl"))
    skipped = []
    assert list(read_documents(tmp_path / "a.jsonl", on_error="skip", skipped=skipped)) == ["good"]
    assert [place.rpartition(":")[2] for place, _ in skipped] == ["2", "3", "4"]
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"some text " * 5000)[:-20])
    with pytest.raises(DataError, match=r"b\.txt\.gz: .*EOFError"):
        list(read_documents(tmp_path / "b.txt.gz"))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"c\.txt:1: "):
        list(read_documents(tmp_path / "c.txt"))


# --- shards ---------------------------------------------------------------------------------------


def all_tokens(shards, split="train") -> list[int]:
    stream = shards.stream(split)
    return (stream[0 : len(stream)] >> 1).tolist()


def test_what_is_stored_is_what_the_tokenizer_says(tmp_path):
    tokenizer, documents = Tokenizer(VOCAB), texts()
    shards = prepare(tmp_path / "a", lambda: iter(documents), tokenizer, characters=300)
    assert len(shards.files) > 5
    plain = tokenizer.plain(documents)
    expected = [i for ids in plain for i in (tokenizer.cls_id, *ids, tokenizer.sep_id)]
    assert all_tokens(shards) == expected
    stream = shards.stream("train")
    # Within one shard and over several.
    for start, stop in ((0, 1), (3, 500), (len(stream) - 4, len(stream) + 9)):
        assert (stream[start:stop] >> 1).tolist() == expected[start:stop]
    assert shards.total("documents", "train") == 60
    assert shards.total("tokens", "train") == len(stream)


def test_an_interrupted_preparation_goes_on(tmp_path, monkeypatch):
    tokenizer, documents, written = Tokenizer(VOCAB), texts(), []
    original = Writer.write

    def write(self, file, some):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(file.name)
        original(self, file, some)

    monkeypatch.setattr(Writer, "write", write)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "a", lambda: iter(documents), tokenizer, characters=300)
    (tmp_path / "a" / "00001.tokens").write_bytes(b"cut")  # as a crash of the machine may leave it
    again = []

    def note(self, file, some):
        again.append(file.name)
        original(self, file, some)

    monkeypatch.setattr(Writer, "write", note)
    shards = prepare(tmp_path / "a", lambda: iter(documents), tokenizer, characters=300)
    assert again[:2] == ["00001.tokens", "00004.tokens"] and not set(again[1:]) & set(written)
    whole = prepare(tmp_path / "b", lambda: iter(documents), tokenizer, characters=300)
    assert shards.sha256 == whole.sha256
    again.clear()
    assert prepare(tmp_path / "a", lambda: iter(()), tokenizer).sha256 == whole.sha256 and not again


def test_several_processes_make_the_same_shards(tmp_path):
    documents = texts()

    def made(processes):
        sizes = {"processes": processes, "characters": 500}
        return prepare(
            tmp_path / str(processes), lambda: iter(documents), Tokenizer(VOCAB), **sizes
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert made(2).sha256 == made(1).sha256


def test_words_start_where_spaces_and_jieba_say():
    pytest.importorskip("jieba")
    text = "北京大学 w1s w2"  # one word for jieba
    starts = {}
    for words in ("pieces", "spaces", "jieba"):
        (tokens,) = Writer(Tokenizer(VOCAB).state(), words, {}).tokens([text])
        assert [VOCAB[i] for i in tokens >> 1] == ["[CLS]", *"北京大学", "w1", "##s", "w2", "[SEP]"]
        starts[words] = (tokens & 1).tolist()
    assert starts["pieces"] == [1] * 9
    assert starts["spaces"] == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert starts["jieba"] == [1, 1, 0, 0, 0, 1, 0, 1, 1]


def test_chunks_hold_every_document_once():
    documents = texts()
    for size in (1, 100, 10**9):
        made = list(chunks(documents, size))
        assert [text for chunk in made for text in chunk] == documents


# --- the order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 4097])
def test_the_shuffle_is_a_permutation(count):
    for key in range(5):
        assert sorted(permute(np.arange(count), count, key).tolist()) == list(range(count))


def test_the_shuffle_looks_like_chance():
    count, keys = 50, 4000
    places = np.stack([permute(np.arange(count), count, key) for key in range(keys)])
    seen = np.stack([(places == row).sum(0) for row in range(count)])  # (row, place)
    chi2 = ((seen - keys / count) ** 2 / (keys / count)).sum()
    degrees = (count - 1) ** 2
    assert abs(chi2 - degrees) < 5 * (2 * degrees) ** 0.5
    neighbours = (np.diff(places, axis=1) == 1).mean()  # 1 / count of a random permutation
    assert abs(neighbours - 1 / count) < 5 * (1 / count / (keys * (count - 1))) ** 0.5


@pytest.mark.parametrize(
    ("count", "batch", "world"), [(50, 4, 1), (50, 4, 3), (7, 4, 3), (64, 8, 2)]
)
def test_an_epoch_has_every_row_once_for_any_number_of_processes(count, batch, world):
    samplers = [
        RowSampler(count, batch, seed=3, rank=rank, world_size=world) for rank in range(world)
    ]
    steps = -(-5 * count // (batch * world))
    drawn: dict[int, list[int]] = {}
    for step in range(steps):
        for sampler in samplers:
            sampler.position = step
            draw = next(iter(sampler))
            for row, epoch in zip(draw.index.tolist(), draw.epochs.tolist(), strict=True):
                drawn.setdefault(epoch, []).append(row)
    for epoch in range(5):
        assert sorted(drawn[epoch]) == list(range(count))
    assert count < 8 or drawn[0] != drawn[1]


def test_the_processes_together_draw_what_one_would():
    one = list(RowSampler(50, 12, seed=3))
    three = [list(RowSampler(50, 4, seed=3, rank=rank, world_size=3)) for rank in range(3)]
    for step, draw in enumerate(one):
        assert torch.equal(draw.index, torch.cat([draws[step].index for draws in three]))
        assert torch.equal(draw.epochs, torch.cat([draws[step].epochs for draws in three]))


# --- rows -----------------------------------------------------------------------------------------


def lengths(batch) -> list[int]:
    """Of each row."""
    ids = batch["ids"]
    return batch.get("lengths", torch.full((len(ids),), ids.shape[1])).tolist()


def test_rows_hold_every_token_once_in_order(tmp_path, vocab):
    data = corpus(tmp_path, vocab)
    for split in ("train", "val", "test"):
        rows = data.rows(split)
        found = []
        for i in range(len(rows)):
            batch = rows[RowDraw(torch.tensor([i]))]
            (ids,), (length,) = batch["ids"].tolist(), lengths(batch)
            assert ids[0] == data.tokenizer.cls_id and ids[length:] == [0] * (16 - length)
            assert length == 16 or i == len(rows) - 1
            assert ("lengths" in batch) == (length < 16)  # of full rows there is nothing to say
            found += ids[1:length]
        assert found == all_tokens(data._shards[split], split)
    documents = [data.describe(split)["documents"] for split in ("train", "val", "test")]
    assert sum(documents) == 60 and min(documents) > 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_no_token_is_lost_or_seen_twice_in_an_epoch(tmp_path, vocab, workers, world):
    """Two epochs through the loaders themselves, as each process would have them."""
    from genlab.data.loader import StepLoader

    data = corpus(tmp_path, vocab)
    rows = data.rows("train")
    count, steps = len(rows), -(-2 * len(rows) // (4 * world))
    seen: Counter = Counter()
    for rank in range(world):
        sampler = RowSampler(count, 4, 1, rank, world)
        position = [0]
        loader = StepLoader(rows, sampler, lambda p=position: p[0], workers)
        step = 0
        while step < steps:
            position[0] = step
            for batch in loader:
                if step == steps:
                    break
                for i, (ids, length) in enumerate(
                    zip(batch["ids"].tolist(), lengths(batch), strict=True)
                ):
                    if (step * world + rank) * 4 + i < 2 * count:
                        seen.update([tuple(ids[1:length])])
                step += 1
    expected = Counter()
    for i in range(count):
        batch = rows[RowDraw(torch.tensor([i]))]
        expected[tuple(batch["ids"][0, 1 : lengths(batch)[0]].tolist())] += 2
    assert seen == expected


def test_a_rows_keys_are_those_of_its_epoch_and_place(tmp_path, vocab):
    rows = corpus(tmp_path, vocab).rows("train")
    static = corpus(tmp_path, vocab, masks=2).rows("train")

    def keys(rows, row, epoch):
        epochs = None if epoch is None else torch.tensor([epoch])
        return int(rows[RowDraw(torch.tensor([row]), epochs)]["keys"])

    assert len({keys(rows, row, epoch) for row in range(5) for epoch in (None, *range(6))}) == 35
    assert keys(rows, 1, None) == keys(rows, 1, None)
    first, second, third = ([keys(static, 1, e) for e in (i, i + 1)] for i in (0, 2, 4))
    assert first == second == third
    assert keys(static, 1, 0) != keys(static, 1, 1)
    other = corpus(tmp_path, vocab, seed=2)
    assert keys(other.rows("train"), 1, 0) != keys(rows, 1, 0)
    assert keys(other.rows("val"), 1, None) == keys(corpus(tmp_path, vocab).rows("val"), 1, None)


def test_documents_of_a_row_are_numbered(tmp_path, vocab):
    data = corpus(tmp_path, vocab, pack="isolated")
    batch = data.rows("train")[RowDraw(torch.arange(10))]
    for ids, documents in zip(batch["ids"].tolist(), batch["documents"].tolist(), strict=True):
        number = -1
        for i, document in zip(ids, documents, strict=True):
            number += i == data.tokenizer.cls_id
            assert document == number
    assert "documents" not in corpus(tmp_path, vocab).rows("train")[RowDraw(torch.arange(3))]


def test_copies_of_a_text_are_in_one_split(tmp_path, vocab):
    data = corpus(tmp_path, vocab, texts(30) * 3, val_fraction=0.2, test_fraction=0.2)
    assert all(data.describe(split)["documents"] % 3 == 0 for split in ("train", "val", "test"))


# --- the data module ------------------------------------------------------------------------------


def test_files_are_found_by_patterns_and_have_their_own_splits(tmp_path, vocab):
    for i, part in enumerate(("a b", "c d", "e f")):
        (tmp_path / f"part{i}.txt").write_text(f"{part} w1 w2 w3")
    data = Corpus(
        [str(tmp_path / "part[01].txt")],
        str(tmp_path / "part2.txt"),
        root=str(tmp_path),
        vocab=vocab,
        test_fraction=0.0,
    )
    assert [f.name for f in data.files("train")] == ["part0.txt", "part1.txt"]
    assert [data.describe(split)["documents"] for split in ("train", "val", "test")] == [2, 1, 0]
    with pytest.raises(DataError, match=r"data\.path=.*none"):
        Corpus(str(tmp_path / "none*.txt"), vocab=vocab).setup()
    with pytest.raises(DataError, match=r"^data\.path: "):
        Corpus(vocab=vocab).setup()


def test_the_fingerprint_is_of_text_vocabulary_and_settings(tmp_path, vocab):
    first = corpus(tmp_path, vocab).fingerprint()
    assert corpus(tmp_path, vocab).fingerprint() == first
    changes = ({"max_length": 17}, {"pack": "isolated"}, {"words": "pieces"}, {"masks": 3})
    for options in (*changes, {"val_fraction": 0.2}):
        assert corpus(tmp_path, vocab, **options).fingerprint() != first, options
    (tmp_path / "other.txt").write_text("\n".join(VOCAB + ["new"]) + "\n", encoding="utf-8")
    assert corpus(tmp_path, str(tmp_path / "other.txt")).fingerprint() != first
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts(seed=1)))
    assert corpus(tmp_path, vocab).fingerprint() != first


def test_a_vocabulary_is_built_once_of_the_text(tmp_path, monkeypatch):
    documents = ["low lower lowest newer newest wider " * n for n in range(1, 21)]
    data = corpus(tmp_path, None, documents, vocab_size=60)
    assert data.vocab_size <= 60 and data.tokenizer.mask_id is not None
    assert "[UNK]" not in data.tokenizer.tokenize("low lower lowest newest")
    monkeypatch.setattr("genlab.data.corpus.corpus.build_vocab", None)
    assert corpus(tmp_path, None, vocab_size=60).vocab_size == data.vocab_size


def test_settings_without_meaning_are_refused(tmp_path, vocab):
    for wrong, key in (
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 4}, "max_length"),
        ({"masks": 0}, "masks"),
        ({"pack": "tight"}, "pack"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction"),
        ({"vocab": None, "simplified": True}, "simplified"),
    ):
        with pytest.raises(DataError, match=f"data.{key}"):
            corpus(tmp_path, **{"vocab": vocab} | wrong)
    with pytest.raises(DataError, match=r"data\.words"):
        corpus(tmp_path, vocab, words="syllables").setup()
    with pytest.raises(DataError, match="input="):
        corpus(tmp_path, vocab).examples("test")
