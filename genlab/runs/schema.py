"""Schemas of the files of a run directory. Keys that a schema does not name are not checked."""

from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, model_validator
from torch import Tensor

__all__ = [
    "BegunManifest",
    "Certificate",
    "Manifest",
    "Results",
    "Resumable",
    "TrainedManifest",
    "Weights",
]

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping: the named keys have types, other keys may hold anything."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


# --- manifest.json --------------------------------------------------------------------------------


class Git(Part):
    """The git revision of the code that trained a run."""

    revision: str
    dirty: bool


class Split(Part):
    """A split of the data; data modules add keys of their own."""

    count: Count
    source: str


class Splits(Part):
    """The splits of the data."""

    train: Split
    val: Split
    test: Split


class Data(Part):
    """The data of a run."""

    name: str
    fingerprint: str
    splits: Splits


class Manifest(Part):
    """manifest.json of any run: `status` is required, every other key must have its type."""

    status: str
    steps: Count = 0
    images_seen: Count = 0
    seconds: Seconds = 0
    model: str = ""
    seed: int = 0
    started: str = ""
    command: str = ""
    overrides: list[str] = []
    versions: dict[str, str | None] = {}
    hardware: str = ""
    git: Git | None = None
    data: Annotated[Data, Field(default=None)]
    metrics: dict[str, float] = {}
    resumed: list[str] = []
    config: str | None = None
    differences: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]] | None = None
    no_explorer: str | None = None
    error: str | None = None


class BegunManifest(Manifest):
    """manifest.json of a run that training continues."""

    steps: Count
    images_seen: Count
    seconds: Seconds


class TrainedManifest(BegunManifest):
    """manifest.json of a run that has read its data, with what a report and a model card need."""

    model: str
    seed: int
    started: str
    command: str
    versions: dict[str, str | None]
    hardware: str
    data: Data


# --- eval/ ----------------------------------------------------------------------------------------


class Result(Part):
    """A metric and how it was computed."""

    value: float
    split: str | None
    count: Count
    features: str | None
    weights: str
    ckpt: str
    seed: int
    features_hash: str | None = None
    comparable: bool | None = None
    reference: str | None = None
    standard_error: float | None = None


Results = dict[str, Result]


class Block(Part):
    """A residual block and the bound of its Lipschitz constant."""

    name: str
    lipschitz: float
    iterations: Count


class Layer(Part):
    """A layer and its spectral norms."""

    name: str
    fft: float
    exact: float | None


class Certificate(Part):
    """eval/certificate.json."""

    blocks: list[Block]
    layers: list[Layer]


# --- checkpoints ----------------------------------------------------------------------------------


class Weights(Part):
    """What a checkpoint must hold to load its model: weights, and their average if there is one."""

    state_dict: dict[str, InstanceOf[Tensor]]
    ema: dict[str, InstanceOf[Tensor]] = {}

    @model_validator(mode="after")
    def _tensors_are_plain(self):
        for part in ("state_dict", "ema"):
            for name, value in getattr(self, part).items():
                if value.layout != torch.strided or value.is_quantized:
                    raise ValueError(f"{part}.{name}: expected a plain tensor")
                if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                    raise ValueError(
                        f"{part}.{name}: has {value.numel():,} numbers, more than the file holds"
                    )
        return self

    @model_validator(mode="after")
    def _average_is_of_these_weights(self):
        """Refuse an average of other tensors, or of only some: it would not fit the raw weights."""
        averaged = {name.partition(".")[0] for name in self.ema}
        for name, value in self.state_dict.items():
            if name.partition(".")[0] in averaged and name not in self.ema:
                raise ValueError(f"ema.{name}: is missing, but other tensors of its network exist")
            average = self.ema.get(name, value)
            if (average.shape, average.dtype) != (value.shape, value.dtype):
                raise ValueError(
                    f"ema.{name}: is {average.dtype} {list(average.shape)}, but in state_dict "
                    f"{value.dtype} {list(value.shape)}"
                )
        if unknown := self.ema.keys() - self.state_dict.keys():
            raise ValueError(f"ema.{min(unknown)}: is not among the weights in state_dict")
        return self


class Optimizer(Part):
    """The state of an optimiser, as torch saves it."""

    state: dict[int | str, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class CallbackState(Part):
    """What a callback keeps in a checkpoint."""

    images_seen: Count = 0
    best_score: float | None = None


class Resumable(Weights):
    """What a checkpoint must hold to continue training from it."""

    global_step: Count
    epoch: Count
    callbacks: dict[str, CallbackState]
    optimizer_states: list[Optimizer]
    lr_schedulers: list[dict[str, Any]]
    loops: dict[str, Any]
    lightning: str = Field(alias="pytorch-lightning_version")
