import importlib.util

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from genlab import config
from genlab.config.renamed import ARGUMENTS, CLASSES, MODULES, new_target

MODEL = {
    "_target_": "genlab.models.gan.dcgan.Generator",
    "image_size": 32,
    "channels": 1,
    "latent_dim": 8,
}


def test_build_gives_plain_containers_to_the_constructor():
    node = OmegaConf.create(
        {"_target_": "torch.optim.Adam", "_partial_": True, "betas": [0.5, 0.999]}
    )
    built = config.build(node)
    assert built.func is torch.optim.Adam and type(built.keywords["betas"]) is list


@pytest.mark.parametrize(
    "target",
    [
        "os.system",  # not allowed
        "torch.hub.load",
        "torch.load",
        "genlab.config.importlib.import_module",  # through a name that a module imports
        "genlab.data.os.system",
        "genlab.systems.gan.gan.torch.hub.load",
        "torch.nn.init.normal_",  # a function of a library
        "torch.nn.modules.module.warnings.warn",
        "genlab.runs.write_text",  # a function of genlab that no config names
        "builtins.eval",
    ],
)
def test_a_target_that_is_not_allowed_is_not_built(target):
    with pytest.raises(config.ConfigError, match="_target_"):
        config.build({"a": {"_target_": target}})


def test_nested_targets_are_checked_before_anything_is_built():
    with pytest.raises(config.ConfigError, match=r"os\.system"):
        config.build(
            {
                "_target_": "torch.nn.Sequential",
                "x": [{"y": {"_target_": "os.system", "command": "true"}}],
            }
        )


def test_the_command_line_may_allow_another_package():
    with pytest.raises(config.ConfigError, match=r"allow=\[fractions\]"):
        config.build({"_target_": "fractions.Fraction"})
    assert (
        config.build({"_target_": "fractions.Fraction", "numerator": 3}, allow=["fractions"]) == 3
    )


def test_a_runs_config_cannot_widen_the_allow_list_or_reach_hydra(tmp_path):
    content = {
        "model": MODEL,
        "allow": ["os"],
        "hydra": {"callbacks": {"x": {"_target_": "os.system"}}},
        "defaults": ["evil"],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    frozen = config.read_frozen(tmp_path)
    assert frozen == {"model": MODEL, "allow": []}


def test_yaml_tags_in_a_runs_config_are_not_executed(tmp_path):
    (tmp_path / "config.yaml").write_text("model: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(config.ConfigError, match=r"config\.yaml: "):
        config.read_frozen(tmp_path)


def test_validate_reports_all_errors_at_once_with_keys_and_suggestions():
    cfg = {
        "model": {
            "_target_": "genlab.systems.gan.ogan.OGAN",
            "latent_dmi": 8,
            "update": "shard",
            "out_dim": "many",
        },
        "net": {"generator": MODEL | {"kernal_size": 4}},
        "loss": {"_target_": "genlab.losses.gan.Hing"},
    }
    with pytest.raises(config.ConfigError) as caught:
        config.validate(cfg, {"model": ["net", "loss"]})
    text = str(caught.value)
    assert "model.latent_dmi: " in text and "'latent_dim'" in text
    assert "model.update=shard: " in text and "'shared'" in text
    assert "model.out_dim=many: " in text and "int" in text
    assert "net.generator.kernal_size: " in text and "'kernel_size'" in text
    assert "'Hinge'" in text
    assert "model.optimizer: " in text  # required by GAN, found through **kwargs
    assert "model.net" not in text  # given by the command


def test_validate_accepts_what_python_would():
    config.validate({"net": MODEL | {"hidden_dim": 32}})
    config.validate(
        {
            "ema": {
                "_target_": "genlab.callbacks.ema.EMA",
                "half_life": 5,
                "modules": ["generator"],
                "ramp_up": None,
            }
        }
    )


def test_a_missing_or_unresolvable_value_is_named():
    with pytest.raises(config.ConfigError, match=r"a\.b"):
        config.resolve(OmegaConf.create({"a": {"b": "???"}}))
    with pytest.raises(config.ConfigError, match="size"):
        config.resolve(OmegaConf.create({"size": "${nothing.there}"}))


@pytest.fixture
def renamed(monkeypatch):
    """One argument of DCGAN's generator was renamed; another took over the name of a third."""
    table = {
        MODEL["_target_"]: {
            "code_size": "latent_dim",
            "image_size": "channels",
            "side": "image_size",
        }
    }
    for module in ("renamed", "validation"):
        monkeypatch.setattr(f"genlab.config.{module}.ARGUMENTS", table)


def old_run(folder, **node):
    content = {"model": {"_target_": "genlab.systems.gan.GAN"}, "net": node}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return config.read_frozen(folder)


def test_the_config_of_an_older_run_has_todays_names(tmp_path, renamed):
    node = {"_target_": MODEL["_target_"], "code_size": 8, "image_size": 1, "side": 32}
    frozen = old_run(tmp_path, generator=node)
    assert frozen["model"]["_target_"] == "genlab.systems.gan.gan.GAN"
    assert frozen["net"]["generator"] == MODEL


def test_a_config_with_todays_names_stays_as_it_is(tmp_path, renamed):
    assert old_run(tmp_path, generator=MODEL)["net"]["generator"] == MODEL


def test_an_old_argument_is_answered_with_todays_name(renamed):
    node = {key: value for key, value in MODEL.items() if key != "latent_dim"}
    with pytest.raises(config.ConfigError) as caught:
        config.validate({"net": {"generator": {**node, "code_size": 8}}})
    assert str(caught.value) == "net.generator.code_size: it is now called net.generator.latent_dim"


def test_an_old_argument_of_a_parent_is_answered_too(renamed):
    class Own(config.locate(MODEL["_target_"])):
        pass

    (error,) = config.check_arguments("net", Own, {"code_size": 8})
    assert error.startswith("net.code_size: ") and "net.latent_dim" in error


def test_an_old_target_is_answered_with_todays_name():
    target = "genlab.systems.flow.Flow"
    for allow in ([], ["genlab.systems"]):
        with pytest.raises(config.ConfigError, match=r"genlab\.systems\.flow\.flow\.Flow"):
            config.locate(target, allow)


def test_every_renamed_target_and_argument_exists_today():
    moved = {module: new_target(f"genlab.{module}.X").rpartition(".")[0] for module in MODULES}
    for module in moved.values():
        assert importlib.util.find_spec(module), module
    for target in CLASSES.values():
        config.locate(target, [target])
    for target, names in ARGUMENTS.items():
        known = config.parameters(config.locate(target, [target]))
        gone = names.keys() - set(names.values())
        assert set(names.values()) <= known.keys(), target
        assert gone and not gone & known.keys(), target
