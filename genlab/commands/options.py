"""The options of every command: their types, ranges and defaults. conf/<command>.yaml says what
each is for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from genlab import config
from genlab.config import Node
from genlab.overrides import key_of
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed
from genlab.systems.text.writing import Decoding

__all__ = ["SCHEMAS", "Encode", "Eval", "Export", "Sample", "Train", "build_data", "given", "read"]

Text = Annotated[str, Field(min_length=1, description="text that is not empty")]
Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:<number> or mps"
    ),
]
Package = Annotated[
    str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$", description="name of a package")
]
Name = NonNegativeInt | Text
Split = Literal["train", "val", "test"]
Label = NonNegativeInt | Text
Conditions = dict[str, NonNegativeInt | str | None]  # a label of each field
Labels = Annotated[
    Label | Annotated[list[Label | Conditions], Field(min_length=1)] | Conditions,
    Field(description="a class (its number or name), a list of them, or {field: label}"),
]


@dataclass(kw_only=True)
class Run:
    """What every command that uses a trained run takes."""

    name: Text | None = None
    run: Text | None = None
    ckpt: Text = "last"
    weights: Literal["ema", "raw"] = "ema"
    out: Text | None = None
    allow: list[Package] = field(default_factory=list)


@dataclass(kw_only=True)
class Sample(Run):
    """genlab sample."""

    data: Node | dict[str, Any] = field(default_factory=dict)
    mode: Literal["grid", "interpolate", "reconstruct", "walk"] = "grid"
    num: PositiveInt = 64
    seed: Seed = 0
    scale: NonNegativeFloat | None = None
    temperature: NonNegativeFloat | None = None
    steps: Annotated[int, Range(ge=2)] | None = None
    label: Labels | None = None
    input: Text | None = None
    sampler: Text | None = None
    source: str | list[str] | None = None
    question: Text | None = None
    passages: Text | list[Text] | None = None
    prompt: str | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    standing: NonNegativeInt = 0
    device: Device = "auto"


@dataclass(kw_only=True)
class Encode(Run):
    """genlab encode."""

    data: Node | dict[str, Any] = field(default_factory=dict)
    input: Text | None = None
    split: Split | None = None
    on_error: Literal["raise", "skip"] = "raise"
    method: Literal["encoder", "optimize"] = "encoder"
    tolerance: PositiveFloat | None = None
    label: Labels | None = None
    seed: Seed = 0
    log_prob: bool = False
    pooling: Literal["mean", "cls"] = "mean"
    whiten: bool | PositiveInt = False
    field: Name | None = None
    batch_size: PositiveInt = 256
    device: Device = "auto"


@dataclass(kw_only=True)
class Eval(Run):
    """genlab eval."""

    out: None = None  # it writes into the run
    data: Node | dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Node | None] = field(default_factory=dict)
    features: Node | None = None
    ood: Node | None = None
    split: Split = "test"
    num: PositiveInt = 10_000
    batch_size: PositiveInt = 256
    seed: Seed = 0
    sampler: Text | None = None
    scale: NonNegativeFloat | None = None
    standing: NonNegativeInt = 0
    decoding: dict[str, Any] = field(default_factory=dict)
    measure: Literal["squad", "cmrc", "sogou"] | None = None
    device: Device = "auto"


@dataclass(kw_only=True)
class Export(Run):
    """genlab export."""

    format: Text | None = None
    licence: Text | None = None


@dataclass(kw_only=True)
class Train:
    """genlab train; the keys of model, net, data, ... are the arguments of what they build."""

    name: Text
    model: Node
    data: Node
    trainer: Node
    net: Node | dict[str, Any] | None = None
    loss: Node | None = None
    penalty: Node | None = None
    augment: Node | None = None
    callbacks: dict[str, Node | None] | None = None
    logger: dict[str, Node | None] | None = None
    metrics: dict[str, Node | None] | None = None
    features: Node | None = None
    run: Text | None = None
    ckpt: Text = "last"
    seed: Seed = 1
    evaluate: bool = True
    explorer: bool = True
    optimized_metric: Text | None = None
    tags: list[str] = field(default_factory=list)
    allow: list[Package] = field(default_factory=list)


SCHEMAS = {"train": Train, "sample": Sample, "encode": Encode, "eval": Eval, "export": Export}


def read(
    command: str,
    cfg: Any,
    overrides: Iterable[str] = (),
    supplied: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """The options of `command` as plain data: resolved, checked, and with a default for each that
    `cfg` leaves out.

    Args:
        command: train, sample, encode, eval or export.
        cfg: the composed config.
        overrides: the words of the command line. What they name as a `_target_` is allowed, and all
            that libraries and genlab have where the whole config is the user's own.
        supplied: see `config.validate`, for a command that builds all that is in its config; None
        for others.

    Raises:
        ConfigError: lists every option that is unknown, missing or not of its type, with the
            closest one or what was expected.
    """
    settings, schema = config.resolve(cfg), SCHEMAS[command]
    errors = config.check_arguments("", schema, settings)
    errors += config.missing_arguments("", schema, settings, f"genlab {command}")
    if isinstance(settings.get("decoding"), dict):
        errors += decoding_errors(settings["decoding"])
    allow = settings.get("allow", [])
    if isinstance(allow, list) and all(isinstance(package, str) for package in allow):
        own = command == "train" and not settings.get("run")
        settings["allow"] = config.allowed(allow, overrides, new=own)
        errors += config.faults(settings, supplied) if supplied is not None else []
    if errors:
        raise config.ConfigError(config.listed(errors))
    defaults = {one.name: one.default_factory() if one.default is MISSING else one.default
                for one in fields(schema) if one.name not in settings}  # fmt: skip
    return settings | defaults


def decoding_errors(decoding: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of `decoding.*`, a line each; null leaves one to its default."""
    given = {name: value for name, value in decoding.items() if value is not None}
    if errors := config.check_arguments("decoding", Decoding, given):
        return errors
    try:
        Decoding(**given)
    except ValueError as error:
        return [str(error)]
    return []


def given(overrides: Iterable[str]) -> set[str]:
    """The top keys that a command line sets."""
    return {key_of(word).partition(".")[0] for word in overrides}


def build_data(settings: Mapping[str, Any]) -> Any:
    """The data of `settings`, checked first; ConfigError where there are none."""
    if "_target_" not in settings["data"]:
        raise config.ConfigError("data: the run's config has none; choose some, as in data=mnist5k")
    config.validate({"data": settings["data"], "allow": settings["allow"]})
    return config.build(settings["data"], settings["allow"])
