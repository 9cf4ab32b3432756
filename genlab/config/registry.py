"""What a config may build: the targets of the shipped configs, and what the command line adds."""

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
from genlab.safe_yaml import parse_yaml

__all__ = [
    "allowed_names",
    "arguments",
    "check_added",
    "check_forms",
    "form_errors",
    "locate",
    "registry",
    "targets",
]

# The config of a new training is the user's own, so it may name any public class of these packages.
# It may not name their functions.
OWN = (
    "genlab.systems.",
    "genlab.training.",
    "genlab.models.",
    "genlab.losses.",
    "genlab.nn.",
    "genlab.data.",
    "genlab.callbacks.",
    "genlab.metrics.",
    "genlab.evaluation.",
)
LIBRARIES = (
    "torch.nn.",
    "torch.optim.",
    "torchvision.models.",
    "lightning.pytorch.",
    "torchmetrics.",
)

# Classes of libraries that the config of a run may name besides those of the shipped configs. Their
# constructors only keep their arguments: whatever the arguments are, nothing is opened, written,
# sent or fetched. This excludes what takes a path (ModelCheckpoint, profilers), talks to a service
# (loggers), downloads weights (torchvision.models, torchmetrics' features) or saves a checkpoint of
# its own (LearningRateFinder, BatchSizeFinder).
INERT = {
    "torch.optim": "Adadelta Adagrad Adam AdamW Adamax ASGD LBFGS NAdam RAdam RMSprop Rprop SGD "
    "SparseAdam",
    "torch.optim.lr_scheduler": "ChainedScheduler ConstantLR CosineAnnealingLR "
    "CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR MultiStepLR OneCycleLR "
    "PolynomialLR ReduceLROnPlateau SequentialLR StepLR",
    "torch.nn": "AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool2d BatchNorm1d BatchNorm2d "
    "BCEWithLogitsLoss CELU Conv1d Conv2d ConvTranspose2d CrossEntropyLoss Dropout Dropout2d ELU "
    "Embedding Flatten GELU GLU GroupNorm Hardswish Hardtanh HuberLoss Identity InstanceNorm2d "
    "L1Loss LayerNorm LeakyReLU Linear LogSigmoid MaxPool2d Mish MSELoss PixelShuffle PReLU ReLU "
    "ReLU6 RMSNorm SELU Sequential Sigmoid SiLU SmoothL1Loss Softmax Softplus Softsign Tanh "
    "Unflatten Upsample",
    "lightning.pytorch.callbacks": "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler "
    "LearningRateMonitor StochasticWeightAveraging Timer",
}

# Target -> the argument that genlab's own code adds when it builds it. These targets write or fetch
# something, so a config cannot have them built anywhere else.
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
# Directives of Hydra with the only value that genlab takes: it always builds this way.
FIXED = {"_convert_": "all", "_recursive_": True}


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


def allowed_names(allow: Iterable[str], words: Iterable[str] = (), new: bool = False) -> list[str]:
    """What a command may build besides the registry.

    Args:
        allow: The packages or names of the user's `allow=`.
        words: The user's own overrides on this command line. A class of a library or of genlab that
            one of them names as a `_target_` is allowed.
        new: Whether the whole config is the user's own, as in a new training. Then all classes of
            libraries and of genlab are allowed.

    Returns:
        Names and packages, as `locate` takes them.
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
    """The class or function with the dotted name `target`.

    Args:
        target: The value of a `_target_`.
        allow: Names and packages besides the registry; see `allowed_names`.

    Raises:
        ConfigError: The target is not allowed, does not exist, or is a function that a config may
            not call.
    """
    if not isinstance(target, str):
        raise ConfigError(f"_target_={target}: expected the dotted name of a class")
    prefixes = tuple(prefix.rstrip(".") + "." for prefix in allow)
    registered = target in registry()
    if not registered and not f"{target}.".startswith(prefixes):
        raise ConfigError(f"_target_={target}: {_why_not_allowed(target)}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"_target_={target}: {_why_missing(target, error)}") from None
    if not registered and not _may_build(found, prefixes):
        raise ConfigError(f"_target_={target}: expected a class, found {found!r}")
    return found


def _why_not_allowed(target: str) -> str:
    if today := new_target(target):
        return f"it is now called {today}"
    module, _, name = target.rpartition(".")
    known = [other.rpartition(".") for other in registry()]
    beside = [other_name for other_module, _, other_name in known if other_module == module]
    near = closest(name, beside) or closest(target, registry(), 0.85)
    return (
        f"not named by genlab's own configs.{near} If you trust it, "
        f"allow it on the command line: allow=[{_to_allow(target)}]"
    )


def _why_missing(target: str, error: Exception) -> str:
    if today := new_target(target):
        return f"it is now called {today}"
    module, _, name = target.rpartition(".")
    if isinstance(error, AttributeError):
        near = closest(name, vars(importlib.import_module(module)))
        return f"{module} has no '{name}'.{near}"
    return f"cannot import {module} ({error})"


def _to_allow(target: str) -> str:
    """The least to allow for `target`: the package if it is the user's own, else the name alone."""
    package = target.partition(".")[0]
    return target if package in _known_packages() else package


def _known_packages() -> set[str]:
    """genlab and the libraries, by their top-level names."""
    return {prefix.partition(".")[0] for prefix in (*OWN, *LIBRARIES)}


def _may_build(found: Any, prefixes: tuple[str, ...]) -> bool:
    """Whether an object that is allowed by its name is a class of an allowed package.

    A module also has the names that it imports, so the name alone does not say where an object
    comes from. Functions may be called only if they are the user's own.
    """
    home = f"{getattr(found, '__module__', '')}."
    own = tuple(prefix for prefix in prefixes if not prefix.startswith((*OWN, *LIBRARIES)))
    if home.startswith(own) and not home.startswith("genlab."):
        return True
    return inspect.isclass(found) and home.partition(".")[0] in _known_packages()


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
    """Check the directives (`_target_`, `_partial_`, ...) of the node under `key`.

    Returns:
        One line for each error, which begins with its key.
    """
    dot = f"{key}." if key else ""
    errors = [
        f"{dot}{name}={node[name]}: expected {expected}"
        for name, (kind, expected) in DIRECTIVES.items()
        if name in node and not isinstance(node[name], kind)
    ]
    return errors + [
        f"{dot}{name}={node[name]}: only {value} is supported; leave it out"
        for name, value in FIXED.items()
        if node.get(name, value) != value
    ]


def check_forms(config: Any) -> None:
    """Check the directives of every node in `config`.

    Raises:
        ConfigError: The first one with a wrong value; the message begins with its key.
    """
    for key, node in targets(config):
        for error in form_errors(key, node):
            raise ConfigError(error)


def check_added(config: Any, given: Iterable[str] = ()) -> None:
    """Check that no node of `config` is a target of ADDED, unless genlab's own code builds it now.

    Args:
        config: Plain containers.
        given: The arguments that genlab's own code adds to the outermost node.

    Raises:
        ConfigError: There is such a node, or the config itself has the argument that genlab adds.
    """
    for key, node in targets(config):
        added = ADDED.get(node["_target_"])
        if added is None or node.get("_partial_"):
            continue
        dot = f"{key}." if key else ""
        if added in node or node.get("_args_"):
            raise ConfigError(
                f"{dot}{added}: genlab gives this argument to {node['_target_']}; leave it out"
            )
        if key or added not in given:
            raise ConfigError(
                f"{dot}_target_={node['_target_']}: cannot be nested in another node here"
            )
