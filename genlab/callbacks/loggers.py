"""Loggers of other projects, each behind an extra, and one way for pictures and texts to reach them
all.
"""

import fcntl
import functools
import importlib
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from genlab.files import write_text
from genlab.reading import read_json

__all__ = [
    "TrackioLogger",
    "attempt",
    "begin",
    "close",
    "finish",
    "mlflow",
    "show",
    "show_texts",
    "tensorboard",
    "wandb",
]


def require(package: str, logger: str) -> Any:
    """The package of a logger; ValueError naming the extra it comes with."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"logger={logger}: {error}; pip install 'genlab[{logger}]'") from None


def remembered(save_dir: str, logger: str, make) -> str:
    """The id that the run in `save_dir` has with a logger's service: what was noted at its start,
    or what `make` returns.
    """
    path = Path(save_dir) / "loggers.json"
    hint = "move it away, and the services get a new run"
    ids = read_json(path, dict[str, str], hint) if path.exists() else {}
    if logger not in ids:
        ids[logger] = make()
        write_text(path, json.dumps(ids) + "\n")
    return ids[logger]


# --- the loggers ----------------------------------------------------------------------------------


def tensorboard(save_dir: str) -> TensorBoardLogger:
    """Event files in <save_dir>/tensorboard."""
    require("tensorboard", "tensorboard")
    return TensorBoardLogger(save_dir, name="tensorboard", version="")


def wandb(
    save_dir: str, project: str = "genlab", entity: str | None = None, offline: bool = False
) -> WandbLogger:
    """Weights & Biases; a resumed run goes on under its id. offline: into <save_dir>/wandb, for
    `wandb sync` later.
    """
    require("wandb", "wandb")
    run_id = (
        remembered(save_dir, "wandb", lambda: uuid.uuid4().hex[:8])
        if rank_zero_only.rank == 0
        else None
    )
    options = {"entity": entity} if entity else {}
    name = Path(save_dir).name
    return WandbLogger(
        name, save_dir, id=run_id, offline=offline, project=project, resume="allow", **options
    )


def mlflow(
    save_dir: str,
    experiment_name: str = "genlab",
    tracking_uri: str = "sqlite:///outputs/mlflow.db",
) -> MLFlowLogger:
    """MLflow; a resumed run goes on under its id. Pictures and texts of a local store go in a
    folder beside it.
    """
    require("mlflow", "mlflow")
    options: dict[str, Any] = {
        "experiment_name": experiment_name,
        "tracking_uri": tracking_uri,
        "run_name": Path(save_dir).name,
    }
    if rank_zero_only.rank != 0:
        return MLFlowLogger(**options)
    if not tracking_uri.startswith("sqlite:///"):
        return MLFlowLogger(
            **options, run_id=remembered(save_dir, "mlflow", lambda: MLFlowLogger(**options).run_id)
        )
    store = Path(tracking_uri.removeprefix("sqlite:///"))
    store.parent.mkdir(parents=True, exist_ok=True)
    options["artifact_location"] = (store.parent.absolute() / "mlartifacts").as_uri()
    with open(
        store.with_suffix(".lock"), "w"
    ) as lock:  # jobs of a sweep that start at once would all make the tables
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MLFlowLogger(
            **options, run_id=remembered(save_dir, "mlflow", lambda: MLFlowLogger(**options).run_id)
        )


class TrackioLogger(Logger):
    """Trackio: local first, with a dashboard (`trackio show`). Its files are in $TRACKIO_DIR, else
    in Hugging Face's cache.

    project: what runs are gathered under. space_id: a Hugging Face Space to send them to.
    """

    def __init__(self, save_dir: str, project: str = "genlab", space_id: str | None = None):
        super().__init__()
        self.trackio = require("trackio", "trackio")
        self.project, self.space_id, self.run = project, space_id, None
        self.run_name = Path(save_dir).name
        if rank_zero_only.rank == 0:
            self.run_name = remembered(
                save_dir, "trackio", lambda: f"{self.run_name}-{uuid.uuid4().hex[:6]}"
            )
        self.config: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.run_name

    @property
    @rank_zero_experiment
    def experiment(self):
        if self.run is None:
            options = {"name": self.run_name, "space_id": self.space_id, "config": self.config}
            self.run = self.trackio.init(
                self.project, **options, resume="allow", embed=False, auto_log_gpu=False
            )
        return self.run

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args, **kwargs) -> None:
        self.config = dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)


# --- from the first step to the last, whatever fails ----------------------------------------------


def begin(loggers: Sequence[Logger], settings: Mapping[str, Any], resumed: bool) -> None:
    """Hands the run's `settings` to all loggers; from then on no failure of theirs stops the
    training.

    What fails here, before a step is taken, is a ValueError that names the logger. A later failure
    (its disk is full, its service is gone) is told once, in one line, and the logger is tried again
    at its next call.
    """
    for logger in loggers:
        try:
            if not (
                resumed and isinstance(logger, MLFlowLogger)
            ):  # which keeps the values that a run began with
                logger.log_hyperparams(settings)
        except Exception as error:
            raise ValueError(f"logger={_word(logger)}: {_first_line(error)}") from error
        for name in ("log_metrics", "save", "finalize", "after_save_checkpoint"):
            setattr(logger, name, functools.partial(attempt, logger, getattr(logger, name)))


def attempt(logger: Logger, call: Callable, *args: Any, **kwargs: Any) -> Any:
    """call(*args, **kwargs), or one warning that names `logger`."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        if not getattr(logger, "has_failed", False):
            logger.has_failed = True
            what = f"logger={_word(logger)} failed; training continues, later values may be missing there"
            print(f"genlab: warning: {what}: {_first_line(error)}", file=sys.stderr)


def _word(logger: Logger) -> str:
    words = {
        TensorBoardLogger: "tensorboard",
        WandbLogger: "wandb",
        MLFlowLogger: "mlflow",
        TrackioLogger: "trackio",
    }
    return words.get(type(logger), logger.name)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- what is no number ----------------------------------------------------------------------------


def show(loggers: Sequence[Logger], key: str, path: Path, step: int) -> None:
    """Sends the PNG `path` as `key` to each logger that takes pictures."""
    for logger in loggers:
        attempt(logger, _show, logger, key, path, step)


def _show(logger: Logger, key: str, path: Path, step: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [str(path)])
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(
            key, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC"
        )
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(
            logger.run_id, Image.open(path), key=key.replace("/", "_"), step=step
        )
    elif isinstance(logger, TrackioLogger):
        logger.experiment.log({key: logger.trackio.Image(str(path))}, step=step)


def show_texts(
    loggers: Sequence[Logger], key: str, rows: Sequence[Mapping[str, Any]], step: int
) -> None:
    """Sends `rows` of the same keys, texts beside their inputs, as a table `key` to each logger
    that takes them.
    """
    if not rows:
        return
    columns = list(rows[0])
    table = [["" if row[c] is None else str(row[c]) for c in columns] for row in rows]
    for logger in loggers:
        attempt(logger, _show_table, logger, key, columns, table, step)


def _show_table(
    logger: Logger, key: str, columns: list[str], table: list[list[str]], step: int
) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_text(key, columns, table)
    elif isinstance(logger, TensorBoardLogger):
        lines = [columns, ["-"] * len(columns), *table]
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        logger.experiment.add_text(
            key, "\n".join("|" + "|".join(line) + "|" for line in cells), step
        )
    elif isinstance(logger, MLFlowLogger):
        whole = {name: [row[i] for row in table] for i, name in enumerate(columns)}
        logger.experiment.log_table(logger.run_id, whole, f"{key}_{step:06d}.json")
    elif isinstance(logger, TrackioLogger):
        import pandas

        frame = pandas.DataFrame(table, columns=columns)
        logger.experiment.log({key: logger.trackio.Table(dataframe=frame)}, step=step)


def finish(
    loggers: Sequence[Logger], metrics: Mapping[str, float], pictures: Sequence[Path], step: int
) -> None:
    """Sends what was measured after training to all loggers but metrics.csv, which holds curves."""
    others = [logger for logger in loggers if logger.name != "csv"]
    for logger in others:
        logger.log_metrics(dict(metrics), step)
    for path in pictures:
        show(others, f"test/{path.stem}", path, step)


def close(loggers: Sequence[Logger]) -> None:
    """Ends the runs of those loggers that have one a process, for the next job of a sweep to begin
    its own.
    """
    for logger in loggers:
        attempt(logger, _close, logger)


def _close(logger: Logger) -> None:
    if isinstance(logger, TensorBoardLogger) and logger._experiment is not None:
        logger.experiment.close()
    elif isinstance(logger, WandbLogger) and logger._experiment is not None:
        logger.experiment.finish()
    elif isinstance(logger, TrackioLogger) and logger.run is not None:
        logger.run.finish()
