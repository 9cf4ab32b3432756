"""Checkpoints of BERT into genlab's BERT, every tensor accounted for.

Hugging Face's names, with and without `bert.`, with `gamma` and `beta` for the older files; the
names of Google's TensorFlow checkpoints, whose kernels are transposed; UniLM's files, which are
BERT's with six segment types.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genlab.models.seq2seq.bert import ACTIVATIONS, BERT
from genlab.weights.source import ARGUMENTS, Source, WeightsError, find, read_tensors
from genlab.weights.vocabulary import read_vocab

__all__ = ["Report", "arguments", "build", "fill", "load", "named"]

# Keys that would make it another network, with the values that do not
OTHER_NETWORKS = {
    "model_type": ("bert", "unilm"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "attention_key_size": (None,),
    "rel_pos_bins": (0, None),
    "relax_projection": (0, 1, None),
}
EMBEDDINGS = {
    "word.weight": "embeddings.word_embeddings.weight",
    "position.weight": "embeddings.position_embeddings.weight",
    "segment.weight": "embeddings.token_type_embeddings.weight",
    "norm.": "embeddings.LayerNorm.",
    "widen.": "encoder.embedding_hidden_mapping_in.",
}
LAYER = {
    "out.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "up.": "intermediate.dense.",
    "down.": "output.dense.",
    "norm.": "output.LayerNorm.",
}
HEAD = {
    "dense.": "cls.predictions.transform.dense.",
    "norm.": "cls.predictions.transform.LayerNorm.",
    "bias": "cls.predictions.bias",
}
CONDITIONS = re.compile(
    r"\.(gain|shift|hidden)\.weight$|^project\."
)  # ours alone; they start without an effect
HARMLESS = {
    "embeddings.position_ids",
    "embeddings.token_type_ids",
}  # constants that some files carry
# An independent random matrix has no singular value beyond std (sqrt(m) + sqrt(n)) (Marchenko and
# Pastur); trained ones have: the dense layers of MiniLM 1.11 to 4.1 times that, its unused pooler
# 0.986.
RANDOM_EDGE = 1.05


@dataclass
class Report:
    """What became of every tensor of the checkpoint and of the network.

    missing: ours, which the checkpoint lacks. unused: the checkpoint's, which have no place here.
    tied: its copies of tensors that are one here, looked at and found equal. head: trained, random
    or absent, the masked-language head.
    """

    name: str
    loaded: int
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    head: str = "trained"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.loaded} tensors loaded"]
        if self.missing:
            lines.append(
                f"missing, and so left as they were initialised: {', '.join(self.missing)}"
            )
        optimizer = [name for name in self.unused if re.search(r"adam_[mv]$|^global_step$", name)]
        others = [name for name in self.unused if name not in optimizer]
        if others:
            lines.append(f"not used here: {', '.join(others)}")
        if optimizer:
            lines.append(f"not used here: {len(optimizer)} tensors of an optimiser")
        if self.head != "trained":
            what = (
                "has no masked-language head"
                if self.head == "absent"
                else "has a masked-language head that looks random"
            )
            lines.append(
                f"the checkpoint {what}: the head starts untrained, which slows the first steps"
            )
        return "\n  ".join(lines + self.notes)


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """BERT's constructor arguments out of a config.json or bert_config.json; WeightsError if it is
    another network.
    """
    for key, allowed in OTHER_NETWORKS.items():
        if key in config and config[key] not in allowed:
            raise WeightsError(
                f"the checkpoint's config has {key}={config[key]}: only BERT's own architecture can be loaded (expected "
                f"{' or '.join(map(str, allowed))})"
            )
    missing = [key for key in list(ARGUMENTS)[:5] if key not in config]
    if missing:
        raise WeightsError(
            f"the checkpoint's config lacks {', '.join(missing)}; expected BERT's config.json beside it"
        )
    made = {ours: config[theirs] for theirs, ours in ARGUMENTS.items() if theirs in config}
    if made.get("activation", "gelu") not in ACTIVATIONS:
        raise WeightsError(
            f"hidden_act={made['activation']}: expected one of {', '.join(ACTIVATIONS)}"
        )
    return made


def build(
    name: str, keep_tokens: Sequence[int] | None = None, **changes: Any
) -> tuple[BERT, Report]:
    """The pretrained BERT `name` (`find`), its vocabulary cut to keep_tokens if given; changes: of
    BERT's arguments.
    """
    source = find(name)
    settings = arguments(source.config)
    if keep_tokens is not None:
        settings["vocab_size"] = len(keep_tokens)
        pad, keep = settings.get("pad_id", 0), list(keep_tokens)
        settings["pad_id"] = keep.index(pad) if pad in keep else None
    model = BERT(**settings | changes)
    return model, fill(model, source, keep_tokens)


def fill(
    model: BERT,
    source: Source | str,
    keep_tokens: Sequence[int] | None = None,
    vocab: Sequence[str] | None = None,
) -> Report:
    """Reads the tensors of `source` into `model`, whose vocabulary is `vocab`.

    Where that is not the source's, tokens are found by their text, and those that the source lacks
    start at random: the way from one language into another (Artetxe et al. 2020, arXiv 1910.11856).
    keep_tokens: what the vocabulary keeps of one that is not told, of weights without a vocabulary.
    """
    source = find(source) if isinstance(source, str) else source
    tensors = read_tensors(source)
    if source.tokenizer is not None:
        tensors = named(tensors)
    known = (
        source.tokenizer["vocab"]
        if source.tokenizer
        else read_vocab(source.vocab)
        if source.vocab
        else None
    )
    if (
        vocab is not None and known is not None
    ):  # the embeddings may have more rows than there are tokens
        rows = {token: i for i, token in enumerate(known)}
        keep_tokens = [rows.get(token) for token in vocab]
    return load(model, tensors, keep_tokens, source.name)


@torch.no_grad()
def load(
    model: BERT,
    tensors: dict[str, Tensor],
    keep_tokens: Sequence[int | None] | None = None,
    name: str = "weights",
) -> Report:
    """Copies `tensors`, under the names of any of the formats, into `model`.

    keep_tokens: the row of each of the model's tokens in the word embeddings and in the head's
    bias; None: it has none, and starts at random. Fewer positions than the checkpoint has are its
    first ones. WeightsError where the hidden states would not be the checkpoint's: a tensor of the
    encoder that is missing, has another shape, or has no place. Only the head may be missing.
    """
    given = {}
    for theirs, tensor in tensors.items():
        if not re.search(r"adam_[mv]$", theirs):
            key, tensor = _canonical(theirs, tensor)
            if key in given:
                raise WeightsError(f"{name}: {theirs} is there twice, under another name too")
            given[key] = (theirs, tensor)
    report = Report(name, 0, tied=_untie(given, name))
    used: set[str] = set()
    for ours, parameter in model.state_dict().items():
        if CONDITIONS.search(ours):
            report.missing.append(ours)
            continue
        sources = _theirs(ours)
        if any(key not in given for key in sources):
            report.missing.append(ours)
            continue
        used.update(sources)
        parts = [given[key][1] for key in sources]
        if not all(part.is_floating_point() and part.dim() == parameter.dim() for part in parts):
            found = ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
            raise WeightsError(
                f"{name}: {' + '.join(sources)}: expected {parameter.dim()} dimensions of floats, found {found}"
            )
        if len({part.shape[1:] for part in parts}) > 1:
            raise WeightsError(
                f"{name}: {' + '.join(sources)} have other shapes: {[list(part.shape) for part in parts]}"
            )
        tensor = torch.cat(parts)
        if keep_tokens is not None and ours in ("word.weight", "head.bias"):
            tensor = _rows(tensor, keep_tokens, parameter, name)
        if ours == "position.weight" and len(tensor) > len(parameter):
            report.notes.append(f"the first {len(parameter)} of {len(tensor)} positions are kept")
            tensor = tensor[: len(parameter)]
        if tensor.shape != parameter.shape:
            raise WeightsError(
                f"{name}: {' + '.join(sources)} has shape {list(tensor.shape)}, the network's {ours} "
                f"{list(parameter.shape)}; take the network's sizes from the checkpoint's config"
            )
        parameter.copy_(tensor)
        report.loaded += len(sources)
    lacking = [
        ours
        for ours in report.missing
        if not ours.startswith("head.") and not CONDITIONS.search(ours)
    ]
    if lacking:
        raise WeightsError(
            f"{name}: not a BERT of this size, it has nothing for {', '.join(lacking[:4])}"
        )
    extra = [
        key
        for key in given
        if key not in used and key.startswith(("embeddings.", "encoder.")) and key not in HARMLESS
    ]
    if extra:
        raise WeightsError(
            f"{name}: the network has no place for {', '.join(given[key][0] for key in extra[:4])} ({len(extra)} tensors); "
            "it has more layers, or is another architecture"
        )
    if keep_tokens is not None and None in keep_tokens:
        share = f"{len(keep_tokens) - keep_tokens.count(None)} of the {len(keep_tokens)} tokens of the vocabulary"
        report.notes.append(f"it knows {share}; the others start at random")
    report.unused = sorted(set(tensors) - {given[key][0] for key in used} - set(report.tied))
    report.head = _state_of_head(model, report.missing)
    return report


def _rows(tensor: Tensor, keep_tokens: Sequence[int | None], fresh: Tensor, name: str) -> Tensor:
    """Rows keep_tokens of `tensor`; where that is None the row of `fresh`, moved and stretched to
    be like the others.
    """
    known = [row for row in keep_tokens if row is not None]
    if not known or max(known) >= len(tensor):
        what = f"id {max(known)} is beyond" if known else "none is among"
        raise WeightsError(f"keep_tokens: {what} the {len(tensor)} tokens of {name}")
    kept = tensor[torch.as_tensor(known)].to(fresh)
    if len(known) == len(keep_tokens):
        return kept
    # A sum with positions follows: rows of another length would be louder or fainter there than the
    # layers expect.
    rows = kept.mean(0) + kept.std(0, correction=0) * fresh / fresh.std().clamp(min=1e-12)
    rows[[row is not None for row in keep_tokens]] = kept
    return rows


def _canonical(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """(Hugging Face's name without `bert.`, the tensor in torch's layout)."""
    if "/" in name:
        if name.endswith("/kernel"):
            tensor = tensor.T
        name = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
        name = re.sub(r"\.(kernel|output_weights)$", ".weight", name).replace("output_bias", "bias")
        name = re.sub(r"(_embeddings)$", r"\1.weight", name)
    name = name.removeprefix("module.").removeprefix("bert.")
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)), tensor


def _untie(given: dict[str, tuple[str, Tensor]], name: str) -> list[str]:
    """Drops the head's copies of tied tensors, after a look whether they are copies; their names."""
    ties = {
        "decoder.weight": "embeddings.word_embeddings.weight",
        "decoder.bias": "cls.predictions.bias",
    }
    found = []
    for copy, of in ties.items():
        copy = f"cls.predictions.{copy}"
        if copy in given and of in given and not torch.equal(given[copy][1], given[of][1]):
            raise WeightsError(
                f"{name}: {given[copy][0]} is not tied to {given[of][0]}, as BERT's head is"
            )
        if copy in given and of not in given:
            given[of] = given.pop(copy)
        elif copy in given:
            found.append(given.pop(copy)[0])
    return found


def _theirs(ours: str) -> list[str]:
    """The canonical names whose tensors, one below the other, are our parameter."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    if layer and layer[2].startswith("qkv."):
        part = layer[2].removeprefix("qkv.")
        return [
            f"encoder.layer.{layer[1]}.attention.self.{each}.{part}"
            for each in ("query", "key", "value")
        ]
    table, prefix, name = EMBEDDINGS, "", ours
    if layer:
        table, prefix, name = LAYER, f"encoder.layer.{layer[1]}.", layer[2]
    elif ours.startswith("head."):
        table, name = HEAD, ours.removeprefix("head.")
    start = next(start for start in table if name.startswith(start))
    return [prefix + table[start] + name.removeprefix(start)]


def named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of BERT under Hugging Face's names, the tied output layer left out."""
    made = {}
    for ours, tensor in state.items():
        theirs = _theirs(ours)
        prefix = "" if ours.startswith("head.") else "bert."
        made |= {
            prefix + key: part for key, part in zip(theirs, tensor.chunk(len(theirs)), strict=True)
        }
    return made


def _state_of_head(model: BERT, missing: list[str]) -> str:
    if any(
        ours.startswith(("head.dense.", "head.norm.weight", "head.norm.bias")) for ours in missing
    ):
        return "absent"
    head = model.head
    fresh = (
        not head.dense.bias.any()
        and not head.norm.bias.any()
        and bool((head.norm.weight == 1).all())
    )
    weight = head.dense.weight.float()
    edge = weight.std() * (weight.shape[0] ** 0.5 + weight.shape[1] ** 0.5)
    random = torch.linalg.matrix_norm(weight - weight.mean(), 2) < RANDOM_EDGE * edge
    return "random" if fresh or random else "trained"
