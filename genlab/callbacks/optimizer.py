"""The optimiser of a resumed run has the rates and other settings of the config where these were
changed.
"""

from typing import Any

from lightning.pytorch import Callback

__all__ = ["Hyperparameters"]


class Hyperparameters(Callback):
    """Sets what the config says of the optimiser and differs from what it said before: rates,
    betas, weight decay.

    A restored optimiser has the settings of its checkpoint. Its state (moments, counts) stays; what
    a schedule or a system made of a setting that was not changed stays as well.
    """

    def __init__(self):
        self.configured: list[
            list[dict[str, Any]]
        ] = []  # of each group of each optimiser, as the config has it
        self.saved: list[list[dict[str, Any]]] | None = None

    def on_fit_start(self, trainer, system) -> None:
        self.configured = [
            [_settings(group) for group in one.param_groups] for one in trainer.optimizers
        ]

    def on_train_start(self, trainer, system) -> None:
        if trainer.ckpt_path is None:
            return
        saved = self.saved or [
            [_settings(group) for group in one.param_groups] for one in trainer.optimizers
        ]
        if [len(one) for one in saved] != [len(one) for one in self.configured]:
            return
        for optimizer, before, now in zip(trainer.optimizers, saved, self.configured, strict=True):
            for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
                group |= {name: value for name, value in new.items() if old.get(name) != value}
        for schedule in (entry.scheduler for entry in trainer.lr_scheduler_configs):
            _follow(schedule)

    def state_dict(self) -> dict:
        return {"configured": self.configured}

    def load_state_dict(self, state: dict) -> None:
        self.saved = state["configured"]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What was configured of a group: its initial rate, where a schedule makes its rate of that."""
    plain = (bool, int, float, str, type(None), list, tuple)
    derived = {"params", "lr"} if "initial_lr" in group else {"params"}
    return {
        name: value
        for name, value in group.items()
        if name not in derived and isinstance(value, plain)
    }


def _follow(schedule) -> None:
    """Makes a schedule start from the groups' present initial rates, where they changed."""
    rates = [
        group["initial_lr"] for group in schedule.optimizer.param_groups if "initial_lr" in group
    ]
    if (
        not hasattr(schedule, "base_lrs")
        or len(rates) != len(schedule.base_lrs)
        or rates == list(schedule.base_lrs)
    ):
        return
    for group, old, new in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, rates, strict=True
    ):
        group["lr"] = group["lr"] * new / old if old else new
    schedule.base_lrs = rates
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]
