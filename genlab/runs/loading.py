"""A trained model out of its run directory or export, in one call."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from genlab import config
from genlab.errors import RunError
from genlab.runs.checkpoints import checkpoint_path, others, read_checkpoint
from genlab.tensors import not_finite, read_safetensors

__all__ = ["load"]


def load(
    run: str | Path,
    ckpt: str = "last",
    weights: str = "ema",
    device: str = "cpu",
    allow: Iterable[str] = (),
):
    """The trained model of a run directory, ready to `sample`, `encode`, ... in eval mode on
    `device`.

    run: or the directory of an export, which has no ckpt and weights to choose. ckpt: best, last or
    a path. weights: ema (the moving average, where the run kept one) or raw. allow: packages
    besides genlab's own that the run's config may build from. Raises RunError or ConfigError,
    naming the file or key.
    """
    if weights not in ("ema", "raw"):
        raise RunError(f"weights={weights}: expected ema or raw")
    frozen = config.read_frozen(run)
    built = {
        name: frozen[name] for name in ("model", *config.PARTS) if frozen.get(name) is not None
    }
    config.validate(built | {"allow": list(allow)}, {"model": config.PARTS})
    system = config.build_system(frozen, allow)
    exported = Path(run) / "model.safetensors"
    if (
        exported.is_file() and not (Path(run) / "checkpoints").exists()
    ):  # of genlab export: one set of weights
        if weights != "ema" or ckpt != "last":
            raise RunError(
                f"weights={weights}, ckpt={ckpt}: {run} is an export and holds one set of weights; leave them out"
            )
        averaged, path = False, exported
        fill(system, read_safetensors(path), path, "; export the run again")
    else:
        path = checkpoint_path(run, ckpt)
        checkpoint = read_checkpoint(path)
        averaged = weights == "ema" and "ema" in checkpoint
        fill(
            system,
            checkpoint["state_dict"] | (checkpoint["ema"] if averaged else {}),
            path,
            others(path),
        )
    if averaged and hasattr(system, "refresh"):
        # an average of what was derived from weights is not what the averaged weights give
        system.refresh()
    return system.to(device).eval().requires_grad_(False)


def fill(system, state: Mapping[str, Tensor], path: Path, instead: str) -> None:
    """Puts `state` into `system`; RunError naming the file `path` where it does not fit or is not
    finite.

    instead: the end of the message, what else could be used.
    """
    types = {name: value.dtype for name, value in system.state_dict().items()}
    for name, value in state.items():
        if name in types and types[name].is_floating_point != value.dtype.is_floating_point:
            raise RunError(
                f"{path}: {name} is {value.dtype}, the model of config.yaml has {types[name]} there{instead}"
            )
    try:
        system.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RunError(
            f"{path}: does not fit the model of config.yaml ({lines[min(1, len(lines) - 1)]}){instead}"
        ) from None
    if bad := not_finite(system.state_dict()):
        raise RunError(
            f"{path}: {len(bad)} of its tensors hold NaN or infinity, {bad[0]} the first; training had diverged{instead}"
        )
