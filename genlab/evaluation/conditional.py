"""The numbers of a conditional text model, each beside what it was measured with.

Shapes: N examples; F fields of labels; W numbers of a condition vector.
"""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from genlab.data.base import HasClassWords
from genlab.evaluation.base import Measured, Progress, Results, Settings
from genlab.evaluation.text import (
    Judged,
    comparable,
    is_chinese,
    judge,
    text_files,
    write_texts,
)
from genlab.metrics.diversity import copy_rate, distinct, ngram_copy_rate, self_bleu
from genlab.metrics.overlap import bleu
from genlab.metrics.poems import EXTRA, has_form, is_form, rhyme_agreement, rhymes
from genlab.metrics.text_classifier import accuracies, load_text_classifier, pad_texts
from genlab.systems.base import HasConditions

__all__ = ["ConditionalTexts", "evaluate_conditional"]

SAMPLES = 1000  # texts written at most
FEW = 12  # values of a field for bayes_accuracy at most: each costs a pass over the split


class ConditionalTexts:
    """Perplexities, control, variety and copies of a conditional text model; see
    `evaluate_conditional`.

    Writes texts.jsonl (each text beside its labels and the accepted texts).
    """

    def fits(self, system: Any) -> bool:
        """Whether `system` writes texts under a condition."""
        return isinstance(system, HasConditions)

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_conditional`."""
        judged = evaluate_conditional(system, data, settings)
        return Measured(judged.results, text_files(judged))


def evaluate_conditional(system: Any, data: Any, settings: Settings) -> Judged:
    """Measures a conditional text model on the first examples of the held-out split.

    At most 1,000 texts are written, under the conditions of these examples. With labels:
    perplexities with and without the labels; bayes_accuracy, how often a real text is likeliest
    under its own label; control_accuracy, how often a separately trained classifier reads the label
    back from a text; distinct-n, self-BLEU and copies; of poems form and rhyme. With a source or an
    image also ROUGE-L and BLEU against the accepted texts, and whether the word of the image's
    class is there.

    Args:
        system: HasConditions of genlab.systems.base.
        data: Conditional text data, set up.
        settings: Of them split, num, seed, decoding and progress count here.

    Raises:
        ValueError: The split has no examples.
    """
    split = settings.split
    examples = data.examples(split)[: settings.num or None]
    if not examples:
        raise ValueError(f"split={split}: {data.name} has no examples there; choose another split")
    rows = torch.arange(len(examples))
    given = {name: values[rows] for name, values in data.given(split).items()}
    entry = {"split": split, "reference": None, "features": None, "seed": settings.seed}
    results = perplexities(system, data, split, examples, given, entry, settings.progress)

    some = min(len(examples), SAMPLES)
    start = time.monotonic()
    own = {name: values[:some] for name, values in given.items()}
    texts = write_texts(system, settings, examples[:some], "texts", given=own)
    seconds = time.monotonic() - start
    entry |= {
        "count": some,
        "decoding": "default" if settings.decoding is None else str(settings.decoding),
    }
    values: dict[str, float] = {}
    tokenizer = system.codec.tokenizer
    accepted = comparable(tokenizer, examples[:some])
    if not system.writes_freely or "image" in given:
        values |= judge(texts, accepted, False, "")
        found = bleu(texts, accepted, is_chinese(accepted), tokenizer.lowercase)
        if found is not None:
            value, signature = found
            results["bleu"] = {"value": value, **entry, "features": signature}
    if isinstance(data, HasClassWords) and data.words:
        pairs = zip(texts, examples, strict=False)
        hits = [says(text, example.labels[0], data.words) for text, example in pairs]
        values["label_word_accuracy"] = sum(hits) / some
    if "labels" in given:
        results |= control(system, data, texts, examples, given["labels"], entry)
        results |= poem_metrics(data, texts, examples, entry)
    training = [tokenizer.comparable(e.targets[0][0]) for e in data.examples("train")]
    values |= {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "self_bleu": self_bleu(texts),
        "copied_texts": copy_rate(texts, training),
        "copied_6grams": ngram_copy_rate(texts, training),
        "texts_per_second": some / max(seconds, 1e-9),
    }
    # NaN: not defined for these texts
    results |= {name: {"value": value, **entry} for name, value in values.items() if value == value}
    lines = [
        {
            "id": example.id,
            "labels": list(example.labels),
            "text": text,
            "accepted": list(example.accepted),
        }
        for example, text in zip(examples, texts, strict=False)
    ]
    return Judged(results, lines)


def perplexities(
    system: Any,
    data: Any,
    split: str,
    examples: list,
    given: dict[str, Tensor],
    entry: dict[str, Any],
    progress: Progress,
) -> Results:
    """perplexity of each text under its own condition and without one, perplexity <field>=<value>
    of the texts with each value, and bayes_accuracy <field>, of fields with few values.
    """
    total = len(examples)
    # The whole split's batches, as many as hold the examples
    batches = list(data.loader(split))
    batches = batches[: -(-total // len(batches[0]["ids"]))]
    counts = torch.cat([(batch["segments"] == 1).sum(1) for batch in batches])[:total].double()

    def score(description: str, conditions: Tensor | None = None) -> Tensor:
        """log p (N, number of conditions) in nats; under the own conditions (N, 1)."""
        parts = []
        for i, batch in enumerate(batches):
            parts.append(system.score([batch], conditions))
            progress(description, i + 1, len(batches))
        return torch.cat(parts)[:total]

    def perplexity(log_p: Tensor, rows: Tensor | slice = slice(None)) -> dict[str, Any]:
        value = (-log_p[rows].sum() / counts[rows].sum()).exp().item()
        return {"value": value, **entry, "count": int(counts[rows].sum()), "unit": "tokens"}

    own = score("perplexity")[:, 0]
    results = {"perplexity": perplexity(own)}
    if system.condition_dropout:
        free = score("perplexity without a condition", system.condition.free(1).detach())[:, 0]
        results["perplexity_free"] = perplexity(free)
    if "labels" not in given:
        return results
    fields = system.condition.values
    for i, (field, names) in enumerate(fields.items()):
        labels = given["labels"][:, i]
        if len(names) > FEW:
            continue
        for place, name in enumerate(names):
            if (labels == place).any():
                results[f"perplexity {field}={name}"] = perplexity(own, labels == place)
        known = labels >= 0
        if not known.any() or (len(fields) > 1 and not system.condition_dropout):
            continue  # a label by itself was never seen in training
        wanted = torch.full((len(names), len(fields)), -1)
        wanted[:, i] = torch.arange(len(names))
        log_p = score(f"texts under each {field}", system.conditions({"labels": wanted}))
        value = (log_p[known].argmax(1) == labels[known]).double().mean().item()
        about = {"count": int(known.sum()), "chance": max_share(labels[known]), "prior": "uniform"}
        results[f"bayes_accuracy {field}"] = {"value": value, **entry, **about}
    return results


def max_share(labels: Tensor) -> float:
    """The accuracy of always predicting the most frequent of labels (N,)."""
    return labels.unique(return_counts=True)[1].max().item() / len(labels)


def control(
    system: Any,
    data: Any,
    texts: list[str],
    examples: list,
    labels: Tensor,
    entry: dict[str, Any],
) -> Results:
    """control_accuracy <field>: how often a classifier of the training texts reads the label back,
    beside how often it does from the real texts.

    Args:
        system: Its codec has the tokenizer, its condition the fields.
        data: Has the training texts.
        texts: Written under the first rows of `labels`.
        examples: Have the real texts.
        labels: (N, F), -1 where one is not known.
        entry: What all entries hold.
    """
    tokenizer = system.codec.tokenizer
    network = load_text_classifier(data, tokenizer)
    real = [e.targets[0][0] for e in examples]
    written_ids, real_ids = (
        pad_texts(some, tokenizer, data.codec.max_target) for some in (texts, real)
    )
    of_written = accuracies(network, written_ids, labels[: len(texts)])
    of_real = accuracies(network, real_ids, labels)
    found = {}
    rows = zip(system.condition.values, of_written, of_real, labels.T, strict=True)
    for field, (value, count), (reference, _), own in rows:
        if count:
            about = {
                "of_real_texts": reference,
                "chance": max_share(own[own >= 0]),
                "features": "text classifier",
            }
            found[f"control_accuracy {field}"] = {"value": value, **entry, "count": count, **about}
    return found


def poem_metrics(data: Any, texts: list[str], examples: list, entry: dict[str, Any]) -> Results:
    """form_accuracy and rhyme_agreement, where one of the fields is a form."""
    fields = [i for i, names in enumerate(data.label_values.values()) if all(map(is_form, names))]
    if not fields:
        return {}
    forms = [e.labels[fields[0]] for e in examples]
    real = [e.targets[0][0] for e in examples]
    hits = [has_form(text, form) for text, form in zip(texts, forms, strict=False)]
    about = {"of_real_texts": sum(map(has_form, real, forms)) / len(real)}
    found = {"form_accuracy": {"value": sum(hits) / len(hits), **entry, **about}}
    if find_spec("pypinyin") is None:
        print(f"rhymes are not measured: {EXTRA}")
        return found
    of = rhymes()
    value = rhyme_agreement(texts, of)
    if value == value:
        about = {
            "of_real_texts": rhyme_agreement(real, of),
            "features": "pypinyin, Mandarin rhymes",
        }
        found["rhyme_agreement"] = {"value": value, **entry, **about}
    return found


def says(text: str, word: str, words: Sequence[str]) -> bool:
    """Whether the text has this one of `words`, and no other."""

    def spaced(part: str) -> str:
        letters = "".join(c if c.isalnum() else " " for c in part.lower())
        return f" {' '.join(letters.split())} "

    return [other for other in words if spaced(other) in spaced(text)] == [word]
