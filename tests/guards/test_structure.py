"""The structure of the package: imports, docstrings, and what a shipped config may say."""

import ast
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from genlab import config
from genlab.commands.train import SUPPLIED
from genlab.nn import lipschitz

ROOT = Path(config.__file__).parents[1]
MODULES = sorted(path for path in ROOT.rglob("*.py"))
# package -> the packages of genlab that it may import besides itself. The contract is
# genlab.systems.base alone, which stands below the systems.
CONTRACT = "contract"
MAY_IMPORT = {
    "": {"runs"},  # genlab/__init__.py
    "cli": {"config", "errors", "explain", "files", "overrides", "sweeps", ""},
    # what all share
    "errors": set(),
    "console": set(),
    "overrides": set(),
    "ranges": set(),
    "seeds": set(),
    "signals": set(),
    "reading": {"errors"},
    "files": {"console", "errors"},
    "safe_yaml": {"errors", "reading"},
    "tensors": {"errors", "files"},
    # words -> config -> objects
    "config": {"errors", "files", "overrides", "ranges", "reading", "safe_yaml"},
    "explain": {"config", "overrides"},
    "runs": {"config", "console", "errors", "files", "reading", "tensors", CONTRACT},
    "sweeps": {
        "console",
        "errors",
        "files",
        "metrics",
        "overrides",
        "reading",
        "report",
        "safe_yaml",
        "signals",
    },
    "commands": {
        "callbacks",
        "config",
        "console",
        "data",
        "errors",
        "evaluation",
        "export",
        "files",
        "overrides",
        "ranges",
        "report",
        "runs",
        "signals",
        "systems",
        "tensors",
        "training",
    },
    # what they do
    "evaluation": {
        "console",
        "data",
        "errors",
        "files",
        "losses",
        "metrics",
        "nn",
        "report",
        "systems",
    },
    "export": {"files", "losses", "nn", "report", "runs", "systems", "tensors"},
    "report": {"config", "files", "reading", "runs"},
    "callbacks": {
        "console",
        "errors",
        "evaluation",
        "files",
        "metrics",
        "nn",
        "ranges",
        "reading",
        "report",
        "seeds",
        "signals",
        "systems",
        "training",
    },
    "systems": {
        "config",
        "errors",
        "losses",
        "metrics",
        "models",
        "nn",
        "ranges",
        "runs",
        "tensors",
        "training",
        "weights",
    },
    "training": {CONTRACT, "errors", "nn", "ranges"},
    "metrics": {"console", "data", "errors", "files", "losses", "ranges", "tensors"},
    "data": {"console", "errors", "files", "ranges", "reading", "seeds", "weights"},
    "weights": {"config", "errors", "files", "models", "reading", "safe_yaml", "tensors"},
    "models": {"nn", "ranges"},
    "losses": {"ranges", "seeds"},
    "nn": {"ranges"},
}
# room -> the rooms beside it that it may import
ROOMS = {
    "data": {
        "images": set(),
        "text": set(),
        "corpus": {"text"},
        "captions": {"images", "text"},
        "points": set(),
    },
    "systems": {"gan": {"latent"}, "latent": set(), "flow": {"latent"}, "text": set()},
}
NEED_TORCH_ALONE = {"models", "losses", "nn"}
SYSTEMS = {"system", "model", "lightning_module", "pl_module"}  # variables that hold a system
KNOW_HYDRA = {"cli", "config", "explain", "overrides", "runs", "sweeps"}
KNOW_RICH = {"console", "callbacks"}  # elsewhere brackets in names would be taken for markup
RICH = ("rich.console.Console", "rich.progress.Progress", "rich.progress.TextColumn")


def package(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The dotted modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(path: Path) -> list[str]:
    """Those imports of a file that its package may not have."""
    here, found = package(path), []
    for name in sorted(imports(path)):
        parts = name.split(".")
        if parts[0] == "genlab":
            there = parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else ""
            may = {here} | MAY_IMPORT[here]
            allowed = there in may or (parts[1:3] == ["systems", "base"] and CONTRACT in may)
        elif here in NEED_TORCH_ALONE:
            allowed = parts[0] in (
                "torch",
                "triton",
                *sys.stdlib_module_names,
            )  # Triton comes with torch for CUDA
        else:
            allowed = (parts[0] != "hydra" or here in KNOW_HYDRA) and (
                name not in RICH or here in KNOW_RICH
            )
        found += [] if allowed else [name]
    return found


def across_rooms(path: Path) -> list[str]:
    """The imports of a file in a room that lead into a room it may not know."""
    layer, *rest = path.relative_to(ROOT).parts
    rooms = ROOMS.get(layer, {})
    here = rest[0].removesuffix(".py") if rest else ""
    if here not in rooms:
        here = None  # the ground of the layer, which knows no room
    allowed = {here} | rooms.get(here, set())
    found = {tuple(name.split(".")[:3]) for name in imports(path)}
    return [
        ".".join(parts)
        for parts in sorted(found)
        if parts[:2] == ("genlab", layer) and parts[-1] in rooms and parts[-1] not in allowed
    ]


def test_rooms_know_each_other_only_where_they_must():
    wrong = {str(path.relative_to(ROOT)): across_rooms(path) for path in MODULES}
    assert not {path: names for path, names in wrong.items() if names}


def test_imports_point_one_way():
    wrong = {str(path.relative_to(ROOT)): forbidden_imports(path) for path in MODULES}
    assert not {path: names for path, names in wrong.items() if names}


def test_no_file_is_a_drawer():
    drawers = ("utils.py", "util.py", "helpers.py", "misc.py", "common_utils.py")
    assert not [path for path in MODULES if path.name in drawers]


def capabilities_by_name(path: Path) -> list[str]:
    """The lines of a file that ask a system for a capability by the name of an attribute.

    Names that a user's config gives, as those of modules to average, are not literal and pass.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        subject = ast.unparse(node.args[0]).rpartition(".")[2]
        asks = isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
        if asks and subject in SYSTEMS and isinstance(node.args[1], ast.Constant):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_capabilities_are_asked_with_isinstance():
    found = {str(path.relative_to(ROOT)): capabilities_by_name(path) for path in MODULES}
    assert not {path: lines for path, lines in found.items() if lines}


def undocumented(path: Path) -> list[str]:
    """What is public in a file and has no docstring; the file itself, too."""
    tree = ast.parse(path.read_text())
    lists = (
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    public = next((ast.literal_eval(node.value) for node in lists), [])
    nodes = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public
    ]
    missing = [node.name for node in nodes if not ast.get_docstring(node)]
    return missing if not tree.body or ast.get_docstring(tree) else ["the file", *missing]


def test_what_is_public_says_what_it_is():
    missing = {str(path.relative_to(ROOT)): undocumented(path) for path in MODULES}
    assert not {path: names for path, names in missing.items() if names}


def options(group: str) -> list[str]:
    folder = files("genlab.conf").joinpath(group)
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and not entry.name.startswith("_")  # a base is no option
    )


GROUPS = (
    "model",
    "net",
    "net/modulation",
    "loss",
    "penalty",
    "augment",
    "optimizer",
    "data",
    "trainer",
    "callbacks",
)
GROUPS += ("logger", "experiment", "debug", "sweep", "metrics", "features")


def at_home(group: str, option: str) -> list[str]:
    """The recipe that an option is composed into, where that cannot be the default one."""
    conf = files("genlab.conf")
    text = ("bert", "text", "facts", "pairs", "squad_json", "webqa", "adamw")
    if option in ("labelled_images", "coco_captions", "backbone"):
        return ["model=cln_caption"]
    if option in ("fact_sentences", "labelled_text", "poems", "conditional_text"):
        return ["model=cln_lm"]
    if option.startswith(text):
        return ["model=unilm"]
    if option in ("corpus", "fact_texts", "pretraining", "lamb", "fsdp"):
        return ["model=pretrain_mlm"]
    if option == "iresnet_points":
        return ["model=iresnet", "data=moons"]
    if (group, option) == ("callbacks", "invertible_classifier"):
        return ["model=iresnet_classifier"]
    if group == "loss" and "losses.gan" not in conf.joinpath("loss", f"{option}.yaml").read_text():
        return ["model=glo"]
    if group == "net":
        for model in options("model"):
            defaults = yaml.safe_load(conf.joinpath("model", f"{model}.yaml").read_text())[
                "defaults"
            ]
            if {"/net": option} in defaults:
                return [f"model={model}"]
    if group == "data" and "_points" in conf.joinpath("data", f"{option}.yaml").read_text():
        return ["model=glow"]
    return []


def test_a_base_of_other_configs_is_no_option():
    config.from_run("train", [])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        listed = GlobalHydra.instance().config_loader().get_group_options("model")
    assert listed == options("model") and "_gan" not in listed


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in GROUPS for option in options(group)]
)
def test_every_shipped_option_composes_and_fits_its_constructors(group, option, monkeypatch):
    config.from_run("train", [])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        words = [f"{group}={option}", "name=guard", *at_home(group, option)]
        cfg = compose("train", words)
        if "num_classes" in cfg.model:
            cfg = compose("train", [*words, "model.latent_dim=32", "model.num_classes=10"])
    settings = config.resolve(cfg)
    config.validate(settings, SUPPLIED)
    monkeypatch.setattr(
        lipschitz, "fft_bound", lambda *weight_and_size: 1.0
    )  # a number that only real weights have
    with torch.device("meta"):  # shapes alone: weights of this many networks would take minutes
        config.build_system(settings)


@pytest.mark.parametrize("group", GROUPS)
def test_every_shipped_option_says_what_it_is(group):
    for option in options(group):
        text = files("genlab.conf").joinpath(group, f"{option}.yaml").read_text()
        about = text.partition("\n")[2] if text.startswith("# @package") else text
        assert about.startswith("# "), f"{group}/{option}.yaml does not say what it is"
