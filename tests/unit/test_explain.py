"""Errors of a command line name the key that was meant, also by a name of an earlier version."""

import sys

import pytest

from genlab import cli
from genlab.config import renamed
from genlab.explain import explain


def missing(key: str) -> ValueError:
    """What Hydra says of a key that the config does not have."""
    return ValueError(f"Could not override '{key}'.\nKey '{key}' is not in struct")


@pytest.fixture
def earlier(monkeypatch):
    """Renames that no real target has."""
    names = {"breadth": "hidden_dim"}
    monkeypatch.setitem(renamed.ARGUMENTS, "genlab.models.flow.glow.Glow", names)
    monkeypatch.setitem(renamed.OPTIONS, "train", {"judge": "evaluate="})


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_key_of_an_earlier_version_is_answered_with_its_name_of_today(earlier, prefix):
    words = ["model=glow", f"{prefix}net.breadth=3"]
    said = explain(missing(f"{prefix}net.breadth"), "train", words)
    assert said == "there is no key 'net.breadth'; it is now called 'net.hidden_dim'"


def test_the_name_of_today_depends_on_the_chosen_recipe(earlier):
    said = explain(missing("net.breadth"), "train", ["model=realnvp", "net.breadth=3"])
    assert "net.breadth" in said and "now called" not in said


def test_a_commands_own_key_of_an_earlier_version(earlier):
    said = explain(missing("judge"), "train", ["judge=false"])
    assert said == "there is no key 'judge'; it is now called evaluate="


def test_the_command_line_answers_with_the_name_of_today(earlier, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["genlab", "train", "model=glow", "net.breadth=3"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == (
        "genlab: error: there is no key 'net.breadth'; it is now called 'net.hidden_dim'\n"
    )
