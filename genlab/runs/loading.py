"""A trained model out of its run directory or export, in one call."""

from collections.abc import Iterable
from pathlib import Path

from genlab import config
from genlab.errors import RunError
from genlab.runs.checkpoints import checkpoint_path, read_checkpoint, read_safetensors

__all__ = ["load"]


def load(run: str | Path, ckpt: str = "last", weights: str = "ema", device: str = "cpu", allow: Iterable[str] = ()):
    """The trained model of a run directory, ready to `sample`, `encode`, ... in eval mode on `device`.

    run: or the directory of an export, which has no ckpt and weights to choose. ckpt: best, last or a path. weights: ema
    (the moving average, where the run kept one) or raw. allow: packages besides genlab's own that the run's config may
    build from. Raises RunError or ConfigError, naming the file or key.
    """
    frozen = config.read_frozen(run)
    built = {name: frozen[name] for name in ("model", *config.PARTS) if frozen.get(name) is not None}
    config.validate(built | {"allow": list(allow)}, {"model": config.PARTS})
    system = config.build_system(frozen, allow)
    exported = Path(run) / "model.safetensors"
    if exported.is_file() and not (Path(run) / "checkpoints").exists():  # of genlab export: one set of weights
        if weights != "ema" or ckpt != "last":
            raise RunError(
                f"weights={weights}, ckpt={ckpt}: {run} is an export and holds one set of weights; leave them out"
            )
        checkpoint = {"state_dict": read_safetensors(exported)}
    else:
        checkpoint = read_checkpoint(checkpoint_path(run, ckpt))
    state = checkpoint["state_dict"]
    if weights not in ("ema", "raw"):
        raise RunError(f"weights={weights}: expected ema or raw")
    if weights == "ema":
        state = state | checkpoint.get("ema", {})
    try:
        system.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"{run}: its checkpoint does not fit its config.yaml ({str(error).splitlines()[1].strip()})"
        ) from None
    if weights == "ema" and "ema" in checkpoint and hasattr(system, "refresh"):
        system.refresh()  # an average of what was derived from weights is not what the averaged weights give
    return system.to(device).eval().requires_grad_(False)
