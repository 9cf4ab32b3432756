"""Several loggers at once, in a real run and its continuation."""

import importlib.util
import json
import sqlite3

import pytest

OTHERS = [name for name in ("tensorboard", "wandb", "mlflow", "trackio") if importlib.util.find_spec(name)]


@pytest.mark.skipif(not OTHERS, reason="no logger besides csv is installed")
def test_several_loggers_at_once_and_a_resume(genlab, tiny, tmp_path):
    words = [word for word in tiny if not word.startswith("evaluate")]
    words += [f"logger=[csv,{','.join(OTHERS)}]", "evaluate=true", "hydra.run.dir=run"]
    words += ["logger.wandb.offline=true"] if "wandb" in OTHERS else []
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    genlab("train", "model=dcgan", *words, cwd=tmp_path, env=environment)
    genlab("train", "run=run", "trainer.max_steps=8", cwd=tmp_path, env=environment)
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 9
    noted = tmp_path / "run" / "loggers.json"  # the run's name at each service that gives it one
    ids = json.loads(noted.read_text()) if noted.exists() else {}
    if "tensorboard" in OTHERS:
        assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) >= 2
    if "wandb" in OTHERS:
        assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{ids['wandb']}"))) == 2
    if "mlflow" in OTHERS:
        with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as store:
            steps = store.execute("select step from metrics where key = 'train/loss_d' order by step").fetchall()
        assert [step for (step,) in steps] == list(range(1, 9))
        assert list((tmp_path / "outputs" / "mlartifacts" / ids["mlflow"]).rglob("*.png"))
    if "trackio" in OTHERS:
        with sqlite3.connect(tmp_path / "trackio" / "genlab.db") as store:
            steps = store.execute("select step, metrics from metrics where run_name = ?", [ids["trackio"]]).fetchall()
        assert {step for step, metrics in steps if "train/loss_d" in metrics} == set(range(1, 9))
        assert any("trackio.image" in metrics for _, metrics in steps)
