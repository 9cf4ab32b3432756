"""Texts for many sources, answers to many questions and vectors of many texts, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genlab.models.seq2seq.generation import Decoding, write

__all__ = ["BATCH_ROWS", "Decoding", "Generated", "draw_uniforms", "embed_texts", "generate"]

BATCH_ROWS = 64  # rows that are read at once

Windows = list[list[int]]  # the rows of token ids that are read for one example


class Generated(NamedTuple):
    """The texts for one source or question, best first, and their scores (see Decoded)."""

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
    """Texts for each example.

    All windows of all sources of a question vote on its answer. A language model continues each
    source, and the text begins with it.

    Args:
        system: A text system with `net`, `codec` and the segments of source and target.
        examples: Each has `sources` and a `question`, or None for it.
        decoding: The options.
        seed: For method=sample: a text is a function of it and of its example's place.
        progress: Is called with the number of examples that are done.
        conditions: (N, C) the condition vector of each example.

    Returns:
        `decoding.num` texts for each example.

    Raises:
        ValueError: Only some examples have a question, a source does not fit, or an option has no
            effect.
    """
    codec = system.codec
    has_question = {example.question is not None for example in examples}
    if len(has_question) > 1:
        raise ValueError(
            "question: some examples have one and others none; generate them separately"
        )
    answers = True in has_question
    decoding = decoding.resolve(answers)
    max_length = decoding.limit_length(codec.max_target, "data.max_target of this model")
    windows = make_windows(codec, examples)
    if not codec.max_source:
        prompt = max(len(rows[0]) for rows in windows) - 1
        if prompt > codec.max_target - 2:
            raise ValueError(
                f"prompt: {prompt} tokens; expected at most data.max_target - 2 = "
                f"{codec.max_target - 2}"
            )
        max_length = decoding.limit_length(
            codec.max_target - prompt, f"data.max_target without the {prompt} tokens of the prompt"
        )
    uniforms = draw_uniforms(decoding, len(windows), max_length, seed)
    generated: dict[int, Generated] = {}
    for batch in batch_by_length(windows):
        texts = generate_batch(
            system,
            [windows[i] for i in batch],
            decoding,
            max_length,
            answers,
            None if uniforms is None else uniforms[batch].to(system.device),
            None if conditions is None else conditions[batch].to(system.device),
        )
        generated |= zip(batch, texts, strict=True)
        progress(len(generated))
    return [generated[i] for i in range(len(windows))]


def make_windows(codec, examples: Sequence) -> list[Windows]:
    """The windows of all sources of each example."""
    sources = iter(codec.sources([source for e in examples for source in e.sources]))
    questions = codec.tokenizer.plain([e.question or "" for e in examples])
    made: list[Windows] = []
    for example, question in zip(examples, questions, strict=True):
        if example.question is None:
            question = None
        rows = [row for _ in example.sources for row in codec.windows(next(sources), question)]
        if question is None and len(rows) != 1:
            raise ValueError(
                f"source: {len(rows)} windows or sources for one text, but only those of a "
                "question can vote; set data.stride=null, which cuts a long source"
            )
        made.append(rows)
    return made


def draw_uniforms(decoding: Decoding, count: int, max_length: int, seed: int) -> Tensor | None:
    """(count, num, max_length) random numbers in [0, 1) for method=sample; None for others."""
    if decoding.method != "sample":
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, decoding.num, max_length, generator=generator)


def batch_by_length(windows: list[Windows]) -> Iterator[list[int]]:
    """Numbers of examples of similar length, with at most BATCH_ROWS rows, or of a single one."""
    batch: list[int] = []
    for i in sorted(range(len(windows)), key=lambda i: max(map(len, windows[i]))):
        if batch and sum(len(windows[j]) for j in batch) + len(windows[i]) > BATCH_ROWS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def generate_batch(
    system,
    windows: list[Windows],
    decoding: Decoding,
    max_length: int,
    answers: bool,
    uniforms: Tensor | None,
    condition: Tensor | None,
) -> Iterator[Generated]:
    """Texts for the examples with these windows, which are read at once."""
    codec, tokenizer = system.codec, system.codec.tokenizer
    rows = [torch.tensor(row) for example in windows for row in example]
    ids = pad_sequence(rows, True, tokenizer.pad_id).to(system.device)
    segments = torch.full_like(ids, system.source_segment)
    lengths = torch.tensor([len(row) for row in rows], device=system.device)
    groups = passages = None
    if answers:
        groups = torch.tensor(
            [i for i, example in enumerate(windows) for _ in example], device=system.device
        )
        # What an answer may copy is the passage: what stands between [CLS] and the first [SEP].
        copied = [
            torch.tensor(row[1 : row.index(tokenizer.sep_id)])
            for example in windows
            for row in example
        ]
        passages = pad_sequence(copied, True, -1).to(system.device)
    decoded = write(
        system.net,
        (ids, segments, lengths),
        decoding,
        end=tokenizer.sep_id,
        max_length=max_length,
        banned=codec.banned,
        groups=groups,
        passages=passages,
        uniforms=uniforms,
        target_segment=system.target_segment,
        condition=condition,
        free=None if condition is None else system.condition.free(len(condition)),
    )
    tokens, sizes, scores = (part.tolist() for part in decoded[:3])
    for example, of_tokens, of_sizes, of_scores in zip(windows, tokens, sizes, scores, strict=True):
        prompt = [] if codec.max_source else example[0][1:]
        texts = [
            codec.text([*prompt, *text[:size]])
            for text, size in zip(of_tokens, of_sizes, strict=True)
        ]
        yield Generated(texts, of_scores)


@torch.no_grad()
def embed_texts(
    system, texts: Sequence[str], pooling: str, make_mask: Callable[[Tensor], Tensor]
) -> Tensor:
    """Vectors (N, D) float32 of texts.

    Args:
        system: A text system with `net`, `codec` and `source_segment`.
        texts: N texts, each cut to the codec's max_source tokens.
        pooling: mean, over the tokens; or cls, the vector of [CLS].
        make_mask: From real tokens (B, L), bool, to the attention mask (genlab.nn.masks).
    """
    codec, tokenizer = system.codec, system.codec.tokenizer
    vectors = []
    for start in range(0, len(texts), BATCH_ROWS):
        plain = tokenizer.plain(list(texts[start : start + BATCH_ROWS]))
        rows = [torch.tensor(codec.row(ids[: codec.max_source - 2])) for ids in plain]
        ids = pad_sequence(rows, True, tokenizer.pad_id).to(system.device)
        lengths = torch.tensor([len(row) for row in rows]).to(ids)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        segments = torch.full_like(ids, system.source_segment)
        hidden = system.net(ids, segments, make_mask(inside)).float()
        mean = (hidden * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        vectors.append(mean if pooling == "mean" else hidden[:, 0])
    return torch.cat(vectors) if vectors else torch.zeros(0, system.net.hidden_dim)
