"""What a config may build: a registry made from the shipped configs, and what the user's own
command line adds.
"""

import functools
import importlib
import inspect
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from genlab.config.keys import closest
from genlab.config.renamed import new_target
from genlab.errors import ConfigError
from genlab.plain import parse_yaml

__all__ = [
    "allowed",
    "arguments",
    "check_added",
    "check_forms",
    "form_errors",
    "locate",
    "registry",
    "targets",
]

# A new training may name any public class of these, as its config is the user's own. Functions are
# never among them.
OWN = tuple(
    f"genlab.{name}."
    for name in [
        "systems",
        "training",
        "models",
        "losses",
        "nn",
        "data",
        "callbacks",
        "metrics",
        "evaluation",
    ]
)
LIBRARIES = (
    "torch.nn.",
    "torch.optim.",
    "torchvision.models.",
    "lightning.pytorch.",
    "torchmetrics.",
)

# Classes of libraries that runs use beside the shipped configs. Each only keeps its arguments when
# it is constructed, and none opens, writes, sends or fetches anything, whatever its arguments are.
# So not here: what has a path (ModelCheckpoint, profilers), a service (loggers), weights to fetch
# (torchvision.models, torchmetrics' features), or saves a checkpoint of its own
# (LearningRateFinder, BatchSizeFinder).
INERT = {
    "torch.optim": "Adadelta Adagrad Adam AdamW Adamax ASGD LBFGS NAdam RAdam RMSprop Rprop SGD SparseAdam",
    "torch.optim.lr_scheduler": "ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR "
    "ExponentialLR LinearLR MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR",
    "torch.nn": "AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool2d BatchNorm1d BatchNorm2d BCEWithLogitsLoss CELU Conv1d "
    "Conv2d ConvTranspose2d CrossEntropyLoss Dropout Dropout2d ELU Embedding Flatten GELU GLU GroupNorm Hardswish "
    "Hardtanh HuberLoss Identity InstanceNorm2d L1Loss LayerNorm LeakyReLU Linear LogSigmoid MaxPool2d Mish MSELoss "
    "PixelShuffle PReLU ReLU ReLU6 RMSNorm SELU Sequential Sigmoid SiLU SmoothL1Loss Softmax Softplus Softsign Tanh "
    "Unflatten Upsample",
    "lightning.pytorch.callbacks": "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler "
    "LearningRateMonitor StochasticWeightAveraging Timer",
}

# What genlab's own code adds when it builds these. They write or fetch, so a config cannot have
# them built elsewhere.
ADDED = {
    "genlab.callbacks.csv_logger.CSVLogger": "save_dir",
    "genlab.callbacks.loggers.TrackioLogger": "save_dir",
    "genlab.callbacks.loggers.mlflow": "save_dir",
    "genlab.callbacks.loggers.tensorboard": "save_dir",
    "genlab.callbacks.loggers.wandb": "save_dir",
    "genlab.metrics.features.auto": "data",
    "genlab.metrics.features.classifier": "data",
    "genlab.metrics.features.inception": "data",
    "genlab.metrics.features.random": "data",
    "genlab.training.trainer.Trainer": "default_root_dir",
}
DIRECTIVES = {
    "_target_": (str, "the dotted name of a class"),
    "_partial_": (bool, "true or false"),
    "_args_": (list, "a list"),
}
FIXED = {"_convert_": "all", "_recursive_": True}  # of Hydra's directives: what genlab does anyway


@functools.cache
def registry() -> frozenset[str]:
    """The names that the config of a run, an export or a sweep may have as a `_target_`."""
    found = {f"{module}.{name}" for module, names in INERT.items() for name in names.split()}
    for group in files("genlab.conf").iterdir():
        if group.name != "hydra":  # Hydra builds those itself
            found |= {
                node["_target_"]
                for file in _configs(group)
                for _, node in targets(parse_yaml(file.read_text()))
            }
    return frozenset(found)


def _configs(entry) -> Iterable:
    if entry.name.endswith(".yaml"):
        yield entry
    elif entry.is_dir():
        for inner in entry.iterdir():
            yield from _configs(inner)


def allowed(allow: Iterable[str], words: Iterable[str] = (), new: bool = False) -> list[str]:
    """What a command may build besides the registry.

    Args:
        allow: The packages or names of the user's allow=.
        words: The user's own overrides on this command line. A class of a library or of genlab that
            one of them names as a `_target_` is allowed.
        new: Whether the whole config is the user's own, as that of a new training is: then all
            classes of libraries and of genlab are.
    """
    if new:
        return [*allow, *(prefix.rstrip(".") for prefix in (*OWN, *LIBRARIES))]
    named = {
        node["_target_"]
        for word in words
        for _, node in targets(_value(word))
        if isinstance(node["_target_"], str)
    }
    return [*allow, *sorted(name for name in named if name.startswith((*OWN, *LIBRARIES)))]


def _value(word: str) -> Any:
    """The value of an override, under its last key."""
    try:
        override = OverridesParser.create().parse_override(word)
        return {override.key_or_group.rpartition(".")[2]: override.value()}
    except (HydraException, ValueError):
        return None


def locate(target: str, allow: Iterable[str] = ()) -> Any:
    """The class or function named by the dotted path `target`.

    Args:
        target: As a config has it under `_target_`.
        allow: Packages or names besides the registry; see `allowed`.

    Raises:
        ConfigError: It is not allowed, is not there, or is a function that configs may not call.
    """
    if not isinstance(target, str):
        raise ConfigError(f"_target_={target}: expected the dotted name of a class")
    prefixes = tuple(prefix.rstrip(".") + "." for prefix in allow)
    module, _, name = target.rpartition(".")
    if target not in registry() and not f"{target}.".startswith(prefixes):
        beside = [
            other.rpartition(".")[2] for other in registry() if other.rpartition(".")[0] == module
        ]
        if today := new_target(target):
            raise ConfigError(f"_target_={target}: it is now called {today}")
        near = closest(name, beside) or closest(target, registry(), 0.85)
        raise ConfigError(
            f"_target_={target} is not named by genlab's own configs.{near} If you trust it, allow it on the command "
            f"line: allow=[{_to_allow(target)}]"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"_target_={target}: cannot import {module} ({error})") from None
    except AttributeError:
        names = vars(importlib.import_module(module))
        raise ConfigError(
            f"_target_={target}: {module} has no '{name}'.{closest(name, names)}"
        ) from None
    if target not in registry() and not _may_build(found, prefixes):
        raise ConfigError(
            f"_target_={target}: configs may only build classes, and this is {found!r}"
        )
    return found


def _to_allow(target: str) -> str:
    """The least that allows `target`: of the user's own packages the package, of others the name
    alone.
    """
    package = target.partition(".")[0]
    return (
        target
        if f"{package}." in {prefix.partition(".")[0] + "." for prefix in (*OWN, *LIBRARIES)}
        else package
    )


def _may_build(found: Any, prefixes: tuple[str, ...]) -> bool:
    """Whether `found`, which is allowed by its name, is not something that its module merely
    imported, or a function.
    """
    home = f"{getattr(found, '__module__', '')}."
    foreign = tuple(prefix for prefix in prefixes if not prefix.startswith((*OWN, *LIBRARIES)))
    if home.startswith(foreign) and not home.startswith("genlab."):
        return True
    return inspect.isclass(found) and home.partition(".")[0] in {
        p.partition(".")[0] for p in (*OWN, *LIBRARIES)
    }


def targets(node: Any, key: str = "") -> Iterable[tuple[str, Mapping]]:
    """Every (key, node) below `node` that has a `_target_`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, child in node.items():
            yield from targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{key}[{i}]")


def arguments(node: Mapping) -> dict[str, Any]:
    """The keys of a node that are arguments of its target."""
    return {
        name: value for name, value in node.items() if name not in DIRECTIVES and name not in FIXED
    }


def form_errors(key: str, node: Mapping) -> list[str]:
    """What is wrong with the directives (`_target_`, `_partial_`, ...) of the node under `key`, a
    line each.
    """
    dot = f"{key}." if key else ""
    errors = [
        f"{dot}{name}={node[name]}: expected {expected}"
        for name, (kind, expected) in DIRECTIVES.items()
        if name in node and not isinstance(node[name], kind)
    ]
    return errors + [
        f"{dot}{name}={node[name]}: genlab knows {value} alone here; leave it out"
        for name, value in FIXED.items()
        if node.get(name, value) != value
    ]


def check_forms(config: Any) -> None:
    """Raises ConfigError with its key where a directive of a node (`_target_`, `_partial_`, ...)
    has a wrong value.
    """
    for key, node in targets(config):
        for error in form_errors(key, node):
            raise ConfigError(error)


def check_added(config: Any, given: Iterable[str] = ()) -> None:
    """Checks that no node of `config` is one that genlab's own code has to build, unless it builds
    it now.

    Args:
        config: Plain containers.
        given: The arguments that genlab's own code adds to the outermost node.

    Raises:
        ConfigError: There is such a node, or the config itself has what genlab adds.
    """
    for key, node in targets(config):
        added = ADDED.get(node["_target_"])
        if added is None or node.get("_partial_"):
            continue
        dot = f"{key}." if key else ""
        if added in node or node.get("_args_"):
            raise ConfigError(
                f"{dot}{added}: genlab gives it to {node['_target_']} itself; leave it out"
            )
        if key or added not in given:
            raise ConfigError(
                f"{dot}_target_={node['_target_']}: only genlab itself builds this, not inside of another"
            )
