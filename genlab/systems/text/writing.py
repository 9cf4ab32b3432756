"""Texts written to many sources, or answers to many questions, in batches of like length."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genlab.models.seq2seq.generation import Decoding, write

__all__ = ["Decoding", "Generated", "generate", "vectors"]

ROWS = 64  # read at once


class Generated(NamedTuple):
    """The texts written to one source or question, best first, and their scores (see Decoded)."""

    texts: list[str]
    scores: list[float]


@torch.no_grad()
def generate(
    system,
    examples: Sequence,
    decoding: Decoding,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    conditions: Tensor | None = None,
) -> list[Generated]:
    """What is written to each example; all windows of all sources of a question vote on its answer.

    conditions (N, C): what each is written under. A language model goes on from each source, with
    which its text begins.

    seed: for method=sample; a text is a function of it and of its example's place. progress: called
    with the examples done.
    """
    codec = system.codec
    asked = {example.question is not None for example in examples}
    if len(asked) > 1:
        raise ValueError("some examples have a question and others none; write to them apart")
    decoding = decoding.settled(True in asked)
    max_length = decoding.longest(codec.max_target, "data.max_target of this model")
    plain = iter(codec.sources([source for e in examples for source in e.sources]))
    questions = codec.tokenizer.plain([e.question or "" for e in examples])
    rows: list[list[list[int]]] = []
    for example, ids in zip(examples, questions, strict=True):
        question = None if example.question is None else ids
        rows.append(
            [window for _ in example.sources for window in codec.windows(next(plain), question)]
        )
        if question is None and len(rows[-1]) != 1:
            raise ValueError(
                f"{len(rows[-1])} windows or sources: only answers are voted on; data.stride=null cuts a source"
            )
    if not codec.max_source:
        longest = max(len(windows[0]) for windows in rows) - 1
        if longest > codec.max_target - 2:
            most = f"data.max_target - 2 = {codec.max_target - 2}"
            raise ValueError(f"prompt: a beginning of {longest} tokens; expected at most {most}")
        max_length = decoding.longest(
            codec.max_target - longest, f"data.max_target without the {longest} of the beginning"
        )
    uniforms = None
    if decoding.method == "sample":
        random = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(rows), decoding.num, max_length, generator=random)
    out: dict[int, Generated] = {}
    for chunk in chunks(rows):
        drawn = None if uniforms is None else uniforms[chunk].to(system.device)
        under = None if conditions is None else conditions[chunk].to(system.device)
        texts = answered(
            system, [rows[i] for i in chunk], decoding, max_length, drawn, True in asked, under
        )
        out |= zip(chunk, texts, strict=True)
        progress(len(out))
    return [out[i] for i in range(len(rows))]


def chunks(rows: list[list[list[int]]]) -> Iterator[list[int]]:
    """Examples of like length, together of at most ROWS rows, or a single one."""
    chunk: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: max(map(len, rows[i]))):
        if chunk and sum(len(rows[j]) for j in chunk) + len(rows[i]) > ROWS:
            yield chunk
            chunk = []
        chunk.append(i)
    yield from [chunk] if chunk else []


def answered(
    system,
    rows: list[list[list[int]]],
    decoding: Decoding,
    max_length: int,
    uniforms: Tensor | None,
    asked: bool,
    condition: Tensor | None = None,
) -> Iterator[Generated]:
    """What is written to the windows `rows` of each of some examples, read at once."""
    codec, tokenizer = system.codec, system.codec.tokenizer
    flat = [torch.tensor(window) for windows in rows for window in windows]
    ids = pad_sequence(flat, True, tokenizer.pad_id).to(system.device)
    lengths = torch.tensor([len(window) for window in flat], device=system.device)
    options = {
        "condition": condition,
        "free": None if condition is None else system.condition.free(len(condition)),
    }
    if asked:
        options["groups"] = torch.tensor(
            [i for i, windows in enumerate(rows) for _ in windows], device=system.device
        )
        copied = [
            torch.tensor(window[1 : window.index(tokenizer.sep_id)])
            for windows in rows
            for window in windows
        ]
        options["passages"] = pad_sequence(copied, True, -1).to(system.device)
    decoded = write(
        system.net,
        (ids, torch.full_like(ids, system.source_segment), lengths),
        decoding,
        end=tokenizer.sep_id,
        max_length=max_length,
        banned=codec.banned,
        uniforms=uniforms,
        target_segment=system.target_segment,
        **options,
    )
    for (window, *_), tokens, sizes, scores in zip(
        rows, *(part.tolist() for part in decoded[:3]), strict=True
    ):
        start = [] if codec.max_source else window[1:]
        yield Generated(
            [codec.text([*start, *text[:size]]) for text, size in zip(tokens, sizes, strict=True)],
            scores,
        )


@torch.no_grad()
def vectors(system, texts: Sequence[str], pooling: str, see: Callable[[Tensor], Tensor]) -> Tensor:
    """(N, D) float32 of texts, cut to the codec's max_source tokens: the mean over the tokens, or,
    not `mean`, [CLS]'s.

    see: from which tokens are real, bool (B, L), to the attention mask.
    """
    codec, t, codes = system.codec, system.codec.tokenizer, []
    for i in range(0, len(texts), ROWS):
        rows = [
            torch.tensor(codec.row(ids[: codec.max_source - 2]))
            for ids in t.plain(list(texts[i : i + ROWS]))
        ]
        ids = pad_sequence(rows, True, t.pad_id).to(system.device)
        real = (
            torch.arange(ids.shape[1], device=ids.device)
            < torch.tensor([len(row) for row in rows]).to(ids)[:, None]
        )
        hidden = system.net(ids, torch.full_like(ids, system.source_segment), see(real)).float()
        mean = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        codes.append(mean if pooling == "mean" else hidden[:, 0])
    return torch.cat(codes) if codes else torch.zeros(0, system.net.hidden_dim)
