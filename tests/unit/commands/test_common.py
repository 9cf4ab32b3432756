"""What the commands ask of a system, and how they name the systems that have it."""

import pytest

from genlab import config
from genlab.commands.common import options_for, output_file, require
from genlab.errors import RunError
from genlab.systems.base import Encodes, HasLikelihood, Samples


class Drawing:
    """A system that samples, with a temperature."""

    modality = "image"

    def prior(self, num, seed, temperature=1.0): ...

    def sample(self, num, seed=0, temperature=1.0): ...


def test_a_missing_capability_names_the_systems_that_have_it():
    require(Drawing(), Samples, "mode=grid", "a model that samples")
    for capability, names in ((HasLikelihood, r"\(Flow\)"), (Encodes, r"\(.*GLO.*OGAN\)")):
        with pytest.raises(RunError, match=rf"^some=option needs a model {names}; .* Drawing$"):
            require(Drawing(), capability, "some=option", "a model")


def test_options_are_those_that_a_method_takes():
    system, settings = Drawing(), {"temperature": 0.5, "label": None}
    assert options_for(system.sample, settings, "temperature", "label") == {"temperature": 0.5}
    with pytest.raises(config.ConfigError, match=r"^label=3: .* temperature"):
        options_for(system.sample, settings | {"label": 3}, "temperature", "label")


def test_an_output_file_has_its_suffix(tmp_path):
    assert output_file({"out": None}, tmp_path, "codes.npz") == tmp_path / "codes.npz"
    with pytest.raises(config.ConfigError, match=r"^out=a\.txt: .*\.npz"):
        output_file({"out": "a.txt"}, tmp_path, "codes.npz")
