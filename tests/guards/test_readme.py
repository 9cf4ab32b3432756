"""The commands of the README and the docs compose and fit; docs/options.md names every option."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest

from genlab import config
from genlab.commands.train import SUPPLIED

README = Path(__file__).parents[2] / "README.md"
SHOWN = re.compile(r"^ *(?:srun )?(genlab train  ?(?!run=)(?:[^#\n<`\\]|\\\n)*?) *(?:#.*)?$", re.M)
COMMANDS = SHOWN.findall(README.read_text())
IN_DOCS = {
    f"{path.stem}: {command}": command.replace("\\\n", " ")
    for path in sorted((README.parent / "docs").glob("*.md"))
    for command in SHOWN.findall(path.read_text())
}


def composed_settings(command: str, composed):
    """The config of each job of a command; as many jobs as its longest sweep has values."""
    words = shlex.split(command)[2:]
    words = [w for w in words if w not in ("-m", "--help") and not w.startswith("hydra")]
    words = [re.sub(r"=(tag|interval)\(.*", "=0.5", word) for word in words]
    sweeps = [swept_values(word) for word in words]
    for i in range(max((len(values) for values in sweeps), default=1)):
        yield config.resolve(composed(*(values[min(i, len(values) - 1)] for values in sweeps)))


def swept_values(word: str) -> list[str]:
    """One override for each value of a swept one; a list in brackets is a single value."""
    if "[" in word:
        return [word]
    key, _, values = word.partition("=")
    return [f"{key}={value}" for value in values.split(",")]


def test_the_readme_and_the_docs_show_commands():
    assert len(COMMANDS) >= 5 and len(IN_DOCS) >= 20


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_composes_and_builds(command, composed):
    for settings in composed_settings(command, composed):
        config.validate(settings, SUPPLIED)
        config.build_system(settings)


@pytest.mark.parametrize("command", IN_DOCS)
def test_a_command_of_the_docs_composes(command, composed):
    for settings in composed_settings(IN_DOCS[command], composed):
        config.validate(settings, SUPPLIED)


@pytest.mark.parametrize(
    "group",
    [
        "model",
        "net",
        "net/modulation",
        "loss",
        "penalty",
        "augment",
        "data",
        "trainer",
        "logger",
        "sweep",
    ],
)
def test_the_table_of_groups_is_whole(group):
    there = {
        p.name.removesuffix(".yaml")
        for p in files("genlab.conf").joinpath(group).iterdir()
        if p.name.endswith(".yaml") and not p.name.startswith("_")
    }
    named = set(re.findall(r"`([a-z0-9_]+)`", (README.parent / "docs" / "options.md").read_text()))
    assert there <= named, f"{group}: docs/options.md does not name {there - named}"
