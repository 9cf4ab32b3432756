"""Every `genlab train` that the README shows composes and fits; its tables name what is there."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest

from genlab import config
from genlab.commands.train import SUPPLIED

README = Path(__file__).parents[2] / "README.md"
COMMANDS = re.findall(r"^ *(genlab train [^#\n<]*?) *(?:#.*)?$", README.read_text(), re.M)


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_composes_and_builds(command, composed):
    words = [word for word in shlex.split(command)[2:] if word not in ("-m", "--help")]
    sweeps = [[f"{w.partition('=')[0]}={value}" for value in w.partition("=")[2].split(",")] for w in words]
    for i in range(max((len(choices) for choices in sweeps), default=1)):
        settings = config.resolve(composed(*(choices[min(i, len(choices) - 1)] for choices in sweeps)))
        config.validate(settings, SUPPLIED)
        config.build_system(settings)


@pytest.mark.parametrize(
    "group", ["model", "net", "net/modulation", "loss", "penalty", "augment", "data", "trainer", "logger", "sweep"]
)
def test_the_table_of_groups_is_whole(group):
    there = {
        p.name.removesuffix(".yaml") for p in files("genlab.conf").joinpath(group).iterdir() if p.name.endswith(".yaml")
    }
    named = set(re.findall(r"`([a-z0-9_]+)`", README.read_text()))
    assert there <= named, f"{group}: the README does not name {there - named}"
