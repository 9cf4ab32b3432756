"""Curves, pictures and texts reach every logger, and a resumed run goes on under its id."""

import json
from pathlib import Path

import pytest
import torch

from genlab.callbacks import loggers
from genlab.report.images import save_grid

ROWS = [{"source": "a|b", "question": None, "text": "c", "accepted": ["c"]}, {"source": "d", "question": "e?", "text": "f",
                                                                             "accepted": []}]  # fmt: skip


def fill(logger, folder: Path) -> None:
    """What a run sends: settings, curves, a picture, texts, and what is measured at the end."""
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
    assert run.data.metrics == {"train/loss": 0.5, "test/fid": 2.5} and run.data.params == {"model.lr": "0.5", "seed": "1"}
    assert [point.value for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1.0, 0.5]
    names = [path.name for path in (tmp_path / "store" / "mlartifacts").rglob("*") if path.is_file()]
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
    with pytest.raises(ValueError, match=rf"logger={name}: .*pip install 'genlab\[{name}\]'"):
        make(str(tmp_path))
