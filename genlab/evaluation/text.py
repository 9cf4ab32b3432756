"""Every number about a text model, each beside what it was measured with."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

import torch

from genlab.metrics.overlap import bleu, cmrc_scores, is_wide, rouge_l, sogou_scores, squad_scores

__all__ = ["Judged", "comparable", "evaluate_texts", "judge", "without_answer"]

Progress = Callable[[str, int, int], None]


class Judged(NamedTuple):
    """results: {metric: {value, split, count, ...}}. rows: what was written to each example, for a
    table or file.
    """

    results: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]


def is_chinese(accepted: Sequence[Sequence[str]]) -> bool:
    """Whether most of the characters of the reference texts are CJK."""
    characters = [c for right in accepted for text in right for c in text if not c.isspace()]
    return 2 * sum(map(is_wide, characters)) > len(characters)


def comparable(tokenizer, examples: Sequence) -> list[list[str]]:
    """The accepted texts of each example as a model's vocabulary would write them, which is all
    that it can be right in.
    """
    return [[tokenizer.comparable(text) for text in example.accepted] for example in examples]


def judge(
    texts: Sequence[str], accepted: Sequence[Sequence[str]], question: bool, measure: str
) -> dict[str, float]:
    """The metrics of texts against their accepted ones: em, f1 (answers, by `measure`), else
    rouge_l.

    measure: squad, cmrc or sogou.
    """
    if not texts:
        return {}
    if not question:
        return {"rouge_l": fmean(map(rouge_l, texts, accepted))}
    score = {"squad": squad_scores, "cmrc": cmrc_scores, "sogou": sogou_scores}[measure]
    exact, f1 = zip(*map(score, texts, accepted), strict=True)
    return {"em": fmean(exact), "f1": fmean(f1)}


def without_answer(examples: Sequence) -> list:
    """The same questions, each with the passages of an example of another document, so that none
    has an answer.
    """
    other = []
    for i, example in enumerate(examples):
        there = (
            examples[(i + k) % len(examples)] for k in range(len(examples) // 2 + 1, len(examples))
        )
        foreign = next((e for e in there if e.document != example.document), None)
        if foreign is not None:
            other.append(
                replace(example, sources=foreign.sources, targets=((),) * len(foreign.sources))
            )
    return other


def evaluate_texts(
    system,
    data,
    *,
    split: str = "test",
    num: int | None = None,
    seed: int = 0,
    decoding: Any = None,
    measure: str | None = None,
    progress: Progress = lambda description, done, total: None,
) -> Judged:
    """What can be measured of a text system on the first `num` examples of `split` (null: all).

    measure: squad, cmrc or sogou, for answers; null: cmrc where the answers are Chinese, else
    squad. Texts are compared with accepted ones in the case, marks and spacing that the model's
    vocabulary has (`comparable`). Questions without an answer are counted apart, as
    no_answer_accuracy; where the split has none, its questions are asked about the passages of
    other documents.
    """
    examples = data.examples(split)[:num]
    if not examples:
        raise ValueError(f"split={split}: {data.name} has no examples there; choose another split")
    question = examples[0].question is not None
    answered = [e for e in examples if e.accepted]
    empty = [e for e in examples if not e.accepted]
    chinese = is_chinese([e.accepted for e in answered])
    measure = measure or ("cmrc" if chinese else "squad")

    def write(some: Sequence, what: str) -> list[str]:
        made = system.generate(
            some, decoding, seed=seed, progress=lambda done: progress(what, done, len(some))
        )
        return [one.texts[0] for one in made]

    start = time.monotonic()
    texts = write(answered, "answers" if question else "texts")
    seconds = time.monotonic() - start
    entry = {"split": split, "reference": None, "features": None, "seed": seed}
    entry |= {"decoding": "default" if decoding is None else str(decoding), "chinese": chinese}
    tokenizer = system.codec.tokenizer
    accepted = comparable(tokenizer, answered)
    values: dict[str, float] = judge(texts, accepted, question, measure)
    results = {
        name: {
            "value": value,
            "count": len(answered),
            **entry,
            "features": measure if question else None,
        }
        for name, value in values.items()
    }
    rows = [
        {
            "id": e.id,
            "source": e.sources[0],
            "question": e.question,
            "text": text,
            "accepted": list(e.accepted),
        }
        for e, text in zip(answered, texts, strict=True)
    ]
    if answered and question:
        results["f1"]["mean_of_em_and_f1"] = (values["em"] + values["f1"]) / 2
        rate = fmean(not text for text in texts)
        results["wrongly_unanswered"] = {"value": rate, "count": len(answered), **entry}
    elif answered:
        found = bleu(texts, accepted, chinese, tokenizer.lowercase)
        if found is not None:
            results["bleu"] = {
                "value": found[0],
                "count": len(answered),
                **entry,
                "features": found[1],
            }
    if question:
        made_up = not empty
        empty = empty or without_answer(examples)
        silent = write(empty, "questions without an answer")
        if silent:
            value = fmean(not text for text in silent)
            results["no_answer_accuracy"] = {
                "value": value,
                "count": len(silent),
                **entry,
                "foreign_passages": made_up,
            }
    name = "answers_per_second" if question else "texts_per_second"
    results[name] = {"value": len(answered) / max(seconds, 1e-9), "count": len(answered), **entry}
    return Judged(results | perplexity(system, data, split, entry), rows)


@torch.no_grad()
def perplexity(system, data, split: str, entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """exp of the mean negative log-probability of the target tokens, [SEP] among them, each with
    the right ones before.
    """
    total = count = 0.0
    for batch in data.loader(split):
        logits, tokens = system.predict(
            {name: value.to(system.device) for name, value in batch.items()}
        )
        total -= logits.log_softmax(1).gather(1, tokens[:, None]).double().sum().item()
        count += len(tokens)
    value = float(torch.tensor(total / count).exp()) if count else float("nan")
    return {
        "perplexity": {
            "value": value,
            **entry,
            "count": int(count),
            "unit": "tokens of the whole split",
        }
    }
