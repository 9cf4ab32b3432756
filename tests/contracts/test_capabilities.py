"""Each recipe can do what the Protocols of genlab.systems.base and docs/contract.md say.

`python tests/contracts/test_capabilities.py` writes that page.
"""

import inspect
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_module

from genlab import config
from genlab.commands.common import methods_of, offers
from genlab.nn import lipschitz
from genlab.systems.base import CAPABILITIES, System

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
INTRO = """# The contract of a system

A system is a LightningModule with a `modality`: `image`, `point` or `text`. What else it offers is
a capability, a `Protocol` of `genlab.systems.base`. Commands, callbacks, evaluation and exports ask
for capabilities with `isinstance` and know no system, so a system of your own needs the methods
alone and inherits nothing from genlab ([composing.md](composing.md)).

This page is made from the code, by `python tests/contracts/test_capabilities.py`.
"""


def recipes() -> list[str]:
    """The names of conf/model, without the shared bases."""
    names = [path.name for path in files("genlab.conf").joinpath("model").iterdir()]
    return sorted(
        name.removesuffix(".yaml") for name in names if name.endswith(".yaml") and name[0] != "_"
    )


def build(recipe: str) -> torch.nn.Module:
    """The system of a recipe, without memory for its weights."""
    with initialize_config_module("genlab.conf", version_base="1.3"):
        settings = config.resolve(compose("train", [f"model={recipe}", f"name={recipe}"]))
    # A bound on real weights is a number, which weights on `meta` do not have.
    bound = patch.object(lipschitz, "fft_bound", lambda *weight_and_size: 1.0)
    with torch.device("meta"), bound:
        return config.build_system(settings)


def capabilities(system) -> list[type]:
    return [capability for capability in CAPABILITIES if isinstance(system, capability)]


def page(systems: Mapping[str, torch.nn.Module]) -> str:
    """The page for {recipe: system}."""
    return "\n".join([INTRO, *_recipes(systems), "", *_table(systems), "", *_descriptions()]) + "\n"


def _columns(systems) -> dict[str, list[str]]:
    """{system: its recipes}, twice where recipes of one system differ in capabilities."""
    columns: dict[tuple, list[str]] = {}
    for recipe, system in systems.items():
        key = (type(system).__name__, *capabilities(system))
        columns.setdefault(key, []).append(recipe)
    names = [key[0] for key in columns]
    named = {}
    for (name, *_), its_recipes in columns.items():
        title = name if names.count(name) == 1 else f"{name} ({', '.join(its_recipes)})"
        named[title] = its_recipes
    return named


def _recipes(systems) -> Iterator[str]:
    yield "| system | recipes (`model=`) |"
    yield "|---|---|"
    for name, its_recipes in _columns(systems).items():
        yield f"| {name} | {', '.join(its_recipes)} |"


def _table(systems) -> Iterator[str]:
    columns = _columns(systems)
    yield f"| capability | {' | '.join(columns)} |"
    yield "|---" + "|:-:" * len(columns) + "|"
    for capability in CAPABILITIES:
        has = [isinstance(systems[names[0]], capability) for names in columns.values()]
        yield f"| {capability.__name__} | {' | '.join('✓' if one else '' for one in has)} |"


def _descriptions() -> Iterator[str]:
    for capability in CAPABILITIES:
        about = " ".join(inspect.getdoc(capability).partition("\n\n")[0].split())
        members = [
            *(f"`{name}`" for name in capability.__annotations__),
            *(f"`{name}{_call(capability, name)}`" for name in methods_of(capability)),
        ]
        yield f"- **{capability.__name__}**: {about} {', '.join(members)}"


def _call(capability: type, name: str) -> str:
    parameters = list(inspect.signature(getattr(capability, name)).parameters.values())[1:]
    shown = [str(one.replace(annotation=one.empty)) for one in parameters]
    return f"({', '.join(shown)})"


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systems():
    """{recipe: its system}, on the meta device."""
    return {recipe: build(recipe) for recipe in recipes()}


def misfits(method, wanted) -> list[str]:
    """What keeps `method` of a system from being called as the Protocol's `wanted`."""
    found = dict(inspect.signature(method).parameters)
    has = {one.kind for one in found.values()}
    problems = []
    positions = list(found.values())
    expected = list(inspect.signature(wanted).parameters.values())[1:]
    for place, one in enumerate(expected):
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if one.kind is one.POSITIONAL_ONLY:
            if one.VAR_POSITIONAL not in has and place >= len(positions):
                problems.append(f"takes no argument {place}")
        elif one.name not in found:
            if one.VAR_KEYWORD not in has:
                problems.append(f"takes no {one.name}=")
        elif one.default is one.empty and positions[place].name != one.name:
            problems.append(f"takes {one.name} at another place")
        elif one.default is not one.empty and found[one.name].default is one.empty:
            problems.append(f"needs {one.name}=")
    names = {one.name for one in expected}
    for place, one in enumerate(positions):
        is_needed = one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        if is_needed and one.name not in names and place >= len(expected):
            problems.append(f"needs {one.name}=, which the Protocol does not know")
    return problems


def test_every_recipe_builds_a_system(systems):
    for recipe, system in systems.items():
        assert isinstance(system, System), recipe
        assert system.modality in ("image", "point", "text"), recipe
        assert capabilities(system), recipe


def test_every_capability_belongs_to_some_recipe(systems):
    found = {capability for system in systems.values() for capability in capabilities(system)}
    assert found == set(CAPABILITIES)


def test_methods_take_what_their_protocol_says(systems):
    found = {}
    for recipe, system in systems.items():
        for capability in capabilities(system):
            for name in methods_of(capability):
                problems = misfits(getattr(system, name), getattr(capability, name))
                if problems:
                    found[f"{recipe}: {capability.__name__}.{name}"] = problems
    assert not found


def test_attributes_of_a_protocol_are_values_and_no_methods(systems):
    wrong = [
        f"{recipe}: {capability.__name__}.{name}"
        for recipe, system in systems.items()
        for capability in capabilities(system)
        for name in capability.__annotations__
        if inspect.ismethod(getattr(system, name))
    ]
    assert not wrong


def test_a_class_offers_what_its_instances_have(systems):
    """So that an error can name the models which have a capability without building them."""
    wrong = [
        f"{recipe}: {capability.__name__}"
        for recipe, system in systems.items()
        for capability in CAPABILITIES
        if methods_of(capability)
        and offers(type(system), capability) != isinstance(system, capability)
    ]
    assert not wrong


def test_the_page_of_the_contract_is_up_to_date(systems):
    assert PAGE.read_text() == page(systems), "run python tests/contracts/test_capabilities.py"


if __name__ == "__main__":
    PAGE.write_text(page({recipe: build(recipe) for recipe in recipes()}))
