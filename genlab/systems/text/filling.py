"""What a pretrained model does with a text: fills the [MASK]s in it, or goes on where it stops."""

import re
from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from genlab.models.seq2seq.generation import Decoding, write
from genlab.systems.text.writing import ROWS, Generated

__all__ = ["fill_masks", "go_on"]

MASK = "[MASK]"


def plain_settings(decoding: Decoding, allowed: Sequence[str], what: str) -> None:
    """ValueError for an option of `decoding` that means nothing to `what`."""
    for name in Decoding.names():
        if name not in allowed and getattr(decoding, name) != getattr(Decoding(), name):
            raise ValueError(
                f"decoding.{name}={getattr(decoding, name)}: means nothing to {what}; it takes {', '.join(allowed)}"
            )


@torch.no_grad()
def fill_masks(
    system,
    examples: Sequence,
    decoding: Decoding,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """Each example's first source with every [MASK] replaced by a token, one after the other: the
    surest first.

    decoding.num texts: the likeliest tokens at the first place that is filled, each gone on from;
    scores: the summed log-probabilities of the tokens when they were chosen. Nothing is drawn, so
    seed has no part in it.
    """
    plain_settings(decoding, ["num"], "filling [MASK]")
    out = []
    for number, example in enumerate(examples):
        texts = re.split(re.escape(MASK), example.sources[0])
        if len(texts) < 2:
            raise ValueError(f"source: there is no {MASK} to fill in {example.sources[0][:60]!r}")
        tokens, scores = filled(system, texts, decoding.num)
        out.append(
            Generated([joined(texts, system.codec.tokenizer, row) for row in tokens], scores)
        )
        progress(number + 1)
    return out


def joined(texts: Sequence[str], tokenizer, ids: Sequence[int]) -> str:
    """The text around the masks, as it was written, with tokens in their places."""
    words = [tokenizer.vocab[i].removeprefix("##") for i in ids]
    return "".join(text + word for text, word in zip(texts, [*words, ""], strict=True))


def filled(system, texts: Sequence[str], num: int) -> tuple[list[list[int]], list[float]]:
    """(the tokens at the masks, from left to right, of each of `num` texts, the best first; their
    scores).
    """
    t = system.codec.tokenizer
    ids = [t.cls_id]
    for i, part in enumerate(t.plain(list(texts))):
        ids += [t.mask_id] * bool(i) + part
    ids = torch.tensor([*ids, t.sep_id], device=system.device)
    if len(ids) > system.net.max_length:
        raise ValueError(
            f"source: {len(ids)} tokens, and net.max_length={system.net.max_length}; shorten it"
        )
    places = (ids == t.mask_id).nonzero().flatten()
    special = torch.tensor(
        [i for token, i in t.ids.items() if re.fullmatch(r"\[\w+\]", token)], device=system.device
    )
    rows, scores = ids[None], torch.zeros(1, device=system.device)
    while (hidden := (rows[:, places] == t.mask_id)).any():
        here = system.net(rows, mask=torch.ones_like(rows, dtype=torch.bool)[:, None, None])[
            :, places
        ]
        logits = system.net.logits(here).float()
        logits[..., special] = -torch.inf
        found, best = logits.log_softmax(-1).topk(
            num if len(rows) == 1 and len(places) == hidden.sum() else 1
        )
        surest = found[..., 0].masked_fill(~hidden, -torch.inf).argmax(1)
        row = torch.arange(len(rows), device=rows.device)
        found, best = found[row, surest], best[row, surest]  # (rows, k)
        k = best.shape[1]
        rows, surest = rows.repeat_interleave(k, 0), surest.repeat_interleave(k)
        rows[torch.arange(len(rows), device=rows.device), places[surest]] = best.flatten()
        scores = scores.repeat_interleave(k) + found.flatten()
    order = scores.argsort(descending=True)
    return rows[order][:, places].tolist(), scores[order].tolist()


@torch.no_grad()
def go_on(
    system,
    examples: Sequence,
    decoding: Decoding,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """What a language model writes after each example's source, of which the last max_source tokens
    are read.

    seed: for method=sample; a text is a function of it and of its example's place.
    """
    codec, t = system.codec, system.codec.tokenizer
    decoding = decoding.settled(False)
    max_length = decoding.longest(codec.max_target, "data.max_target of this model")
    rows = [
        torch.tensor([t.cls_id, *ids[-codec.max_source + 1 :]])
        for ids in t.plain([e.sources[0] for e in examples])
    ]
    uniforms = None
    if decoding.method == "sample":
        uniforms = torch.rand(
            len(rows), decoding.num, max_length, generator=torch.Generator().manual_seed(seed)
        )
    out: list[Generated] = []
    for chunk in torch.arange(len(rows)).split(ROWS):
        some = [rows[i] for i in chunk.tolist()]
        ids = pad_sequence(some, True, t.pad_id).to(system.device)
        lengths = torch.tensor([len(row) for row in some], device=system.device)
        drawn = None if uniforms is None else uniforms[chunk].to(system.device)
        options = {
            "end": t.sep_id,
            "max_length": max_length,
            "banned": codec.banned,
            "uniforms": drawn,
        }
        made = write(
            system.net, (ids, torch.zeros_like(ids), lengths), decoding, target_segment=0, **options
        )
        for tokens, sizes, scores in zip(*(part.tolist() for part in made[:3]), strict=True):
            texts = [codec.text(text[:size]) for text, size in zip(tokens, sizes, strict=True)]
            out.append(Generated(texts, scores))
        progress(len(out))
    return out
