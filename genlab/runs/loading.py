"""Load a trained model from its run directory or export, in one call."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genlab import config
from genlab.errors import RunError
from genlab.runs.checkpoints import checkpoint_path, other_checkpoints, read_checkpoint
from genlab.systems.base import Derived
from genlab.tensors import not_finite, read_safetensors

__all__ = ["load"]


def load(
    run: str | Path,
    ckpt: str = "last",
    weights: str = "ema",
    device: str = "cpu",
    allow: Iterable[str] = (),
) -> Any:
    """Load the trained model of a run directory, in eval mode and without gradients.

    Args:
        run: A run directory, or the directory of an export, which holds one set of weights.
        ckpt: best, last, or the path of a checkpoint.
        weights: ema (the moving average, if the run kept one) or raw.
        device: Where the model goes.
        allow: Packages besides genlab that the config of the run may build from.

    Returns:
        The system, ready to `sample`, `encode`, ...

    Raises:
        ConfigError: The config cannot be used; the message names the key.
        RunError: A file is missing, damaged, or does not fit the model; the message names it.
    """
    if weights not in ("ema", "raw"):
        raise RunError(f"weights={weights}: expected ema or raw")
    frozen = config.read_frozen(run)
    parts = [name for name in ("model", *config.PARTS) if frozen.get(name) is not None]
    built = {name: frozen[name] for name in parts}
    config.validate(built | {"allow": list(allow)}, {"model": config.PARTS})
    system = config.build_system(frozen, allow)
    averaged = False
    exported = Path(run) / "model.safetensors"
    if exported.is_file() and not (Path(run) / "checkpoints").exists():
        if weights != "ema" or ckpt != "last":
            raise RunError(
                f"weights={weights} ckpt={ckpt}: {run} is an export with one set of weights; "
                "leave out both"
            )
        fill(system, read_safetensors(exported), exported, "; export the run again")
    else:
        path = checkpoint_path(run, ckpt)
        checkpoint = read_checkpoint(path)
        averaged = weights == "ema" and "ema" in checkpoint
        state = checkpoint["state_dict"] | (checkpoint["ema"] if averaged else {})
        fill(system, state, path, other_checkpoints(path))
    if averaged and isinstance(system, Derived):
        # Buffers computed from the weights are not computed from the average of the weights.
        system.refresh()
    return system.to(device).eval().requires_grad_(False)


def fill(system: Any, state: Mapping[str, Tensor], path: Path, instead: str) -> None:
    """Load `state` into `system`.

    Args:
        system: The model.
        state: Its state dict.
        path: The file that `state` comes from.
        instead: The end of the message, which says what else the user can try.

    Raises:
        RunError: A tensor does not fit the model or is not finite.
    """
    types = {name: value.dtype for name, value in system.state_dict().items()}
    for name, value in state.items():
        if name in types and types[name].is_floating_point != value.dtype.is_floating_point:
            raise RunError(
                f"{path}: {name} is {value.dtype}, and the model of config.yaml expects "
                f"{types[name]}{instead}"
            )
    try:
        system.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        first = lines[min(1, len(lines) - 1)]
        raise RunError(
            f"{path}: does not fit the model of config.yaml ({first}){instead}"
        ) from None
    if bad := not_finite(system.state_dict()):
        raise RunError(
            f"{path}: NaN or infinity in {len(bad)} of its tensors (first: {bad[0]}), "
            f"because training had diverged{instead}"
        )
