"""Curves, pictures and texts reach every logger, and a resumed run keeps its id."""

import csv
import errno
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger

from genlab.callbacks import loggers
from genlab.callbacks.csv_logger import CSVLogger
from genlab.report.images import save_grid

ROWS = [
    {"source": "a|b", "question": None, "text": "c", "accepted": ["c"]},
    {"source": "d", "question": "e?", "text": "f", "accepted": []},
]


def fill(logger, folder: Path) -> None:
    """Sends what a run sends: settings, curves, a picture, texts and final metrics."""
    picture = save_grid(torch.zeros(4, 1, 8, 8), folder / "samples" / "fixed_000002.png")
    logger.log_hyperparams({"model.lr": 0.5, "seed": 1})
    for step in (1, 2):
        logger.log_metrics({"train/loss": 1.0 / step}, step)
    loggers.show([logger], "samples/fixed", picture, 2)
    loggers.show_texts([logger], "samples/texts", ROWS, 2)
    logger.save()
    logger.finalize("success")
    loggers.finish([logger], {"test/fid": 2.5}, [picture], 2)
    loggers.close([logger])


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill(loggers.tensorboard(str(tmp_path)), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = events.Tags()
    assert {"train/loss", "test/fid"} <= set(found["scalars"])
    assert {"samples/fixed", "test/fixed_000002"} <= set(found["images"])
    text = events.Tensors("samples/texts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "a\\|b" in text and "e?" in text


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fill(loggers.wandb(str(tmp_path), offline=True), tmp_path)
    run_id = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    (folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
    media = {path.suffix for path in (folder / "files" / "media").rglob("*") if path.is_file()}
    assert {".png", ".json"} <= media
    kept = (folder / f"run-{run_id}.wandb").read_bytes()
    assert b"train/loss" in kept and b"test/fid" in kept and b"model.lr" in kept
    again = loggers.wandb(str(tmp_path), offline=True)
    assert again.version == run_id


@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_local_store(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    logger = loggers.mlflow(str(tmp_path / "run"), tracking_uri=uri)
    fill(logger, tmp_path / "run")
    client = MlflowClient(uri)
    (run,) = client.search_runs([logger.experiment_id])
    assert run.data.metrics == {"train/loss": 0.5, "test/fid": 2.5}
    assert run.data.params == {"model.lr": "0.5", "seed": "1"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.value for point in history] == [1.0, 0.5]
    artifacts = (tmp_path / "store" / "mlartifacts").rglob("*")
    names = [path.name for path in artifacts if path.is_file()]
    assert "samples_texts_000002.json" in names or "texts_000002.json" in names
    assert any("fixed" in name and name.endswith(".png") for name in names)
    assert loggers.mlflow(str(tmp_path / "run"), tracking_uri=uri).run_id == run.info.run_id
    assert loggers.mlflow(str(tmp_path / "other"), tracking_uri=uri).run_id != run.info.run_id


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_logger_that_is_not_installed_names_its_extra(name, tmp_path, monkeypatch):
    def missing(package):
        raise ImportError(f"No module named '{package}'")

    monkeypatch.setattr(loggers.importlib, "import_module", missing)
    make = loggers.TrackioLogger if name == "trackio" else getattr(loggers, name)
    with pytest.raises(ValueError, match=rf"^logger={name}: .*pip install 'genlab\[{name}\]'"):
        make(str(tmp_path))


class Full(Logger):
    """A logger whose disk is full after `left` rows."""

    name, version = "full", ""

    def __init__(self, left):
        super().__init__()
        self.left, self.rows = left, []

    def log_hyperparams(self, params, *args, **kwargs):
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")

    def log_metrics(self, metrics, step=None):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device", "full/log")
        self.rows.append(step)


def test_a_run_survives_a_loggers_full_disk_with_one_warning(
    trained_in, tmp_path, monkeypatch, capfd
):
    words = [
        "model=realnvp",
        "data=moons",
        "net.num_couplings=2",
        "net.hidden_dim=8",
        "trainer=cpu",
    ]
    words += ["trainer.max_steps=4", "trainer.val_check_interval=4"]
    words += ["trainer.log_every_n_steps=1", "callbacks.grids=null", "evaluate=false"]

    def make(save_dir):
        return Full(left=2)

    make.__module__ = loggers.__name__
    monkeypatch.setattr(loggers, "tensorboard", make)
    trained_in(tmp_path / "run", *words, "logger=[csv,tensorboard]")
    warned = capfd.readouterr().err
    assert warned.count("logger=full") == 1 and "No space left on device" in warned
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "finished"
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 5


def test_a_logger_that_fails_before_the_first_step_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"^logger=full: OSError: "):
        loggers.begin([Full(left=0)], {"seed": 1}, resumed=False)


def test_rows_that_did_not_fit_on_the_disk_are_written_once_there_is_space(tmp_path, monkeypatch):
    logger = CSVLogger(str(tmp_path))
    loggers.begin([logger], {}, resumed=False)
    logger.log_metrics({"a": 1}, 1)
    logger.save()
    write = csv.DictWriter.writerow

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerow", full)
    logger.log_metrics({"a": 2}, 2)
    logger.save()
    monkeypatch.setattr(csv.DictWriter, "writerow", write)
    logger.log_metrics({"a": 3}, 3)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,a", "1,1", "2,2", "3,3"]
