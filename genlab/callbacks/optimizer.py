"""A resumed run takes changed learning rates and other optimiser settings from its config."""

from typing import Any

from lightning.pytorch import Callback

__all__ = ["Hyperparameters"]


class Hyperparameters(Callback):
    """Applies changed optimiser settings (rates, betas, weight decay) to a resumed run.

    A restored optimiser has the settings of its checkpoint. Those that the config changed since are
    set to today's values. Others keep what a schedule or the system made of them, and the
    optimiser's state (moments, step counts) is untouched.
    """

    def __init__(self):
        # The configured settings: of each optimiser, of each parameter group
        self.configured: list[list[dict[str, Any]]] = []
        self.saved: list[list[dict[str, Any]]] | None = None

    def on_fit_start(self, trainer, system) -> None:
        self.configured = _settings(trainer.optimizers)

    def on_train_start(self, trainer, system) -> None:
        if trainer.ckpt_path is None:
            return
        saved = self.saved or _settings(trainer.optimizers)
        if [len(groups) for groups in saved] != [len(groups) for groups in self.configured]:
            return
        for optimizer, before, now in zip(trainer.optimizers, saved, self.configured, strict=True):
            for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
                group |= {name: value for name, value in new.items() if old.get(name) != value}
        for config in trainer.lr_scheduler_configs:
            _follow(config.scheduler)

    def state_dict(self) -> dict:
        return {"configured": self.configured}

    def load_state_dict(self, state: dict) -> None:
        self.saved = state["configured"]


def _settings(optimizers: list) -> list[list[dict[str, Any]]]:
    return [[_plain(group) for group in one.param_groups] for one in optimizers]


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that come from the config.

    Where a schedule computes the rate, that is its initial rate.
    """
    plain = (bool, int, float, str, type(None), list, tuple)
    derived = {"params", "lr"} if "initial_lr" in group else {"params"}
    return {
        name: value
        for name, value in group.items()
        if name not in derived and isinstance(value, plain)
    }


def _follow(schedule) -> None:
    """Makes a schedule start from the groups' present initial rates where these changed."""
    groups = schedule.optimizer.param_groups
    rates = [group["initial_lr"] for group in groups if "initial_lr" in group]
    before = getattr(schedule, "base_lrs", None)  # not every schedule of torch has them
    if before is None or len(rates) != len(before) or rates == list(before):
        return
    for group, old, new in zip(groups, before, rates, strict=True):
        group["lr"] = group["lr"] * new / old if old else new
    schedule.base_lrs = rates
    schedule._last_lr = [group["lr"] for group in groups]
