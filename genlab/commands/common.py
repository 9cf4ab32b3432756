"""What several commands share: opening a trained run and its data, and what its model can do."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from genlab import config, console, runs
from genlab.errors import ConfigError, RunError
from genlab.systems.base import BindsData, HasSamplers, HasStandingStatistics, System

__all__ = [
    "bind_data",
    "build_data",
    "choose_sampler",
    "image_form",
    "load_system",
    "methods_of",
    "offers",
    "options_for",
    "output_file",
    "pick_device",
    "print_codes",
    "progress_bar",
    "recompute_statistics",
    "require",
    "require_run",
    "with_vocabulary",
]


# --- a trained run --------------------------------------------------------------------------------


def require_run(settings: Mapping[str, Any], command: str) -> Path:
    """The directory of run=; RunError where it is not given."""
    if not settings.get("run"):
        example = f"genlab {command} run=outputs/train/..."
        raise RunError(f"run=: genlab {command} needs a run directory, as in {example}")
    return Path(settings["run"])


def load_system(settings: Mapping[str, Any], run_path: Path) -> System:
    """The trained system of a run, by ckpt=, weights=, device= and allow=."""
    device = pick_device(settings["device"])
    return runs.load(
        run_path, settings["ckpt"], settings["weights"], device, allow=settings["allow"]
    )


def pick_device(name: str) -> str:
    """The device that device= names; auto: the accelerator that torch finds, else cpu.

    Raises:
        ConfigError: If the device cannot be used on this machine.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator.type if accelerator is not None else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without it
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device={name}: cannot be used on this machine ({reason}); device=auto finds one"
        ) from None
    return name


# --- the data of a run ----------------------------------------------------------------------------


def build_data(settings: Mapping[str, Any]) -> Any:
    """The data module of `settings`, validated first; ConfigError where the run names none."""
    if "_target_" not in settings["data"]:
        raise ConfigError("data: the run's config names no data; choose some, as in data=mnist5k")
    config.validate({"data": settings["data"], "allow": settings["allow"]})
    return config.build(settings["data"], settings["allow"])


def with_vocabulary(data: Mapping[str, Any], run_path: Path) -> dict[str, Any]:
    """The config of text data, to be read with the vocabulary that the run stores.

    The model knows that vocabulary alone, and the file that it came from may be gone.
    """
    stored = {"vocab": str(run_path.absolute()), "simplified": False}
    return {**data, **{name: value for name, value in stored.items() if name in data}}


def image_form(data: Any) -> dict[str, Any]:
    """The size, channels, crop and resizing of a run's images, as arguments of `read_images`."""
    return {name: getattr(data, name) for name in ("image_size", "channels", "crop", "resize")}


def bind_data(system: System, data: Any) -> None:
    """Gives the data module to a system that needs it, for instance for a perceptual distance."""
    if isinstance(system, BindsData):
        system.bind(data)


# --- what a model can do --------------------------------------------------------------------------


def require(system: System, capability: type, option: str, kind: str) -> None:
    """Checks that `system` has what an option needs.

    Args:
        system: The loaded system.
        capability: A Protocol of genlab.systems.base.
        option: The option that needs it, as it is typed: "method=optimize".
        kind: The models that have it, in words: "a model with a generator".

    Raises:
        RunError: If it has not; names the systems that have it.
    """
    if isinstance(system, capability):
        return
    able = ", ".join(_systems_with(capability, system.modality == "text")) or "none of genlab's own"
    raise RunError(f"{option} needs {kind} ({able}); this run is a {type(system).__name__}")


def _systems_with(capability: type, are_text: bool) -> list[str]:
    """The text systems, or the others, of the shipped recipes that have a capability.

    Of a class and its subclasses the class alone.
    """
    names = [name for name in config.registry() if name.startswith("genlab.systems.")]
    classes = [one for one in map(config.locate, names) if inspect.isclass(one)]
    able = {
        cls
        for cls in classes
        if issubclass(cls, LightningModule)
        and offers(cls, capability)
        and (getattr(cls, "modality", "image or point") == "text") == are_text
    }
    return sorted(cls.__name__ for cls in able if able.isdisjoint(cls.__mro__[1:]))


def offers(cls: type, capability: type) -> bool:
    """Whether the instances of a class have all methods of a Protocol.

    Attributes that a constructor sets exist on instances alone, so a class is not asked for them.
    """
    return all(hasattr(cls, name) for name in methods_of(capability))


def methods_of(capability: type) -> list[str]:
    """The names of the methods of a Protocol."""
    members = vars(capability).items()
    return [name for name, one in members if inspect.isfunction(one) and not name.startswith("_")]


def options_for(method: Callable, settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those options among `names` that are set, as arguments of a system's method.

    Raises:
        ConfigError: If the method does not take one of them.
    """
    chosen = {name: settings[name] for name in names if settings.get(name) is not None}
    known = [name for name in names if name in inspect.signature(method).parameters]
    for name, value in chosen.items():
        if name not in known:
            model = type(method.__self__).__name__
            instead = f"it takes {', '.join(known)}" if known else f"leave {name}= out"
            raise ConfigError(f"{name}={value}: has no effect on a {model}; {instead}")
    return chosen


def choose_sampler(system: System, name: str | None) -> None:
    """Sets how `system` draws its codes; None: its own way.

    Raises:
        ConfigError: If it has no sampler of that name.
    """
    if name is None:
        return
    model = type(system).__name__
    if not isinstance(system, HasSamplers):
        raise ConfigError(f"sampler={name}: {model} has one way to sample; leave sampler= out")
    if name not in system.samplers:
        known = ", ".join(system.samplers)
        hint = config.closest(name, system.samplers)
        raise ConfigError(f"sampler={name}: {model} has {known}.{hint}")
    system.sampler = name


def recompute_statistics(system: System, num_batches: int) -> None:
    """Recomputes the generator's batch statistics by standing= batches; 0: keeps them."""
    if num_batches:
        kind = "a generator whose batch statistics can be recomputed"
        require(system, HasStandingStatistics, f"standing={num_batches}", kind)
        system.stand(num_batches)


# --- what a command prints and writes -------------------------------------------------------------


def output_file(settings: Mapping[str, Any], run_dir: Path, name: str) -> Path:
    """The file of out=; `name` in the command's own directory where out= is not given.

    Raises:
        ConfigError: If its suffix is not that of `name`.
    """
    out, suffix = Path(settings["out"] or run_dir / name), Path(name).suffix
    if out.suffix != suffix:
        raise ConfigError(f"out={out}: expected a file name that ends in {suffix}")
    return out


def print_codes(out: Path, arrays: Mapping[str, Any]) -> None:
    """One line on a file of codes: its name, their shape and the arrays in it."""
    count, dim = arrays["codes"].shape
    print(f"codes    {out}  {count} x {dim}, with {', '.join(arrays)}")


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function (description, done, total) that shows the progress of each measurement."""
    with console.progress() as bar:
        tasks: dict[str, Any] = {}

        def show(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield show
