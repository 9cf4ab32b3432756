"""Texts of models that were trained on raw text: [MASK]s filled, or a text continued."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch.nn.utils.rnn import pad_sequence

from genlab.models.seq2seq.generation import Decoding, write
from genlab.systems.text.writing import BATCH_ROWS, Generated, draw_uniforms

__all__ = ["continue_texts", "fill_masks"]

MASK = "[MASK]"


def refuse_options(decoding: Decoding, allowed: Sequence[str], task: str) -> None:
    """ValueError for an option of `decoding` that is set and not `allowed`."""
    for option in fields(Decoding):
        value = getattr(decoding, option.name)
        if option.name not in allowed and value != option.default:
            raise ValueError(
                f"decoding.{option.name}={value}: has no effect on {task}; only "
                f"{', '.join(f'decoding.{name}' for name in allowed)} has"
            )


@torch.no_grad()
def fill_masks(
    system,
    examples: Sequence,
    decoding: Decoding,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """Replaces every [MASK] of a text by a token, one after the other, the most certain first.

    Args:
        system: A masked language model with `net` and `codec`.
        examples: The first of an example's `sources` is its text.
        decoding: `num` texts: the most probable tokens at the first place that is filled, and for
            each the most probable ones after it. No other option has an effect.
        seed: Has no effect, since nothing is drawn.
        progress: Is called with the number of examples that are done.

    Returns:
        For each example `num` texts, best first; scores: the summed log-probabilities of the tokens
        when they were chosen.
    """
    refuse_options(decoding, ["num"], "filling [MASK]")
    out = []
    for number, example in enumerate(examples):
        parts = re.split(re.escape(MASK), example.sources[0])
        if len(parts) < 2:
            raise ValueError(
                f"source: expected a text with a {MASK} to fill, found {example.sources[0][:60]!r}"
            )
        tokens, scores = choose_tokens(system, parts, decoding.num)
        texts = [join(parts, system.codec.tokenizer, row) for row in tokens]
        out.append(Generated(texts, scores))
        progress(number + 1)
    return out


def join(parts: Sequence[str], tokenizer, ids: Sequence[int]) -> str:
    """The text around the masks, unchanged, with tokens in their places."""
    words = [tokenizer.vocab[i].removeprefix("##") for i in ids]
    return "".join(part + word for part, word in zip(parts, [*words, ""], strict=True))


def choose_tokens(system, parts: Sequence[str], num: int) -> tuple[list[list[int]], list[float]]:
    """The tokens at the masks.

    Args:
        system: As of `fill_masks`.
        parts: The text between the masks.
        num: How many choices are followed.

    Returns:
        For each choice, best first, its tokens from left to right, and its score.
    """
    tokenizer = system.codec.tokenizer
    ids = [tokenizer.cls_id]
    for i, plain in enumerate(tokenizer.plain(list(parts))):
        ids += [tokenizer.mask_id] * bool(i) + plain
    ids = torch.tensor([*ids, tokenizer.sep_id], device=system.device)
    if len(ids) > system.net.max_length:
        raise ValueError(
            f"source: {len(ids)} tokens, but net.max_length={system.net.max_length}; shorten it"
        )
    places = (ids == tokenizer.mask_id).nonzero().flatten()  # (P,) of the masks
    names = tokenizer.ids.items()
    special = [i for token, i in names if re.fullmatch(r"\[\w+\]", token)]
    special = torch.tensor(special, device=system.device)
    rows, scores = ids[None], torch.zeros(1, device=system.device)
    while (masked := rows[:, places] == tokenizer.mask_id).any():  # (R, P)
        mask = torch.ones_like(rows, dtype=torch.bool)[:, None, None]
        hidden = system.net(rows, mask=mask)[:, places]
        logits = system.net.logits(hidden).float()
        logits[..., special] = -torch.inf
        is_first = len(rows) == 1 and len(places) == masked.sum()
        log_p, tokens = logits.log_softmax(-1).topk(num if is_first else 1)  # (R, P, k)
        certain = log_p[..., 0].masked_fill(~masked, -torch.inf).argmax(1)  # (R,)
        row = torch.arange(len(rows), device=rows.device)
        log_p, tokens = log_p[row, certain], tokens[row, certain]  # (R, k)
        k = tokens.shape[1]
        rows, certain = rows.repeat_interleave(k, 0), certain.repeat_interleave(k)
        rows[torch.arange(len(rows), device=rows.device), places[certain]] = tokens.flatten()
        scores = scores.repeat_interleave(k) + log_p.flatten()
    order = scores.argsort(descending=True)
    return rows[order][:, places].tolist(), scores[order].tolist()


@torch.no_grad()
def continue_texts(
    system,
    examples: Sequence,
    decoding: Decoding,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """What a language model writes after each text.

    Args:
        system: A language model with `net` and `codec`.
        examples: The first of an example's `sources` is its text, of which the last max_source
            tokens are read.
        decoding: The options.
        seed: For method=sample: a text is a function of it and of its example's place.
        progress: Is called with the number of examples that are done.
    """
    codec, tokenizer = system.codec, system.codec.tokenizer
    decoding = decoding.resolve(False)
    max_length = decoding.limit_length(codec.max_target, "data.max_target of this model")
    plain = tokenizer.plain([e.sources[0] for e in examples])
    rows = [torch.tensor([tokenizer.cls_id, *ids[-codec.max_source + 1 :]]) for ids in plain]
    uniforms = draw_uniforms(decoding, len(rows), max_length, seed)
    out: list[Generated] = []
    for batch in torch.arange(len(rows)).split(BATCH_ROWS):
        chosen = [rows[i] for i in batch.tolist()]
        ids = pad_sequence(chosen, True, tokenizer.pad_id).to(system.device)
        decoded = write(
            system.net,
            (
                ids,
                torch.zeros_like(ids),
                torch.tensor([len(row) for row in chosen], device=system.device),
            ),
            decoding,
            end=tokenizer.sep_id,
            max_length=max_length,
            banned=codec.banned,
            uniforms=None if uniforms is None else uniforms[batch].to(system.device),
            target_segment=0,
        )
        for tokens, sizes, scores in zip(*(part.tolist() for part in decoded[:3]), strict=True):
            texts = [codec.text(text[:size]) for text, size in zip(tokens, sizes, strict=True)]
            out.append(Generated(texts, scores))
        progress(len(out))
    return out
