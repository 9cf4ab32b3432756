"""What the commands ask of a system, and how they name the systems that have it."""

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException

from genlab import config
from genlab.commands.common import options_for, output_file, require
from genlab.errors import RunError
from genlab.explain import explain
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


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_an_option_of_an_earlier_version_is_answered_with_its_new_name(command):
    config.from_run(command, [])
    with (
        initialize_config_module("genlab.conf", version_base="1.3"),
        pytest.raises(HydraException) as refused,
    ):
        compose(command, ["scale=0.5"])
    assert explain(refused.value, command, ["scale=0.5"]).startswith("scale: is now called temp")
