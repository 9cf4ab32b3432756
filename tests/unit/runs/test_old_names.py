"""A run that an earlier version trained, under other names, loads and continues."""

import pytest
import torch
import yaml

from genlab import config, runs
from genlab.config.renamed import ARGUMENTS, CLASSES, MODULES, UNITS
from genlab.runs import read_checkpoint

RECIPES = {
    "dcgan": ["data=digits", "net.generator.hidden_dim=8"],
    "realnvp": ["data=moons", "net.hidden_dim=8", "model.num_warmup_steps=2"],
}


def old_name(target: str) -> str:
    """The name that an earlier version had for a target."""
    before = {today: name for name, today in CLASSES.items()}
    if target in before:
        return before[target]
    module, _, name = target.removeprefix("genlab.").rpartition(".")
    modules = {today: name for name, today in MODULES.items()}
    return f"genlab.{modules.get(module, module)}.{name}" if module in modules else target


def with_old_names(node):
    """A copy of a config in which targets and arguments have the names of an earlier version."""
    if isinstance(node, list):
        return [with_old_names(child) for child in node]
    if not isinstance(node, dict):
        return node
    before = {today: name for name, today in ARGUMENTS.get(node.get("_target_"), {}).items()}
    content = {}
    for key, child in node.items():
        name = before.get(key, key)
        child = child // UNITS[name] if name in UNITS else with_old_names(child)
        content[name] = old_name(child) if key == "_target_" else child
    return content


@pytest.mark.parametrize("model", RECIPES)
def test_an_old_run_loads_and_continues(model, tiny, trained_in, tmp_path):
    run = tmp_path / "run"
    few = [w for w in tiny if not w.startswith(("net.", "callbacks.quality"))]
    trained_in(run, f"model={model}", *few, *RECIPES[model], "trainer.max_steps=3")
    today = config.read_frozen(run)
    old = with_old_names(yaml.safe_load((run / "config.yaml").read_text()))
    assert old != today and old["net"] != today["net"]
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    assert config.read_frozen(run) == today
    weights = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    loaded = runs.load(run, weights="raw").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    trained_in(run, f"run={run}", "trainer.max_steps=6")
    assert runs.Manifest.read(run).content["steps"] == 6
    assert config.read_frozen(run)["net"] == today["net"]
