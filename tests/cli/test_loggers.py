"""Several loggers at once, in runs of images and of texts and after a resume."""

import importlib.util
import json
import sqlite3

import pytest

OTHERS = [
    name for name in ("tensorboard", "wandb", "mlflow", "trackio") if importlib.util.find_spec(name)
]
LOGGERS = [
    f"logger=[csv,{','.join(OTHERS)}]",
    *(["logger.wandb.offline=true"] if "wandb" in OTHERS else []),
]
SHORT = ["trainer=cpu", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]
SHORT += ["data.batch_size=16", "hydra.run.dir=run"]
# A model that is measured quickly
FLOW = ["model=realnvp", "data=moons", "net.num_couplings=2", "net.hidden_dim=8"]
TEXT = ["model=unilm_qa", "net=bert_tiny", "net.hidden_dim=16", "net.num_layers=1"]
TEXT += ["net.intermediate_dim=32", "data.vocab_size=200", "data.num_train=40", "data.num_val=4"]
TEXT += ["data.num_test=4", "callbacks.texts.num=4", "evaluate=false"]


@pytest.fixture
def logged(genlab, tmp_path):
    def run(*words):
        return genlab("train", *words, cwd=tmp_path, env={"TRACKIO_DIR": str(tmp_path / "trackio")})

    return run


def stored(folder, loss):
    """What the loggers stored of the run in <folder>/run.

    Returns:
        {logger: (steps of `loss`, names of curves, pictures and texts)}; no steps for wandb, whose
        offline files are not read.
    """
    names_at_services = folder / "run" / "loggers.json"
    ids = json.loads(names_at_services.read_text()) if names_at_services.exists() else {}
    found = {}
    if "tensorboard" in OTHERS:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
        tags = events.Tags()
        names = {*tags["scalars"], *tags["images"], *tags["tensors"]}
        found["tensorboard"] = {event.step for event in events.Scalars(loss)}, names
    if "wandb" in OTHERS:
        folders = list((folder / "run" / "wandb").glob(f"offline-run-*-{ids['wandb']}"))
        kept = b"".join(path.read_bytes() for one in folders for path in one.glob("*.wandb"))
        media = {
            path.parent.name + "/" + path.name.partition("_")[0]
            for one in folders
            for path in (one / "files" / "media").rglob("*.*")
        }
        found["wandb"] = None, media | ({loss} if loss.encode() in kept else set())
    if "mlflow" in OTHERS:
        with sqlite3.connect(folder / "outputs" / "mlflow.db") as store:
            steps = store.execute("select step from metrics where key = ?", [loss])
            steps = {step for (step,) in steps}
            names = {name for (name,) in store.execute("select distinct key from metrics")}
        files = (folder / "outputs" / "mlartifacts" / ids["mlflow"]).rglob("*.*")
        found["mlflow"] = steps, names | {path.name for path in files}
    if "trackio" in OTHERS:
        query = "select step, metrics from metrics where run_name = ?"
        with sqlite3.connect(folder / "trackio" / "genlab.db") as store:
            rows = store.execute(query, [ids["trackio"]])
            rows = [(step, json.loads(metrics)) for step, metrics in rows]
        names = {name for _, metrics in rows for name in metrics}
        found["trackio"] = {step for step, metrics in rows if loss in metrics}, names
    return found


@pytest.mark.skipif(not OTHERS, reason="no logger besides csv is installed")
def test_curves_and_pictures_reach_all_loggers_before_and_after_a_resume(logged, tmp_path):
    logged(*FLOW, *SHORT, *LOGGERS, "trainer.max_steps=2")
    logged("run=run", "trainer.max_steps=4", "evaluate=false")
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 5
    for name, (steps, names) in stored(tmp_path, "train/nll").items():
        assert steps in (None, {1, 2, 3, 4}), name
        for kind in ("samples/fixed", "train/nll", "test/nll" if name != "wandb" else "train/nll"):
            assert any(one.replace("_", "/").startswith(kind) for one in names), (name, kind, names)


@pytest.mark.skipif(not OTHERS, reason="no logger besides csv is installed")
def test_texts_reach_all_loggers(logged, tmp_path):
    logged(*TEXT, *SHORT, *LOGGERS, "trainer.max_steps=2")
    for name, (steps, names) in stored(tmp_path, "train/loss").items():
        assert steps in (None, {1, 2}), name
        assert "train/loss" in names, name
        assert any("texts" in one for one in names), (name, names)
