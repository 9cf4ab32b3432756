"""What a config means: validated as a whole, built from an allow-list, its errors answered with the closest key."""

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from genlab.words import literal

__all__ = [
    "ConfigError",
    "build",
    "build_system",
    "closest",
    "flatten",
    "from_run",
    "read_frozen",
    "resolve",
    "validate",
]

# genlab's own packages may offer functions; elsewhere only classes are built (torch.hub.load is a function).
OWN = tuple(f"genlab.{name}." for name in ["systems", "models", "losses", "nn", "data", "callbacks", "metrics"])
LIBRARIES = ("torch.nn.", "torch.optim.", "torchvision.models.", "lightning.pytorch.", "torchmetrics.")
PARTS = ("net", "loss", "penalty", "augment")  # groups that are arguments of the system
DIRECTIVES = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


def _shape(data: Mapping) -> list[int]:
    """${shape:${data}}: (C, H, W) of the images of a `data` node, (2,) of points of the plane."""
    if "vocab_size" in data:
        raise ConfigError("the chosen data are texts, and this recipe is for images or points; choose another data=")
    return [data["channels"], data["image_size"], data["image_size"]] if "image_size" in data else [2]


def _likelihood(data: Mapping) -> str:
    """${likelihood:${data}}: what a flow's likelihood of a `data` node is logged as."""
    return "bits_per_dim" if "image_size" in data else "nll"


OmegaConf.register_new_resolver("shape", _shape, replace=True)
OmegaConf.register_new_resolver("likelihood", _likelihood, replace=True)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key."""


def closest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """ " Did you mean 'x'?" for the closest of `words`, or nothing; cutoff: how like it has to be, of 1."""
    words = list(words)
    match = difflib.get_close_matches(word, words, 1, cutoff)
    if not match and "." not in word:  # a bare leaf name: compare with the leaves of dotted keys
        leaves = {w.rsplit(".", 1)[-1]: w for w in reversed(words)}
        match = [leaves[leaf] for leaf in difflib.get_close_matches(word, leaves, 1)]
    return f" Did you mean '{match[0]}'?" if match else ""


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted keys."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    items = {}
    for key, value in node.items():
        items |= {prefix: {}} if not value and isinstance(value, Mapping) else {}
        items |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return items


# --- a run's own config --------------------------------------------------------------------------------------------


def read_frozen(run: str | Path) -> dict:
    """The config that the run directory `run` was trained with, as plain containers.

    Its `allow` list is emptied and anything for Hydra itself is dropped: what comes out of a run directory may be
    somebody else's, and must not widen what can be built. Raises ConfigError where there is no readable config.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run={run}: there is no {path.name} in it; expected a directory that `genlab train` left")
    try:
        frozen = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(frozen, dict) or not isinstance(frozen.get("model"), dict):
        raise ConfigError(f"{path}: expected the config of a genlab run, with a 'model' in it")
    return {key: value for key, value in frozen.items() if key not in ("hydra", "defaults")} | {"allow": []}


def options(group: str) -> list[str]:
    """The names of what genlab ships for a config group."""
    entries = files("genlab.conf").joinpath(group).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def from_run(command: str, words: list[str]) -> tuple[str, list[str]]:
    """(config name, overrides to add) for a command line whose `words` may name a run with run=<dir>.

    `train run=` composes the run's frozen config itself; the other commands take its `data` as their default.
    """
    runs = [word.partition("=")[2] for word in words if word.startswith("run=")]
    parsed = [OverridesParser.create().parse_override(literal(f"run={run}")) for run in runs]
    runs = [run if one.is_sweep_override() else str(one.value()) for run, one in zip(runs, parsed, strict=True)]
    if command == "train":
        if not runs:
            return "train", []
        if "-m" in words or "--multirun" in words:
            raise ConfigError("run= continues one run in place; it cannot be swept with -m")
        frozen = read_frozen(runs[-1])
        defaults = ["_self_", {"hydra": "default"}]
        ConfigStore.instance().store(name="resume", node={"defaults": defaults, **frozen})
        directory = QuotedString(str(Path(runs[-1]).absolute()), Quote.single).with_quotes()
        return "resume", [f"hydra.run.dir={directory}", "hydra.output_subdir=null", "hydra.job.name=train"]
    frozen = read_frozen(runs[-1]) if runs else {}
    ConfigStore.instance().store(group="data", name="of_run", node=frozen.get("data", {}))
    if command == "eval":
        for name in options("data"):  # every data set may also be the one that is told from the run's: ood=<name>
            ConfigStore.instance().store(group="ood", name=name, node={"defaults": [{"/data@_here_": name}]})
    name = re.sub(r"\W", "_", str(frozen.get("name")))
    return command, [f"name={name}"] if runs else []


# --- the allow-list ------------------------------------------------------------------------------------------------


def locate(target: str, allow: Iterable[str] = ()) -> Any:
    """The class or function named by the dotted path `target`; ConfigError unless an allow-listed package has it."""
    allow = tuple(prefix.rstrip(".") + "." for prefix in allow)
    if not target.startswith((*OWN, *LIBRARIES, *allow)):
        raise ConfigError(
            f"_target_={target} is not in a package that configs may build from "
            f"({', '.join(p + '*' for p in (*OWN, *LIBRARIES, *allow))}). If you trust it, add its package on the "
            f"command line: allow=[{target.split('.')[0]}]"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"_target_={target}: cannot import {module} ({error})") from None
    except AttributeError:
        names = vars(importlib.import_module(module))
        raise ConfigError(f"_target_={target}: {module} has no '{name}'.{closest(name, names)}") from None
    # A path like genlab.runs.os.system must not reach what a module merely imported.
    home = getattr(found, "__module__", "") + "."
    ours = home.startswith((*OWN, *allow))
    if not ours and not (inspect.isclass(found) and home.startswith(tuple(p.split(".")[0] for p in LIBRARIES))):
        raise ConfigError(f"_target_={target}: configs may only build classes, and this is {found!r} of {home[:-1]}")
    return found


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


def build(node: Mapping, allow: Iterable[str] = (), **kwargs: Any) -> Any:
    """The object that `node` describes, nested nodes first; `kwargs` are added to the outermost call."""
    node = resolve(node)
    for _, inner in targets(node):
        locate(inner["_target_"], allow)
    try:
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        raise error.__cause__ or error from None  # what the constructor said, without Hydra's wrapping


def build_system(cfg: Mapping, allow: Iterable[str] = ()) -> Any:
    """The system of `cfg.model`, handed those of PARTS that the config has."""
    parts = {name: build(cfg[name], allow) for name in PARTS if cfg.get(name) is not None}
    return build(cfg["model"], allow, **parts)


# --- validation ----------------------------------------------------------------------------------------------------


def resolve(cfg: Any) -> Any:
    """`cfg` as plain containers with all interpolations resolved; ConfigError names the key that cannot be."""
    if not isinstance(cfg, DictConfig):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        why = str(error).splitlines()[0].removeprefix("ConfigError raised while resolving interpolation: ")
        if missing := re.search(r"Interpolation key '([^']+)' not found", why):
            near = closest(missing[1], flatten(OmegaConf.to_container(cfg)), 0.85)
            group = missing[1].partition(".")[0]
            why += f".{near}" if near else f": the chosen {group}= is of another kind than this recipe is for"
        raise ConfigError(f"{error.full_key}: {why}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: a value is required here ({error.full_key}=...)") from None


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a class or function, through **kwargs up to the parents' constructors.

    What a library does with its **kwargs is not known: then a parameter of kind VAR_KEYWORD is among them, and no
    parameter of a parent is required.
    """
    foreign = not target.__module__.startswith("genlab.")
    classes = target.__mro__ if inspect.isclass(target) else [target]
    found: dict[str, inspect.Parameter] = {}
    for cls in classes:
        call = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if call is None:
            continue
        try:
            signature = list(inspect.signature(call).parameters.values())[inspect.isclass(cls) :]
        except (TypeError, ValueError):  # a C slot without a signature
            continue
        named = [p for p in signature if p.kind is not p.VAR_POSITIONAL and (foreign or p.kind is not p.VAR_KEYWORD)]
        if foreign and found:
            named = [p if p.kind is p.VAR_KEYWORD else p.replace(default=None) for p in named]
        found = {p.name: p for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            break
    return found


def type_error(value: Any, annotation: Any) -> str | None:
    """Why `value` cannot be of the simple type `annotation`; None if it can, or if that is not checked."""
    options = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        if value in options:
            return None
        return f"expected one of {', '.join(map(str, options))}.{closest(str(value), map(str, options))}"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        errors = [type_error(value, option) for option in options]
        return None if None in errors else errors[0]
    if annotation is types.NoneType:
        return None if value is None else "expected null"
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return None
    if annotation in (int, float, str, bool):
        if isinstance(value, annotation) and not (annotation is int and isinstance(value, bool)):
            return None
        return f"expected {annotation.__name__}"
    return None


def check_call(key: str, node: Mapping, supplied: Iterable[str], allow: Iterable[str]) -> Iterable[str]:
    """The errors in calling `node`'s target with its keys and the arguments `supplied` in code."""
    try:
        target = locate(node["_target_"], allow)
    except ConfigError as error:
        yield f"{key}: {error}"
        return
    known = parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    known = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    given = {name: value for name, value in node.items() if name not in DIRECTIVES}
    for name, value in given.items():
        if name not in known and open_ended:
            continue
        if name not in known:
            yield f"{key}.{name}: {node['_target_']} has no such argument.{closest(name, known)}"
        elif not isinstance(value, Mapping) and (why := type_error(value, known[name].annotation)):
            yield f"{key}.{name}={value}: {why}"
    if not node.get("_partial_") and not node.get("_args_"):
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in given and name not in supplied:
                yield f"{key}.{name}: {node['_target_']} needs a value here ({key}.{name}=...)"


def validate(
    cfg: Mapping, supplied: Mapping[str, Iterable[str]] = types.MappingProxyType({}), keys: Iterable[str] | None = None
) -> None:
    """Binds every `_target_` of `cfg` to its signature; one ConfigError lists all that is wrong, with key paths.

    supplied: by key, the arguments that the command adds when it builds the node ("*" for the children of a key). keys:
    those that may be there at the top, None: any.
    """
    errors = [f"{key}: no such key.{closest(key, keys)}" for key in cfg if keys is not None and key not in keys]
    for key, node in targets(resolve(cfg)):
        parent = key.rpartition(".")[0]
        extra = [*supplied.get(key, ()), *(supplied.get(f"{parent}.*", ()))]
        errors += check_call(key, node, extra, cfg.get("allow") or ())
    if errors:
        raise ConfigError("\n  ".join([f"{len(errors)} error{'s' * (len(errors) > 1)} in the config:", *errors]))
