"""Settings that a system needs of distributed training."""

from typing import Any

__all__ = ["check_unused", "ddp_options"]


def ddp_options(trainer) -> dict[str, Any] | None:
    """The options of DistributedDataParallel; None where the strategy does not use it."""
    return getattr(trainer.strategy, "_ddp_kwargs", None)


def check_unused(trainer, why: str) -> None:
    """Checks that distributed training does not wait for parameters that a step leaves out.

    Args:
        trainer: The Lightning trainer.
        why: Why a step leaves out parameters, for the message.

    Raises:
        ValueError: It would wait for them.
    """
    options = ddp_options(trainer)
    if options is not None and not options.get("find_unused_parameters"):
        raise ValueError(
            f"trainer.strategy.find_unused_parameters=false: {why}; use "
            "trainer.strategy.find_unused_parameters=true"
        )
