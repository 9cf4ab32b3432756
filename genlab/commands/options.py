"""The options of every command: their types, ranges and defaults, and which models take them.

What each is for stands in conf/<command>.yaml.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from genlab import config
from genlab.config import Node
from genlab.errors import ConfigError
from genlab.overrides import key_of
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed
from genlab.systems.base import HasConditions, System
from genlab.systems.text.writing import Decoding

__all__ = [
    "SCHEMAS",
    "Encode",
    "Eval",
    "Export",
    "Sample",
    "Train",
    "read",
    "refuse_foreign_options",
    "top_keys",
]

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
Conditions = dict[str, NonNegativeInt | str | None]  # {field: label}
Labels = Annotated[
    Label | Annotated[list[Label | Conditions], Field(min_length=1)] | Conditions,
    Field(description="a class (its number or name), a list of them, or {field: label}"),
]

# Options, by command, that have an effect on one kind of model alone
OF_IMAGE_MODELS = {  # and of models of points
    "sample": {
        "mode",
        "num",
        "steps",
        "label",
        "temperature",
        "code_scale",
        "sampler",
        "standing",
        "data",
    },
    "encode": {"method", "label", "seed", "tolerance", "log_prob"},
    "eval": {"standing", "batch_size", "features", "sampler", "temperature", "ood"},
}
OF_TEXT_MODELS = {
    "sample": {"source", "question", "passages", "decoding", "prompt"},
    "encode": {"pooling", "whiten", "field"},
    "eval": {"decoding", "measure"},
}
OF_CONDITIONAL_TEXT_MODELS = {
    "sample": {"mode", "num", "steps", "label", "prompt", "data"},
    "encode": {"field"},
    "eval": set(),
}
OF_UNCONDITIONAL_TEXT_MODELS = {
    "sample": {"question", "passages"},
    "encode": {"pooling", "whiten"},
    "eval": {"measure"},
}


@dataclass(kw_only=True)
class Run:
    """The options of every command that opens a trained run."""

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
    temperature: NonNegativeFloat | None = None
    code_scale: NonNegativeFloat | None = None
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

    out: None = None  # the results go into the run directory
    data: Node | dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Node | None] = field(default_factory=dict)
    features: Node | None = None
    ood: Node | None = None
    split: Split = "test"
    num: PositiveInt = 10_000
    batch_size: PositiveInt = 256
    seed: Seed = 0
    sampler: Text | None = None
    temperature: NonNegativeFloat | None = None
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
    """genlab train; keys below model, net, data, ... are arguments of the classes they name."""

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
    """The options of `command` as plain data: resolved, checked, and with all defaults filled in.

    Args:
        command: train, sample, encode, eval or export.
        cfg: The composed config.
        overrides: The words of the command line. A `_target_` that they name is allowed, and where
            the whole config is the user's own, every class of genlab and of the libraries.
        supplied: See `config.validate`, for a command that builds all that is in its config; None
            for others.

    Raises:
        ConfigError: If an option is unknown, missing or of the wrong type. It lists all of them,
            each with the closest name or with what was expected.
    """
    settings, schema = config.resolve(cfg), SCHEMAS[command]
    errors = config.check_arguments("", schema, settings)
    errors += config.missing_arguments("", schema, settings, f"genlab {command}")
    if isinstance(settings.get("decoding"), dict):
        errors += _decoding_errors(settings["decoding"])
    allow = settings.get("allow", [])
    if isinstance(allow, list) and all(isinstance(package, str) for package in allow):
        new = command == "train" and not settings.get("run")
        settings["allow"] = config.allowed_names(allow, overrides, new=new)
        errors += config.find_errors(settings, supplied) if supplied is not None else []
    if errors:
        raise ConfigError(config.join_errors(errors))
    left_out = [one for one in fields(schema) if one.name not in settings]
    return settings | {one.name: _default(one) for one in left_out}


def _default(one) -> Any:
    return one.default_factory() if one.default is MISSING else one.default


def _decoding_errors(decoding: Mapping[str, Any]) -> list[str]:
    """What is wrong with `decoding.*`, a line each; null leaves an option at its default."""
    chosen = {name: value for name, value in decoding.items() if value is not None}
    if errors := config.check_arguments("decoding", Decoding, chosen):
        return errors
    try:
        Decoding(**chosen)
    except ValueError as error:
        return [str(error)]
    return []


def top_keys(overrides: Iterable[str]) -> set[str]:
    """The top keys that a command line sets: data for data.path=photos/."""
    return {key_of(word).partition(".")[0] for word in overrides}


def refuse_foreign_options(command: str, system: System, overrides: Sequence[str]) -> None:
    """Refuses options that have no effect on this kind of model.

    Args:
        command: sample, encode or eval.
        system: The loaded system.
        overrides: The words of the command line; defaults are never refused.

    Raises:
        ConfigError: For the first such option.
    """
    keys = top_keys(overrides)
    if system.modality != "text":
        for key in sorted(keys & OF_TEXT_MODELS[command]):
            raise ConfigError(f"{key}: is an option of text models; this run is no text model")
        return
    conditional = isinstance(system, HasConditions)
    own, other = OF_UNCONDITIONAL_TEXT_MODELS[command], OF_CONDITIONAL_TEXT_MODELS[command]
    if conditional:
        own, other = other, own
    for key in sorted(keys - own):
        if key in OF_IMAGE_MODELS[command]:
            raise ConfigError(f"{key}: is an option of image models; this run is a text model")
        if key in other:
            kind = "unconditional" if conditional else "conditional"
            this = "a conditional one" if conditional else "an unconditional one"
            raise ConfigError(f"{key}: is an option of {kind} text models; this run is {this}")
