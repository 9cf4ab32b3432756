"""Checkpoints of BERT into genlab's BERT, with every tensor accounted for.

Three formats are read: Hugging Face's names, with or without `bert.`, and with `gamma` and `beta`
in older files; the names of Google's TensorFlow checkpoints, whose kernels are transposed; and
UniLM's files, which are BERT's with six segment types. "Ours" are the names of genlab's BERT,
"canonical" ones Hugging Face's without `bert.`.
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

__all__ = ["Report", "build", "fill", "load", "read_arguments", "to_huggingface"]

# Keys of a config that may make it another architecture, and the values that do not
SAME_ARCHITECTURE = {
    "model_type": ("bert", "unilm"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "attention_key_size": (None,),
    "rel_pos_bins": (0, None),
    "relax_projection": (0, 1, None),
}
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
# Ours -> canonical, by the start of the name
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
# The weights of a condition: no checkpoint has them, and they start without an effect.
CONDITION = re.compile(r"\.(gain|shift|hidden)\.weight$|^project\.")
# Constants that some files carry
HARMLESS = {"embeddings.position_ids", "embeddings.token_type_ids"}
# An independent random matrix (m, n) has no singular value beyond std (sqrt(m) + sqrt(n))
# (Marchenko and Pastur). Trained ones do: the dense layers of MiniLM 1.11 to 4.1 times that, its
# unused pooler 0.986.
RANDOM_EDGE = 1.05


@dataclass
class Report:
    """What became of every tensor of the checkpoint and of the network.

    Attributes:
        name: The checkpoint.
        loaded: How many of its tensors were loaded.
        missing: Ours that the checkpoint lacks.
        unused: Tensors of the checkpoint that the network has no use for.
        tied: Tensors of the checkpoint that are copies of others; compared and found equal.
        notes: Further lines.
        head: Whether the masked-language head is trained, random or absent.
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
            lines.append(f"missing, left as initialised: {', '.join(self.missing)}")
        optimizer = [name for name in self.unused if re.search(r"adam_[mv]$|^global_step$", name)]
        others = [name for name in self.unused if name not in optimizer]
        if others:
            lines.append(f"not used here: {', '.join(others)}")
        if optimizer:
            lines.append(f"not used here: {len(optimizer)} tensors of an optimiser")
        if self.head != "trained":
            state = {
                "absent": "has no masked-language head",
                "random": "has a masked-language head that looks random",
            }[self.head]
            lines.append(
                f"the checkpoint {state}: the head starts untrained, which slows the first steps"
            )
        return "\n  ".join(lines + self.notes)


def read_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of BERT out of a config.json or bert_config.json.

    Raises:
        WeightsError: It describes another architecture, or lacks a size.
    """
    for key, allowed in SAME_ARCHITECTURE.items():
        if key in config and config[key] not in allowed:
            raise WeightsError(
                f"{key}={config[key]} in the checkpoint's config: only BERT's own architecture can "
                f"be loaded, with {' or '.join(map(str, allowed))}"
            )
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise WeightsError(
            f"the checkpoint's config lacks {', '.join(missing)}; put BERT's config.json beside it"
        )
    made = {ours: config[theirs] for theirs, ours in ARGUMENTS.items() if theirs in config}
    if made.get("activation", "gelu") not in ACTIVATIONS:
        raise WeightsError(
            f"hidden_act={made['activation']} in the checkpoint's config: expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    return made


def build(
    name: str, keep_tokens: Sequence[int] | None = None, **changes: Any
) -> tuple[BERT, Report]:
    """A pretrained BERT.

    Args:
        name: See genlab.weights.source.find.
        keep_tokens: Ids of its vocabulary that are kept, in their new order; None: all.
        changes: Arguments of BERT that differ from the checkpoint's config.

    Returns:
        The network, and what became of the checkpoint's tensors.
    """
    source = find(name)
    arguments = read_arguments(source.config)
    if keep_tokens is not None:
        keep = list(keep_tokens)
        pad_id = arguments.get("pad_id", 0)
        arguments["vocab_size"] = len(keep)
        arguments["pad_id"] = keep.index(pad_id) if pad_id in keep else None
    model = BERT(**arguments | changes)
    return model, fill(model, source, keep_tokens)


def fill(
    model: BERT,
    source: Source | str,
    keep_tokens: Sequence[int] | None = None,
    vocab: Sequence[str] | None = None,
) -> Report:
    """Reads the tensors of pretrained weights into a network.

    Args:
        model: The network.
        source: The weights, or their name (genlab.weights.source.find).
        keep_tokens: The rows of its vocabulary that the network's has, for weights without a
            vocabulary of their own.
        vocab: The tokens of the network. Where the weights have a vocabulary, rows are found by the
            token's text, and a token that it lacks starts at random: the way from one language into
            another (Artetxe et al. 2020, arXiv 1910.11856).
    """
    source = find(source) if isinstance(source, str) else source
    tensors = read_tensors(source)
    known = None
    if source.tokenizer is not None:  # a run's
        tensors = to_huggingface(tensors)
        known = source.tokenizer["vocab"]
    elif source.vocab is not None:
        known = read_vocab(source.vocab)
    if vocab is not None and known is not None:
        # By row, since the embeddings may have more rows than there are tokens.
        rows = {token: i for i, token in enumerate(known)}
        keep_tokens = [rows.get(token) for token in vocab]
    return load(model, tensors, keep_tokens, source.name)


@torch.no_grad()
def load(
    model: BERT,
    tensors: Mapping[str, Tensor],
    keep_tokens: Sequence[int | None] | None = None,
    name: str = "weights",
) -> Report:
    """Copies tensors into a network.

    Args:
        model: The network. With fewer positions than the checkpoint it takes the first ones.
        tensors: Under the names of any of the formats.
        keep_tokens: For each token of the network its row in the checkpoint's word embeddings and
            head bias; None for a token without one, which starts at random.
        name: Of the checkpoint, for messages.

    Raises:
        WeightsError: The hidden states would not be the checkpoint's, since a tensor of the encoder
            is missing, has another shape or has no place. Only the head may be missing.
    """
    given = _name_canonically(tensors, name)
    report = Report(name, 0, tied=_untie(given, name))
    used: set[str] = set()
    for ours, parameter in model.state_dict().items():
        sources = [] if CONDITION.search(ours) else _canonical_names(ours)
        if not sources or any(key not in given for key in sources):
            report.missing.append(ours)
            continue
        used.update(sources)
        tensor = _concatenate([given[key][1] for key in sources], sources, parameter, name)
        if keep_tokens is not None and ours in ("word.weight", "head.bias"):
            tensor = _choose_rows(tensor, keep_tokens, parameter, name)
        if ours == "position.weight" and len(tensor) > len(parameter):
            report.notes.append(f"the first {len(parameter)} of {len(tensor)} positions are kept")
            tensor = tensor[: len(parameter)]
        if tensor.shape != parameter.shape:
            raise WeightsError(
                f"{name}: {' + '.join(sources)}: expected the shape {list(parameter.shape)} of "
                f"{ours}, found {list(tensor.shape)}; take the network's sizes from the "
                "checkpoint's config"
            )
        parameter.copy_(tensor)
        report.loaded += len(sources)
    _refuse_misfit(report, given, used)
    if keep_tokens is not None and None in keep_tokens:
        count = len(keep_tokens) - keep_tokens.count(None)
        report.notes.append(
            f"{count} of the {len(keep_tokens)} tokens are known; the others start at random"
        )
    report.unused = sorted(set(tensors) - {given[key][0] for key in used} - set(report.tied))
    report.head = _state_of_head(model, report.missing)
    return report


def _name_canonically(tensors: Mapping[str, Tensor], name: str) -> dict[str, tuple[str, Tensor]]:
    """Canonical name -> (name in the file, tensor in torch's layout), without Adam's moments."""
    given: dict[str, tuple[str, Tensor]] = {}
    for theirs, tensor in tensors.items():
        if re.search(r"adam_[mv]$", theirs):
            continue
        key, tensor = _canonical(theirs, tensor)
        if key in given:
            raise WeightsError(f"{name}: {theirs} is the same tensor as {given[key][0]}")
        given[key] = (theirs, tensor)
    return given


def _concatenate(parts: list[Tensor], names: list[str], parameter: Tensor, name: str) -> Tensor:
    """The tensors of `names`, one below the other, that make a parameter."""
    if not all(part.is_floating_point() and part.dim() == parameter.dim() for part in parts):
        found = ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise WeightsError(
            f"{name}: {' + '.join(names)}: expected {parameter.dim()} dimensions of floats, found "
            f"{found}"
        )
    if len({part.shape[1:] for part in parts}) > 1:
        raise WeightsError(
            f"{name}: {' + '.join(names)}: expected the same width, found the shapes "
            f"{[list(part.shape) for part in parts]}"
        )
    return torch.cat(parts)


def _refuse_misfit(report: Report, given: Mapping[str, tuple[str, Tensor]], used: set[str]) -> None:
    """WeightsError if the encoder lacks a tensor, or the checkpoint has one without a place."""
    lacking = [
        ours
        for ours in report.missing
        if not ours.startswith("head.") and not CONDITION.search(ours)
    ]
    if lacking:
        raise WeightsError(
            f"{report.name}: not a BERT of this size, it lacks {', '.join(lacking[:4])}"
        )
    of_encoder = [key for key in given if key.startswith(("embeddings.", "encoder."))]
    extra = [given[key][0] for key in of_encoder if key not in used and key not in HARMLESS]
    if extra:
        raise WeightsError(
            f"{report.name}: the network has no place for {', '.join(extra[:4])} ({len(extra)} "
            "tensors); the checkpoint has more layers, or is another architecture"
        )


def _choose_rows(
    tensor: Tensor, keep_tokens: Sequence[int | None], fresh: Tensor, name: str
) -> Tensor:
    """Rows keep_tokens of `tensor`; for None the row of `fresh`, with the others' mean and std."""
    known = [row for row in keep_tokens if row is not None]
    if not known:
        raise WeightsError(f"keep_tokens: none is among the {len(tensor)} tokens of {name}")
    if max(known) >= len(tensor):
        raise WeightsError(
            f"keep_tokens: id {max(known)} is beyond the {len(tensor)} tokens of {name}"
        )
    kept = tensor[torch.as_tensor(known)].to(fresh)
    if len(known) == len(keep_tokens):
        return kept
    # Positions are added to them: with another length they would be louder or fainter there than
    # the layers expect.
    rows = kept.mean(0) + kept.std(0, correction=0) * fresh / fresh.std().clamp(min=1e-12)
    rows[[row is not None for row in keep_tokens]] = kept
    return rows


def _canonical(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The canonical name, and the tensor in torch's layout."""
    if "/" in name:  # TensorFlow's
        if name.endswith("/kernel"):
            tensor = tensor.T
        name = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
        name = re.sub(r"\.(kernel|output_weights)$", ".weight", name).replace("output_bias", "bias")
        name = re.sub(r"(_embeddings)$", r"\1.weight", name)
    name = name.removeprefix("module.").removeprefix("bert.")
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)), tensor


def _untie(given: dict[str, tuple[str, Tensor]], name: str) -> list[str]:
    """Drops the head's copies of tied tensors, which must be equal; their names in the file."""
    ties = {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    dropped = []
    for copy, original in ties.items():
        if copy not in given:
            continue
        if original not in given:
            given[original] = given.pop(copy)
            continue
        if not torch.equal(given[copy][1], given[original][1]):
            raise WeightsError(
                f"{name}: {given[copy][0]}: expected a copy of {given[original][0]}, since BERT's "
                "head is tied to the word embeddings"
            )
        dropped.append(given.pop(copy)[0])
    return dropped


def _canonical_names(ours: str) -> list[str]:
    """The canonical names whose tensors, one below the other, are our parameter."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    if layer and layer[2].startswith("qkv."):
        part = layer[2].removeprefix("qkv.")
        attention = f"encoder.layer.{layer[1]}.attention.self"
        return [f"{attention}.{each}.{part}" for each in ("query", "key", "value")]
    if layer:
        return [f"encoder.layer.{layer[1]}." + _translate(LAYER, layer[2])]
    if ours.startswith("head."):
        return [_translate(HEAD, ours.removeprefix("head."))]
    return [_translate(EMBEDDINGS, ours)]


def _translate(table: Mapping[str, str], name: str) -> str:
    """`name` with its start replaced, as the table says."""
    start = next(start for start in table if name.startswith(start))
    return table[start] + name.removeprefix(start)


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of BERT under Hugging Face's names, without the tied output layer."""
    made = {}
    for ours, tensor in state.items():
        names = _canonical_names(ours)
        prefix = "" if ours.startswith("head.") else "bert."
        parts = tensor.chunk(len(names))
        made |= {prefix + name: part for name, part in zip(names, parts, strict=True)}
    return made


def _state_of_head(model: BERT, missing: list[str]) -> str:
    """trained, random or absent; see Report.head."""
    of_head = ("head.dense.", "head.norm.weight", "head.norm.bias")
    if any(ours.startswith(of_head) for ours in missing):
        return "absent"
    head = model.head
    norm_is_initial = not head.norm.bias.any() and bool((head.norm.weight == 1).all())
    is_initial = not head.dense.bias.any() and norm_is_initial
    weight = head.dense.weight.float()
    edge = weight.std() * (weight.shape[0] ** 0.5 + weight.shape[1] ** 0.5)
    is_random = torch.linalg.matrix_norm(weight - weight.mean(), 2) < RANDOM_EDGE * edge
    return "random" if is_initial or is_random else "trained"
