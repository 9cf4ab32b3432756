"""Texts and paths mean what is typed and are printed unchanged; printed commands can be pasted."""

import os
import random
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from genlab import cli, console
from genlab.commands.text_input import read_examples
from genlab.overrides import literal, value_of

PATH_KEYS = ("run", "ckpt", "input", "out", "data.path", "data.root", "data.vocab", "model.init")
PATH_KEYS += ("hydra.run.dir", "hydra.sweep.dir", "+data.val_path", "model.condition.run")
PATH_KEYS += ("features.weights_path",)
NAMES = ["7", "./7", "2019", "1e3", "08", "1_000", "true", "holiday, 2019", "runs[/a]"]
NAMES += ["ogan[lr=2e-4]", "[bold]x", "{a:1}", "a=b", "it's", 'say "x"', "a b", " a", "ünï", "李白"]
NAMES += ["$(x)", "choice(a,b)", "a\\b", "${", "b;c", "#x", "a(1)"]


def read(word: str, sweep: bool = False):
    """The value of `key=value` on the command line, as a command sees it."""
    override = OverridesParser.create().parse_override(literal(word, sweep))
    assert not override.is_sweep_override()
    node = OmegaConf.create({"value": override.value()})
    return OmegaConf.to_container(node, resolve=True)["value"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_what_is_typed(name):
    for key in PATH_KEYS:
        assert read(f"{key}={name}") == name
        assert literal(literal(f"{key}={name}")) == literal(f"{key}={name}")
    assert value_of(literal(f"run={name}")) == name


def test_a_path_of_any_characters_is_what_is_typed():
    draw = random.Random(7)
    for _ in range(300):
        name = "".join(draw.choices("ab1.,:=[]{}()'\"\\$ -_/#~äé李", k=draw.randrange(2, 12)))
        quotes = name[0] == name[-1] and name[0] in "'\""
        lists = name.startswith("[") and name.endswith("]")
        if not (quotes or lists or "${" in name):
            assert read(f"data.path={name}") == name
            (word,) = shlex.split(console.command("sample", run=name))[2:]
            assert value_of(literal(word)) == name


def test_brackets_are_a_path_if_it_exists_else_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read("data.path=[x]") == ["x"]
    assert read("data.path=[2019,a]") == ["2019", "a"]
    os.mkdir("[x]")
    assert read("data.path=[x]") == "[x]"
    assert read("input=[y]") == "[y]"
    assert read("input=null") is None


def test_a_comma_in_a_path_means_a_sweep_only_with_m():
    override = OverridesParser.create().parse_override(literal("data.path=a,b", sweep=True))
    assert override.is_sweep_override()
    assert read("data.path=a,b") == "a,b"


@pytest.mark.parametrize(
    ("word", "passages"),
    [
        (
            "passages=[In Peru, people pay with sol, and in Chile with pesos.]",
            ["In Peru, people pay with sol, and in Chile with pesos."],
        ),
        ("passages=[秘鲁人用索尔。]", ["秘鲁人用索尔。"]),
        ("passages=Lima, mostly.", ["Lima, mostly."]),
        (
            'passages=["In Peru, the sol.", "In Chile, the peso."]',
            ["In Peru, the sol.", "In Chile, the peso."],
        ),
        ("passages=['one']", ["one"]),
        ("passages=7", ["7"]),
    ],
)
def test_passages_are_one_text_unless_each_is_quoted(word, passages):
    settings = {"source": None, "input": None, "question": "What?", "passages": read(word)}
    assert list(read_examples(settings)[0].sources) == passages


@pytest.mark.parametrize(
    "text",
    ["see [/usr/bin]", "[MASK]", "what [/x]", "a [bold]b", "7", "true", "it's ${x}, or {so}"],
)
def test_a_text_is_what_is_typed(text):
    for key in ("source", "question", "prompt", "licence"):
        assert read(f"{key}={text}") == text


@pytest.mark.parametrize("name", ["runs[/a]", "[bold]x", "ogan[lr=2e-4], new", "a:car:b"])
def test_names_are_printed_unchanged_and_commands_can_be_pasted(
    name, trained_in, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["model=realnvp", "data=moons", "net.num_couplings=2", "data.num_val=100"]
    words += ["trainer=cpu", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    trained_in(tmp_path / name, *words, "callbacks.grids=null", "evaluate=false")
    printed = capsys.readouterr().err
    assert str(tmp_path / name) in printed
    commands = [shlex.split(line) for line in printed.splitlines() if line.startswith("  genlab ")]
    assert commands
    for command in commands:
        (word,) = (word for word in command if word.startswith("run="))
        assert (tmp_path / value_of(literal(word))).is_dir()


def test_tables_and_progress_bars_print_names_unchanged(capsys):
    from rich.table import Table

    table = Table("a [/x]")
    table.add_row("[red]b")
    console.console().print(table)
    with console.progress(transient=False) as bar:
        bar.add_task("decoding [/c]", total=1)
    printed = capsys.readouterr().err
    assert "a [/x]" in printed
    assert "[red]b" in printed
    assert "decoding [/c]" in printed


def test_a_word_that_is_not_utf8_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["genlab", "sample", "run=\udcff"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "UTF-8" in capsys.readouterr().err
