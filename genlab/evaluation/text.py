"""The numbers of a text model that rewrites sources or answers questions, each beside what it was
measured with.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from genlab.evaluation.base import Measured, Results, Settings
from genlab.files import write_text
from genlab.metrics.overlap import (
    bleu,
    cmrc_scores,
    is_wide,
    rouge_l,
    sogou_scores,
    squad_scores,
)
from genlab.systems.base import Generates, HasConditions, Pretrained

__all__ = [
    "Judged",
    "Texts",
    "comparable",
    "evaluate_texts",
    "is_chinese",
    "judge",
    "text_files",
    "without_answer",
    "write_texts",
]


class Texts:
    """What is written to sources, compared with accepted texts: ROUGE-L and BLEU; answers: exact
    match and F1.

    Writes texts.jsonl (each text beside the accepted ones).
    """

    def fits(self, system: Any) -> bool:
        """Whether `system` writes texts to sources."""
        other = isinstance(system, Pretrained | HasConditions)
        return isinstance(system, Generates) and not other

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_texts`."""
        judged = evaluate_texts(system, data, settings)
        return Measured(judged.results, text_files(judged))


class Judged(NamedTuple):
    """What an evaluation of texts found.

    Attributes:
        results: {metric: {value, split, count, ...}}.
        rows: What was written to each example, for a table or file.
    """

    results: Results
    rows: list[dict[str, Any]]


def text_files(judged: Judged) -> dict[str, Callable[[Path], Any]]:
    """texts.jsonl, the rows as JSON lines; says where BLEU is missing."""
    if "bleu" not in judged.results and "rouge_l" in judged.results:
        print("BLEU is not measured: pip install 'genlab[text]' for sacrebleu", file=sys.stderr)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in judged.rows)
    return {"texts.jsonl": partial(write_text, text=lines)}


def is_chinese(accepted: Sequence[Sequence[str]]) -> bool:
    """Whether most of the characters of the reference texts are CJK."""
    characters = [c for texts in accepted for text in texts for c in text if not c.isspace()]
    return 2 * sum(map(is_wide, characters)) > len(characters)


def comparable(tokenizer: Any, examples: Sequence) -> list[list[str]]:
    """The accepted texts of each example as a model's vocabulary would write them: a model cannot
    write them in any other way.
    """
    return [[tokenizer.comparable(text) for text in example.accepted] for example in examples]


def judge(
    texts: Sequence[str], accepted: Sequence[Sequence[str]], question: bool, measure: str
) -> dict[str, float]:
    """The metrics of texts against their accepted ones, each in [0, 1].

    Args:
        texts: What was written.
        accepted: The references of each text.
        question: Whether the texts are answers.
        measure: Of answers: squad, cmrc or sogou.

    Returns:
        em and f1 of answers, else rouge_l; nothing without texts.
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
    count = len(examples)
    for i, example in enumerate(examples):
        # From half the set away on, since neighbours often come from one document
        candidates = (examples[(i + k) % count] for k in range(count // 2 + 1, count))
        foreign = next((e for e in candidates if e.document != example.document), None)
        if foreign is not None:
            targets = ((),) * len(foreign.sources)
            other.append(replace(example, sources=foreign.sources, targets=targets))
    return other


def write_texts(
    system: Any,
    settings: Settings,
    examples: Sequence,
    description: str,
    **given: Any,
) -> list[str]:
    """The best text that `system` writes to each of `examples`.

    Args:
        system: Generates of genlab.systems.base.
        settings: Its decoding, seed and progress count here.
        examples: Of the data's split.
        description: For the progress.
        given: given={...}, the conditions of the examples, for a system that takes them.
    """
    written = system.generate(
        examples,
        settings.decoding,
        seed=settings.seed,
        progress=lambda done: settings.progress(description, done, len(examples)),
        **given,
    )
    return [one.texts[0] for one in written]


def evaluate_texts(system: Any, data: Any, settings: Settings) -> Judged:
    """Measures a text system on the first examples of the held-out split.

    Texts are compared with accepted ones in the case, marks and spacing that the model's vocabulary
    has (`comparable`). Questions without an answer are counted apart, as no_answer_accuracy; where
    the split has none, its questions are asked about the passages of other documents.

    Args:
        system: Generates of genlab.systems.base.
        data: Text data, set up.
        settings: Of them split, num, seed, decoding, measure and progress count here.

    Raises:
        ValueError: The split has no examples.
    """
    split = settings.split
    examples = data.examples(split)[: settings.num]
    if not examples:
        raise ValueError(f"split={split}: {data.name} has no examples there; choose another split")
    question = examples[0].question is not None
    answered = [e for e in examples if e.accepted]
    empty = [e for e in examples if not e.accepted]
    chinese = is_chinese([e.accepted for e in answered])
    measure = settings.measure or ("cmrc" if chinese else "squad")

    start = time.monotonic()
    texts = write_texts(system, settings, answered, "answers" if question else "texts")
    seconds = time.monotonic() - start
    count = len(answered)
    entry = {
        "split": split,
        "reference": None,
        "features": None,
        "seed": settings.seed,
        "decoding": "default" if settings.decoding is None else str(settings.decoding),
        "chinese": chinese,
    }
    tokenizer = system.codec.tokenizer
    accepted = comparable(tokenizer, answered)
    values = judge(texts, accepted, question, measure)
    about = {"count": count, **entry, "features": measure if question else None}
    results: Results = {name: {"value": value, **about} for name, value in values.items()}
    rows = [
        {
            "id": example.id,
            "source": example.sources[0],
            "question": example.question,
            "text": text,
            "accepted": list(example.accepted),
        }
        for example, text in zip(answered, texts, strict=True)
    ]
    if answered and question:
        results["f1"]["mean_of_em_and_f1"] = (values["em"] + values["f1"]) / 2
        rate = fmean(not text for text in texts)
        results["wrongly_unanswered"] = {"value": rate, "count": count, **entry}
    elif answered:
        found = bleu(texts, accepted, chinese, tokenizer.lowercase)
        if found is not None:
            value, signature = found
            results["bleu"] = {"value": value, "count": count, **entry, "features": signature}
    if question:
        foreign = not empty
        empty = empty or without_answer(examples)
        silent = write_texts(system, settings, empty, "questions without an answer")
        if silent:
            results["no_answer_accuracy"] = {
                "value": fmean(not text for text in silent),
                "count": len(silent),
                **entry,
                "foreign_passages": foreign,
            }
    name = "answers_per_second" if question else "texts_per_second"
    results[name] = {"value": count / max(seconds, 1e-9), "count": count, **entry}
    return Judged(results | perplexity(system, data, split, entry), rows)


@torch.no_grad()
def perplexity(system: Any, data: Any, split: str, entry: dict[str, Any]) -> Results:
    """exp of the mean negative log-probability of the target tokens, [SEP] among them, each given
    the right ones before it.
    """
    total = count = 0.0
    for batch in data.loader(split):
        inputs = {name: value.to(system.device) for name, value in batch.items()}
        logits, tokens = system.predict(inputs)
        total -= logits.log_softmax(1).gather(1, tokens[:, None]).double().sum().item()
        count += len(tokens)
    value = float(torch.tensor(total / count).exp()) if count else float("nan")
    unit = "tokens of the whole split"
    return {"perplexity": {"value": value, **entry, "count": int(count), "unit": unit}}
