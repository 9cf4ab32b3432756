"""Every number about a text model under a condition, each beside what it was measured with."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from genlab.evaluation.text import Judged, comparable, is_chinese, judge
from genlab.metrics.diversity import copied, copied_ngrams, distinct, self_bleu
from genlab.metrics.overlap import bleu
from genlab.metrics.poems import EXTRA, has_form, is_form, rhyme_agreement, rhymes
from genlab.metrics.text_classifier import accuracies, padded, trained_text_classifier

__all__ = ["evaluate_conditional"]

SAMPLES = 1000  # texts written at most
# values of a field that are told apart by Bayes' rule, each of which costs a pass over the split
FEW = 12
Progress = Callable[[str, int, int], None]


def evaluate_conditional(
    system,
    data,
    *,
    split: str = "test",
    num: int | None = None,
    seed: int = 0,
    decoding: Any = None,
    progress: Progress = lambda description, done, total: None,
) -> Judged:
    """What can be measured of a Conditional on the first `num` examples of `split`, and on at most
    1,000 texts of its own.

    Its texts are written under the conditions of these examples. Under labels: perplexities, with
    the labels and without; bayes_accuracy, of the label under which a real text is likeliest;
    control_accuracy, of a separately trained classifier that reads the labels back from the texts;
    distinct-n, self-BLEU and copies, for poems form and rhyme. To a source and under images also
    ROUGE-L and BLEU against what is right, and whether the word of the image's class is there.
    """
    examples = data.examples(split)[: num or None]
    if not examples:
        raise ValueError(f"split={split}: {data.name} has no examples there; choose another split")
    given = {
        name: values[torch.arange(len(examples))] for name, values in data.given(split).items()
    }
    entry = {"split": split, "reference": None, "features": None, "seed": seed}
    results = perplexities(system, data, split, examples, given, entry, progress)

    some = min(len(examples), SAMPLES)
    start = time.monotonic()
    made = system.generate(examples[:some], decoding, {name: values[:some] for name, values in given.items()}, seed=seed,
                           progress=lambda done: progress("texts", done, some))  # fmt: skip
    seconds = time.monotonic() - start
    texts = [one.texts[0] for one in made]
    entry |= {"count": some, "decoding": "default" if decoding is None else str(decoding)}
    values: dict[str, float] = {}
    tokenizer = system.codec.tokenizer
    accepted = comparable(tokenizer, examples[:some])
    if not system.writes_freely or "image" in given:
        values |= judge(texts, accepted, False, "")
        found = bleu(texts, accepted, is_chinese(accepted), tokenizer.lowercase)
        results |= (
            {} if found is None else {"bleu": {"value": found[0], **entry, "features": found[1]}}
        )
    if getattr(data, "words", None):
        right = [
            says(text, e.labels[0], data.words) for text, e in zip(texts, examples, strict=False)
        ]
        values["label_word_accuracy"] = sum(right) / some
    if "labels" in given:
        results |= control(system, data, texts, examples, given["labels"], entry)
        results |= poem_metrics(data, texts, examples, entry)
    training = [tokenizer.comparable(e.targets[0][0]) for e in data.examples("train")]
    values |= {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "self_bleu": self_bleu(texts),
    }
    values |= {
        "copied_texts": copied(texts, training),
        "copied_6grams": copied_ngrams(texts, training),
    }
    values["texts_per_second"] = some / max(seconds, 1e-9)
    results |= {name: {"value": value, **entry} for name, value in values.items() if value == value}
    rows = [{"id": e.id, "labels": list(e.labels), "text": text, "accepted": list(e.accepted)}
            for e, text in zip(examples, texts, strict=False)]  # fmt: skip
    return Judged(results, rows)


def perplexities(
    system,
    data,
    split: str,
    examples: list,
    given: dict[str, Tensor],
    entry: dict,
    progress: Progress,
) -> dict:
    """perplexity under the own condition and without one, for each value of a field of few, and
    bayes_accuracy of those.
    """
    total = len(examples)
    # The whole split's batches, cut to those of the examples asked for.
    batches = list(data.loader(split))
    batches = batches[: -(-total // len(batches[0]["ids"]))]
    counts = torch.cat([(batch["segments"] == 1).sum(1) for batch in batches])[:total].double()

    def score(description: str, conditions: Tensor | None = None) -> Tensor:
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
    for i, (field, names) in enumerate(
        system.condition.values.items() if "labels" in given else ()
    ):
        labels = given["labels"][:, i]
        if len(names) > FEW:
            continue
        for place, name in enumerate(names):
            if (labels == place).any():
                results[f"perplexity {field}={name}"] = perplexity(own, labels == place)
        told = labels >= 0
        if not told.any() or (len(system.condition.values) > 1 and not system.condition_dropout):
            continue  # a label by itself was never seen in training
        wanted = torch.full((len(names), len(system.condition.values)), -1)
        wanted[:, i] = torch.arange(len(names))
        log_p = score(f"texts under each {field}", system.conditions({"labels": wanted}))
        right = (log_p[told].argmax(1) == labels[told]).double().mean().item()
        about = {"count": int(told.sum()), "chance": max_share(labels[told]), "prior": "uniform"}
        results[f"bayes_accuracy {field}"] = {"value": right, **entry, **about}
    return results


def max_share(labels: Tensor) -> float:
    """What always saying the most frequent label gets right."""
    return labels.unique(return_counts=True)[1].max().item() / len(labels)


def control(
    system, data, texts: list[str], examples: list, labels: Tensor, entry: dict
) -> dict[str, dict[str, Any]]:
    """Whether a classifier of the training texts reads the labels back, beside what it reads from
    the real texts.
    """
    tokenizer = system.codec.tokenizer
    network = trained_text_classifier(data, tokenizer)
    written, real = (
        padded(some, tokenizer, data.codec.max_target)
        for some in (texts, [e.targets[0][0] for e in examples])
    )
    found = {}
    read = (accuracies(network, written, labels[: len(texts)]), accuracies(network, real, labels))
    rows = zip(system.condition.values, *read, labels.T, strict=True)
    for field, (value, count), (reference, _), own in rows:
        if count:
            about = {
                "of_real_texts": reference,
                "chance": max_share(own[own >= 0]),
                "features": "text classifier",
            }
            found[f"control_accuracy {field}"] = {"value": value, **entry, "count": count, **about}
    return found


def poem_metrics(data, texts: list[str], examples: list, entry: dict) -> dict[str, dict[str, Any]]:
    """Form and rhyme, where one of the labels is a form."""
    fields = [i for i, names in enumerate(data.label_values.values()) if all(map(is_form, names))]
    if not fields:
        return {}
    forms, real = [e.labels[fields[0]] for e in examples], [e.targets[0][0] for e in examples]
    right = [has_form(text, form) for text, form in zip(texts, forms, strict=False)]
    reference = sum(map(has_form, real, forms)) / len(real)
    found = {
        "form_accuracy": {"value": sum(right) / len(right), **entry, "of_real_texts": reference}
    }
    if find_spec("pypinyin") is None:
        print(f"rhymes are not measured: {EXTRA}")
        return found
    of = rhymes()
    about = {"of_real_texts": rhyme_agreement(real, of), "features": "pypinyin, Mandarin rhymes"}
    value = rhyme_agreement(texts, of)
    return found | (
        {"rhyme_agreement": {"value": value, **entry, **about}} if value == value else {}
    )


def says(text: str, word: str, words: list[str]) -> bool:
    """Whether the text has this one of `words`, and no other."""

    def plain(part: str) -> str:
        return f" {' '.join(''.join(c if c.isalnum() else ' ' for c in part.lower()).split())} "

    return [other for other in words if plain(other) in plain(text)] == [word]
