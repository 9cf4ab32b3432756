"""Loggers of other projects, and one way to send pictures and texts to all of them.

Each comes with an extra of the package: genlab[tensorboard], genlab[wandb], genlab[mlflow],
genlab[trackio].
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
    """The module `package`; ValueError that names the extra to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"logger={logger}: {error}; pip install 'genlab[{logger}]'") from None


def remember(save_dir: str, logger: str, make: Callable[[], str]) -> str:
    """The id of the run `save_dir` at a logger's service, the same when the run is resumed.

    Args:
        save_dir: The run directory, whose loggers.json keeps the ids.
        logger: Name of the service.
        make: Called for an id where none is kept yet.
    """
    path = Path(save_dir) / "loggers.json"
    hint = "move it away; the services then get a new run"
    ids = read_json(path, dict[str, str], hint) if path.exists() else {}
    if logger not in ids:
        ids[logger] = make()
        write_text(path, json.dumps(ids) + "\n")
    return ids[logger]


# --- the loggers ----------------------------------------------------------------------------------


def tensorboard(save_dir: str) -> TensorBoardLogger:
    """A TensorBoard logger that writes event files to <save_dir>/tensorboard."""
    require("tensorboard", "tensorboard")
    return TensorBoardLogger(save_dir, name="tensorboard", version="")


def wandb(
    save_dir: str, project: str = "genlab", entity: str | None = None, offline: bool = False
) -> WandbLogger:
    """A Weights & Biases logger; a resumed run continues under its id.

    Args:
        save_dir: The run directory, whose name is the run's name.
        project: The project to log to.
        entity: The user or team that owns the project; None: the account's default.
        offline: Write to <save_dir>/wandb only, for `wandb sync` later.
    """
    require("wandb", "wandb")
    run_id = None
    if rank_zero_only.rank == 0:
        run_id = remember(save_dir, "wandb", lambda: uuid.uuid4().hex[:8])
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
    """An MLflow logger; a resumed run continues under its id.

    Args:
        save_dir: The run directory, whose name is the run's name.
        experiment_name: The experiment to log to.
        tracking_uri: A server, or a local SQLite store; pictures and texts of a local store go to
            the folder mlartifacts beside it.
    """
    require("mlflow", "mlflow")
    options: dict[str, Any] = {
        "experiment_name": experiment_name,
        "tracking_uri": tracking_uri,
        "run_name": Path(save_dir).name,
    }

    def connect() -> MLFlowLogger:
        run_id = remember(save_dir, "mlflow", lambda: MLFlowLogger(**options).run_id)
        return MLFlowLogger(**options, run_id=run_id)

    if rank_zero_only.rank != 0:
        return MLFlowLogger(**options)
    if not tracking_uri.startswith("sqlite:///"):
        return connect()
    store = Path(tracking_uri.removeprefix("sqlite:///"))
    store.parent.mkdir(parents=True, exist_ok=True)
    options["artifact_location"] = (store.parent.absolute() / "mlartifacts").as_uri()
    # Jobs of a sweep that start together would otherwise all create the tables.
    with open(store.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return connect()


class TrackioLogger(Logger):
    """A Trackio logger: local, with a dashboard (`trackio show`).

    Its files are in $TRACKIO_DIR, or else in Hugging Face's cache.

    Args:
        save_dir: The run directory, whose name begins the run's name.
        project: The project to log to.
        space_id: A Hugging Face Space to log to as well; None: local only.
    """

    def __init__(self, save_dir: str, project: str = "genlab", space_id: str | None = None):
        super().__init__()
        self.trackio = require("trackio", "trackio")
        self.project = project
        self.space_id = space_id
        self.run = None
        self.run_name = Path(save_dir).name
        if rank_zero_only.rank == 0:
            new = f"{self.run_name}-{uuid.uuid4().hex[:6]}"
            self.run_name = remember(save_dir, "trackio", lambda: new)
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


# --- failures -------------------------------------------------------------------------------------


def begin(loggers: Sequence[Logger], settings: Mapping[str, Any], resumed: bool) -> None:
    """Sends the run's settings to all loggers; from then on their failures do not stop training.

    A later failure (a full disk, a service that is down) is one warning. The logger is tried again
    at its next call.

    Args:
        loggers: Of the run.
        settings: {dotted key: value} of the run's config.
        resumed: Whether the run continues an earlier one.

    Raises:
        ValueError: A logger fails here, before the first step; the message names it.
    """
    for logger in loggers:
        keeps_settings = resumed and isinstance(logger, MLFlowLogger)  # refuses changed values
        try:
            if not keeps_settings:
                logger.log_hyperparams(settings)
        except Exception as error:
            raise ValueError(f"logger={_name(logger)}: {_first_line(error)}") from error
        for name in ("log_metrics", "save", "finalize", "after_save_checkpoint"):
            setattr(logger, name, functools.partial(attempt, logger, getattr(logger, name)))


def attempt(logger: Logger, call: Callable, *args: Any, **kwargs: Any) -> Any:
    """Returns call(*args, **kwargs); where that fails, warns once for each logger."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        if not getattr(logger, "has_failed", False):
            logger.has_failed = True
            print(
                f"genlab: warning: logger={_name(logger)} failed; training continues, later values "
                f"may be missing there: {_first_line(error)}",
                file=sys.stderr,
            )


def _name(logger: Logger) -> str:
    """The option of logger= that makes `logger`."""
    names = {
        TensorBoardLogger: "tensorboard",
        WandbLogger: "wandb",
        MLFlowLogger: "mlflow",
        TrackioLogger: "trackio",
    }
    return names.get(type(logger), logger.name)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- pictures, texts and final metrics ------------------------------------------------------------


def show(loggers: Sequence[Logger], key: str, path: Path, step: int) -> None:
    """Sends the PNG `path` as `key` to each logger that takes pictures."""
    for logger in loggers:
        attempt(logger, _show, logger, key, path, step)


def _show(logger: Logger, key: str, path: Path, step: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [str(path)])
    elif isinstance(logger, TensorBoardLogger):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        logger.experiment.add_image(key, pixels, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        name = key.replace("/", "_")
        logger.experiment.log_image(logger.run_id, Image.open(path), key=name, step=step)
    elif isinstance(logger, TrackioLogger):
        logger.experiment.log({key: logger.trackio.Image(str(path))}, step=step)


def show_texts(
    loggers: Sequence[Logger], key: str, rows: Sequence[Mapping[str, Any]], step: int
) -> None:
    """Sends a table `key` to each logger that takes texts; all `rows` have the same keys."""
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
        markdown = "\n".join("|" + "|".join(line) + "|" for line in cells)
        logger.experiment.add_text(key, markdown, step)
    elif isinstance(logger, MLFlowLogger):
        by_column = {name: [row[i] for row in table] for i, name in enumerate(columns)}
        logger.experiment.log_table(logger.run_id, by_column, f"{key}_{step:06d}.json")
    elif isinstance(logger, TrackioLogger):
        import pandas

        frame = pandas.DataFrame(table, columns=columns)
        logger.experiment.log({key: logger.trackio.Table(dataframe=frame)}, step=step)


def finish(
    loggers: Sequence[Logger], metrics: Mapping[str, float], pictures: Sequence[Path], step: int
) -> None:
    """Sends final metrics and pictures to all loggers but metrics.csv, which holds curves only."""
    others = [logger for logger in loggers if logger.name != "csv"]
    for logger in others:
        logger.log_metrics(dict(metrics), step)
    for path in pictures:
        show(others, f"test/{path.stem}", path, step)


def close(loggers: Sequence[Logger]) -> None:
    """Ends runs of loggers that allow one run per process: the next job can begin its own."""
    for logger in loggers:
        attempt(logger, _close, logger)


def _close(logger: Logger) -> None:
    if isinstance(logger, TensorBoardLogger) and logger._experiment is not None:
        logger.experiment.close()
    elif isinstance(logger, WandbLogger) and logger._experiment is not None:
        logger.experiment.finish()
    elif isinstance(logger, TrackioLogger) and logger.run is not None:
        logger.run.finish()
