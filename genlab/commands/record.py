"""What a run directory says of the run that is trained in it changes when the first step is taken,
not before.
"""

from collections.abc import Callable

from lightning.pytorch import Callback

from genlab import runs

__all__ = ["Record"]


class Record(Callback):
    """Calls `begin` once, at the end of the first step at the latest, and stops a run whose
    directory is moved away.
    """

    def __init__(self, manifest: runs.Manifest):
        self.manifest = manifest
        self.begin: Callable[[], None] = lambda: None
        self.begun = False

    def start(self) -> None:
        if not self.begun:
            self.begun = True
            self.begin()

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        self.manifest.check_place()
        self.start()

    def on_step_end(self, trainer, system, ended: bool) -> None:
        self.manifest.check_place()
