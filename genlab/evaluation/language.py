"""The numbers of a pretrained language model, each beside what it was measured with.

Shapes: B rows; L tokens of a row; V tokens of the vocabulary.
"""

import math
import time
from typing import Any

import torch

from genlab.errors import ConfigError
from genlab.evaluation.base import Measured, Progress, Results, Settings
from genlab.systems.base import Pretrained

__all__ = ["Language", "evaluate_language", "pseudo_perplexity"]

# Each token of the pseudo-perplexity costs a row to read.
PSEUDO_ROWS, PSEUDO_LENGTH = 32, 64


class Language:
    """How well a model trained on raw text predicts the held-out split."""

    def fits(self, system: Any) -> bool:
        """Whether `system` is trained on raw text."""
        return isinstance(system, Pretrained)

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_language`.

        Raises:
            ConfigError: measure= or decoding.* are given, which are about written texts.
        """
        decoding = settings.decoding
        chosen = {
            "measure": settings.measure is not None,
            "decoding": decoding is not None and decoding != type(decoding)(),
        }
        for key, is_chosen in chosen.items():
            if is_chosen:
                raise ConfigError(
                    f"{key}: a model trained on raw text writes nothing that could be judged; "
                    f"leave {key} out"
                )
        return Measured(evaluate_language(system, data, settings), {})


@torch.no_grad()
def evaluate_language(system: Any, data: Any, settings: Settings) -> Results:
    """Measures the first rows of the held-out split, the same at every call.

    loss (nats a token) and accuracy are those of the training objective. perplexity, exp of the
    loss, is of gpt and unilm; of mlm there is the pseudo-perplexity of the first 64 tokens of some
    rows.

    Raises:
        ValueError: The split has no text.
    """
    split = settings.split
    loader = data.loader(split, settings.num)
    if not len(loader):
        raise ValueError(f"split={split}: the corpus has no text there; choose another split")
    total = hits = 0.0
    count = tokens = 0
    start = time.monotonic()
    for i, batch in enumerate(loader):
        inputs = {name: value.to(system.device) for name, value in batch.items()}
        logits, answers = system.predict(inputs)  # (M, V) and (M,) of the tokens to predict
        total -= logits.log_softmax(1).gather(1, answers[:, None]).double().sum().item()
        hits += (logits.argmax(1) == answers).sum().item()
        count += len(answers)
        tokens += int(batch["lengths"].sum()) if "lengths" in batch else batch["ids"].numel()
        settings.progress("rows", i + 1, len(loader))
    seconds = time.monotonic() - start
    mlm = system.objective == "mlm"
    entry = {
        "split": split,
        "seed": settings.seed,
        "reference": None,
        "features": None,
        "count": count,
        "objective": system.objective,
    }
    if mlm:
        entry |= {"mask_rate": system.mask_rate, "words": data.words}
    loss = total / count if count else math.nan
    accuracy = hits / count if count else math.nan
    results = {
        "loss": {"value": loss, **entry, "unit": "nats a token"},
        "masked_accuracy" if mlm else "accuracy": {"value": accuracy, **entry},
    }
    if mlm:
        value, scored = pseudo_perplexity(system, data, split, settings.num, settings.progress)
        about = {"count": scored, "length": PSEUDO_LENGTH}
        results["pseudo_perplexity"] = {"value": value, **entry, **about}
    else:
        results["perplexity"] = {"value": math.exp(loss), **entry}
    results["tokens_per_second"] = {"value": tokens / max(seconds, 1e-9), **entry, "count": tokens}
    return results


@torch.no_grad()
def pseudo_perplexity(
    system: Any, data: Any, split: str, num: int | None, progress: Progress
) -> tuple[float, int]:
    """exp of the mean -log p of each token given all others, and how many tokens that were.

    Of the first 64 tokens of the first rows; [CLS] and [SEP] are not counted. Salazar et al. 2020,
    "Masked Language Model Scoring", arXiv 1910.14659.
    """
    tokenizer = system.codec.tokenizer
    total, count = 0.0, 0
    rows = min(num or PSEUDO_ROWS, PSEUDO_ROWS)
    texts = [ids for batch in data.loader(split, rows) for ids in batch["ids"][:, :PSEUDO_LENGTH]]
    for i, ids in enumerate(texts):
        ids = ids.to(system.device)  # (L,)
        counted = ids != tokenizer.pad_id
        counted &= (ids != tokenizer.cls_id) & (ids != tokenizer.sep_id)
        places = counted.nonzero().flatten()
        if len(places):
            # One row a token, in which that token is masked
            row = torch.arange(len(places), device=ids.device)
            masked = ids.repeat(len(places), 1)
            masked[row, places] = tokenizer.mask_id
            logits = system.net.logits(system.net(masked)[row, places]).float()
            total -= logits.log_softmax(1).gather(1, ids[places][:, None]).double().sum().item()
            count += len(places)
        progress("pseudo-perplexity", i + 1, len(texts))
    return (math.exp(total / count) if count else math.nan), count
