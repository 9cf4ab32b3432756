import pytest
import torch
import yaml
from omegaconf import OmegaConf

from genlab import config

MODEL = {
    "_target_": "genlab.models.gan.dcgan.Generator",
    "image_size": 32,
    "channels": 1,
    "latent_dim": 8,
}


def test_build_makes_what_the_node_says_with_plain_containers():
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
        "genlab.config.importlib.import_module",  # through what a module imported
        "genlab.data.os.system",
        "genlab.systems.gan.gan.torch.hub.load",
        "torch.nn.init.normal_",  # a function of a library
        "torch.nn.modules.module.warnings.warn",
        "genlab.runs.write_text",  # genlab's own, but nothing that a config describes
        "builtins.eval",
    ],
)
def test_what_is_not_allow_listed_is_not_built(target):
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
    with pytest.raises(config.ConfigError, match="not readable as YAML"):
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
    assert "model.latent_dmi: " in text and "Did you mean 'latent_dim'?" in text
    assert (
        "model.update=shard: expected one of shared, single" in text
        and "Did you mean 'shared'?" in text
    )
    assert "model.out_dim=many: expected int" in text
    assert "net.generator.kernal_size" in text and "'kernel_size'" in text
    assert "Did you mean 'Hinge'?" in text
    assert (
        "model.optimizer: " in text and "needs a value here" in text
    )  # required by GAN, found through **kwargs
    assert "model.net" not in text


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
