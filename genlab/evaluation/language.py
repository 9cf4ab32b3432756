"""Every number about a pretrained language model, each beside what it was measured with."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["evaluate_language", "pseudo_perplexity"]

PSEUDO_ROWS, PSEUDO_LENGTH = 32, 64  # each token costs a row to read


@torch.no_grad()
def evaluate_language(
    system,
    data,
    *,
    split: str = "test",
    num: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda description, done, total: None,
) -> dict[str, dict[str, Any]]:
    """{metric: {value, count, ...}} on the first `num` rows of `split`, of which the same is asked
    each time.

    loss (nats a token) and accuracy of what the objective asks; perplexity, exp of the loss, of gpt
    and unilm; of mlm the pseudo-perplexity of the first 64 tokens of some rows.
    """
    loader = data.loader(split, num)
    if not len(loader):
        raise ValueError(f"split={split}: the corpus has no text there; choose another split")
    total = right = 0.0
    count = tokens = 0
    start = time.monotonic()
    for i, batch in enumerate(loader):
        logits, answers = system.predict(
            {name: value.to(system.device) for name, value in batch.items()}
        )
        total -= logits.log_softmax(1).gather(1, answers[:, None]).double().sum().item()
        right += (logits.argmax(1) == answers).sum().item()
        count += len(answers)
        tokens += int(batch["lengths"].sum()) if "lengths" in batch else batch["ids"].numel()
        progress("rows", i + 1, len(loader))
    seconds = time.monotonic() - start
    mlm = system.objective == "mlm"
    entry = {
        "split": split,
        "seed": seed,
        "reference": None,
        "features": None,
        "count": count,
        "objective": system.objective,
    }
    entry |= {"mask_rate": system.mask_rate, "words": data.words} if mlm else {}
    loss = total / count if count else float("nan")
    results = {
        "loss": {"value": loss, **entry, "unit": "nats a token"},
        "masked_accuracy" if mlm else "accuracy": {
            "value": right / count if count else float("nan"),
            **entry,
        },
    }
    if mlm:
        value, scored = pseudo_perplexity(system, data, split, num, progress)
        results["pseudo_perplexity"] = {
            "value": value,
            **entry,
            "count": scored,
            "length": PSEUDO_LENGTH,
        }
    else:
        results["perplexity"] = {"value": math.exp(loss), **entry}
    results["tokens_per_second"] = {"value": tokens / max(seconds, 1e-9), **entry, "count": tokens}
    return results


@torch.no_grad()
def pseudo_perplexity(
    system, data, split: str, num: int | None, progress: Callable
) -> tuple[float, int]:
    """(exp of the mean -log p of each token given all others, how many), of the first 64 tokens of
    the first rows.

    Salazar et al. 2020, "Masked Language Model Scoring", arXiv 1910.14659; [CLS] and [SEP] are not
    counted.
    """
    t, total, count = system.codec.tokenizer, 0.0, 0
    rows = min(num or PSEUDO_ROWS, PSEUDO_ROWS)
    texts = [ids for batch in data.loader(split, rows) for ids in batch["ids"][:, :PSEUDO_LENGTH]]
    for i, ids in enumerate(texts):
        ids = ids.to(system.device)
        places = ((ids != t.pad_id) & (ids != t.cls_id) & (ids != t.sep_id)).nonzero().flatten()
        if len(places):
            row = torch.arange(len(places), device=ids.device)
            hidden = ids.repeat(len(places), 1)
            hidden[row, places] = t.mask_id
            logits = system.net.logits(system.net(hidden)[row, places]).float()
            total -= logits.log_softmax(1).gather(1, ids[places][:, None]).double().sum().item()
            count += len(places)
        progress("pseudo-perplexity", i + 1, len(texts))
    return (math.exp(total / count) if count else float("nan")), count
