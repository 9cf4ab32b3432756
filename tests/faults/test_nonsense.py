"""Nonsense in any key of any command is refused by one line that names the key."""

import copy
import random
import re
import resource
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from genlab import config, runs
from genlab.commands import options, train
from genlab.commands.job import Job, Record
from genlab.errors import cause

SMALL_IRESNET = ["net.num_blocks=1", "net.hidden_dim=8"]
RECIPES = {
    "ogan": ["model=ogan", "data=digits", "net.generator.hidden_dim=8"],
    "glann": ["model=glann", "data=digits", "net.generator.hidden_dim=4", "data.flip=false"],
    "glow": ["model=glow", "net.num_steps=2", "net.hidden_dim=8"],
    "realnvp": ["model=realnvp", "data=moons", "net.num_couplings=2"],
    "iresnet_classifier": ["model=iresnet_classifier", "data=digits8", *SMALL_IRESNET],
    "unilm_qa": ["model=unilm_qa", "net=bert_tiny", "data.vocab_size=200"],
    "cln_lm": ["model=cln_lm", "net=bert_tiny", "data.vocab_size=200", "model.init=null"],
    "pretrain_mlm": ["model=pretrain_mlm", "data=fact_texts", "net=bert_tiny"],
}
VALUES = [-1, 0, 1, 7, -0.5, 1.5, 1e30, 1e-30, float("nan"), float("inf")]
VALUES += ["", None, [], {}, [1, 2], [[1]], [-1, 2], ["a"], True, False, "abc", "a b"]
VALUES += [10**12, -(10**12), 2**31, "[/b]", "..", "/dev/null", "ünï", "${oc.env:HOME}"]
VALUES += [{"a": 1}, "1", "0x10", "\n", "\udcff"]
# Keys that are not varied: where and on what a run trains
KEPT = ("name", "run", "ckpt", "allow", "hydra", "trainer.devices", "trainer.num_nodes")
KEPT += ("trainer.strategy",)


def with_value(settings: dict, key: str, value) -> dict:
    """A copy of `settings` with this value at the dotted key."""
    settings = copy.deepcopy(settings)
    *path, last = key.split(".")
    node = settings
    for name in path:
        node = node[name]
    node[last] = value
    return settings


@pytest.fixture(scope="module")
def recipes(composed):
    found = {}
    for name, words in RECIPES.items():
        found[name] = config.resolve(composed(*words, "trainer=cpu"))
        found[name]["logger"] = None
    return found


@pytest.fixture(scope="module")
def bounded():
    """Limits this process to two more gigabytes, so that no huge network is ever allocated."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(settings: dict, tmp_path) -> str | None:
    """The error of `genlab train` with `settings` before it reads data; None if there is none."""
    try:
        checked = train.check(settings, [], sweep=False)
        config.build(checked["data"], checked["allow"])
        if "vocab_size" in (checked.get("net") or {}):
            checked = with_value(checked, "net.vocab_size", 50)
        config.build_system(checked, checked["allow"])
        job = Job(tmp_path, checked, runs.Manifest(tmp_path, {}))
        train.build_trainer(job, Record(job))
    except ValueError as error:
        return str(error)
    except Exception as error:
        if cause(error) is None and type(error).__name__ != "MisconfigurationException":
            raise
        return str(error)
    return None


def fuzz(recipes, tmp_path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(count):
        recipe = draw.choice(sorted(recipes))
        keys = [key for key in config.flatten(recipes[recipe]) if not key.startswith(KEPT)]
        key, value = draw.choice(keys), draw.choice(VALUES)
        try:
            message = attempt(with_value(recipes[recipe], key, value), tmp_path)
        except Exception as error:
            case = f"{recipe} {key}={value!r}"
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
        assert message is None or message.strip(), (recipe, key, value)


def test_no_override_of_a_recipe_gives_a_traceback(recipes, bounded, tmp_path):
    fuzz(recipes, tmp_path, 150, seed=25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_no_override_of_two_thousand_gives_a_traceback(recipes, bounded, tmp_path, seed):
    fuzz(recipes, tmp_path, 250, seed)


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("ogan", "trainer.max_steps", -5),
        ("ogan", "trainer.max_steps", 0),
        ("ogan", "trainer.gradient_clip_val", -1),
        ("ogan", "trainer.accumulate_grad_batches", 0),
        ("ogan", "trainer.accumulate_grad_batches", -5),
        ("ogan", "trainer.overfit_batches", {}),
        ("ogan", "trainer.profiler", True),
        ("ogan", "trainer.max_time", False),
        ("ogan", "trainer.accelerator", {}),
        ("ogan", "trainer.benchmark", {}),
        ("ogan", "callbacks.checkpoint.every_num_steps", 0),
        ("ogan", "callbacks.grids.every_num_steps", 0),
        ("ogan", "callbacks.divergence_guard.every_num_steps", 0),
        ("ogan", "callbacks.ema.half_life", -100),
        ("ogan", "callbacks.quality.num", 1),
        ("ogan", "callbacks.ema", 7),
        ("ogan", "model.generator_lr", -1),
        ("ogan", "model.generator_lr", True),
        ("ogan", "model.generator_lr", "1"),
        ("ogan", "model.latent_dim", 0),
        ("ogan", "model.latent_dim", 1.0),
        ("ogan", "model.code_weight", -1),
        ("ogan", "model.optimizer.alpha", 2),
        ("ogan", "model.optimizer._partial_", "1"),
        ("ogan", "model.optimizer._target_", 7),
        ("ogan", "net.generator._target_", [1, 2]),
        ("ogan", "data.image_size", "7"),
        ("ogan", "data.resize", {}),
        ("ogan", "data.num_workers", -1),
        ("ogan", "evaluate", "flase"),
        ("ogan", "explorer", {"a": 1}),
        ("ogan", "seed", -1),
        ("ogan", "tags", "abc"),
        ("ogan", "model", None),
        ("glow", "net.shape", -1),
        ("glow", "model.num_warmup_steps", -1),
        ("glow", "model.optimizer.eps", -1),
        ("glow", "model.optimizer.betas", 1),
        ("glow", "model.optimizer.betas", [0.9, 1.5]),
        ("glow", "model.alpha", float("nan")),
        ("glann", "model.code_betas", 0.5),
        ("iresnet_classifier", "net.coeff", {}),
        ("iresnet_classifier", "net.hidden_dim", {"a": 1}),
        ("unilm_qa", "data.lowercase", float("nan")),
        ("unilm_qa", "data.stride", "/"),
        ("unilm_qa", "model.num_decay_steps", {"a": 1}),
        ("pretrain_mlm", "data.val_fraction", None),
    ],
)
def test_a_meaningless_value_is_refused_by_its_key(recipes, recipe, key, value):
    with pytest.raises(config.ConfigError, match=rf"(?m)^ *{re.escape(key)}\b"):
        train.check(with_value(recipes[recipe], key, value), [], sweep=False)


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("ogan", "trainer.max_steps", -1),
        ("ogan", "trainer.max_time", "00:00:10:00"),
        ("ogan", "trainer.precision", 32),
        ("ogan", "trainer.limit_train_batches", 1.0),
        ("ogan", "model.generator_lr", 1),
        ("ogan", "callbacks", None),
        ("ogan", "callbacks.ema", None),
        ("glow", "model.optimizer.betas", [0.5, 0.9]),
        ("glow", "net.num_scales", None),
    ],
)
def test_a_valid_value_is_accepted(recipes, recipe, key, value):
    train.check(with_value(recipes[recipe], key, value), [], sweep=False)


@pytest.mark.parametrize("key", ["net.generator.latent_dim", "net.generator.hidden_dim"])
def test_a_network_too_large_for_the_memory_is_refused_by_its_key(recipes, bounded, key):
    with pytest.raises(config.ConfigError, match=r"^net: "):
        config.build_system(with_value(recipes["glann"], key, 10**12))


# --- options of the commands ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sample", "encode", "eval", "export", "train"])
def test_the_config_of_a_command_agrees_with_its_schema(command):
    shipped = yaml.safe_load(files("genlab.conf").joinpath(f"{command}.yaml").read_text())
    groups = {key for entry in shipped.pop("defaults") if isinstance(entry, dict) for key in entry}
    shipped = {key: value for key, value in shipped.items() if key != "hydra"}
    if command == "train":  # whose groups hold the recipe
        shipped |= {name: {"_target_": "x"} for name in ("model", "data", "trainer")}
    read = options.read(command, dict(shipped))
    for name in shipped.keys() - {"allow"}:  # to which read adds
        assert read[name] == shipped[name], name
    fields = config.parameters(options.SCHEMAS[command])
    assert shipped.keys() <= fields.keys() <= shipped.keys() | groups | {"net", "loss", "out"}
    for name in shipped.keys() - {"model", "data", "trainer", "name", "decoding", "allow"}:
        left = options.read(command, {key: value for key, value in shipped.items() if key != name})
        assert left[name] == shipped[name], name


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("sample", "num", []),
        ("sample", "num", -3),
        ("sample", "num", 0),
        ("sample", "num", 0.5),
        ("sample", "num", None),
        ("sample", "seed", {"a": 1}),
        ("sample", "seed", "abc"),
        ("sample", "temperature", float("nan")),
        ("sample", "code_scale", [-1, 2]),
        ("sample", "temperature", -1),
        ("sample", "steps", 1),
        ("sample", "mode", "gird"),
        ("sample", "label", 1.5),
        ("sample", "label", []),
        ("sample", "device", 0.5),
        ("sample", "device", "abc"),
        ("sample", "device", "cuda:x"),
        ("sample", "weights", "emma"),
        ("sample", "ckpt", False),
        ("sample", "out", 1.5),
        ("sample", "run", [1]),
        ("sample", "allow", "mypackage"),
        ("sample", "decoding", {"beams": 0}),
        ("sample", "decoding", {"max_length": 0}),
        ("sample", "decoding", {"num": [1, 2]}),
        ("sample", "decoding", {"bems": 2}),
        ("sample", "sedd", 1),
        ("encode", "batch_size", -1),
        ("encode", "batch_size", True),
        ("encode", "input", {"a": 1}),
        ("encode", "input", ""),
        ("encode", "tolerance", []),
        ("encode", "whiten", "abc"),
        ("encode", "split", "tset"),
        ("encode", "log_prob", -0.5),
        ("eval", "num", {}),
        ("eval", "batch_size", [[1]]),
        ("eval", "metrics", 7),
        ("eval", "features", 7),
        ("eval", "ood", {"a": 1}),
        ("eval", "measure", "squad2"),
        ("export", "licence", 1e30),
        ("export", "format", -0.5),
    ],
)
def test_a_meaningless_option_is_refused_by_its_key(command, key, value):
    with pytest.raises(config.ConfigError, match=f"^{key}"):
        options.read(command, {key: value})


def test_no_option_of_any_command_gives_a_traceback():
    for command, schema in options.SCHEMAS.items():
        for name in config.parameters(schema):
            for value in VALUES:
                try:
                    options.read(command, {name: value})
                except config.ConfigError as error:
                    assert "\n  " in str(error) or str(error).startswith(name) or command == "train"


@pytest.fixture(scope="module")
def run(trained_in, tiny, tmp_path_factory):
    words = [word for word in tiny if not word.startswith("trainer.max_steps")]
    path = tmp_path_factory.mktemp("nonsense") / "ogan"
    trained_in(path, "model=ogan", "data=digits", *words, "trainer.max_steps=3")
    return path


@pytest.mark.parametrize(
    ("command_name", "words", "key"),
    [
        ("sample", ["data.image_size=16"], "data"),  # mode=grid reads none
        ("sample", ["ckpt=7"], "ckpt"),
        ("sample", ["device=cuda:99"], "device"),
        ("encode", ["split=test", "label=7"], "label"),
        ("encode", ["split=test", "seed=7"], "seed"),
        ("encode", ["split=test", "on_error=skip"], "on_error"),
        ("encode", ["split=test", "data.batch_size=abc"], "data.batch_size"),
        ("encode", ["split=test", "data._target_=7"], "data._target_"),
        ("eval", ["features._target_=-0.5"], "features._target_"),
        ("export", ["format=-0.5"], "format"),
    ],
)
def test_an_option_without_effect_or_meaning_is_refused(
    run, command, tmp_path, command_name, words, key
):
    with pytest.raises(ValueError, match=f"^{key}"):
        command(command_name, tmp_path, f"run={run}", *words)


def test_a_deleted_option_has_its_default(run, command, tmp_path):
    command("sample", tmp_path, f"run={run}", "~weights", "~seed", "num=2")
    assert (tmp_path / "grid.png").exists()


DATA_KEYS = ("batch_size", "num_train", "crop", "resize", "flip", "seed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_override_of_a_whole_command_gives_a_traceback(
    run, command, bounded, tmp_path, monkeypatch, seed
):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(seed)
    words = {
        "sample": ["num=2"],
        "encode": ["split=test"],
        "eval": ["num=40", "features=random"],
        "export": ["format=safetensors"],
    }
    texts = ["-1", "0", "7", "1.5", "nan", "inf", "''", "null", "[]", "{}", "[1,2]", "true"]
    texts += ["abc", "'1'", "{a:1}", "[/b]", "1e30"]
    for i in range(40):
        name = draw.choice(["sample", "sample", "encode", "eval", "export"])
        left = {"run", "name", "allow", "out", "metrics", "features", "data"}
        left |= {"ood"} if name == "eval" else set()
        keys = [key for key in config.parameters(options.SCHEMAS[name]) if key not in left]
        if name == "encode":
            keys += [f"data.{key}" for key in DATA_KEYS]
        word = f"{draw.choice(keys)}={draw.choice(texts)}"
        (tmp_path / f"{i}").mkdir()
        try:
            command(name, tmp_path / f"{i}", f"run={run}", *words[name], word)
        except (ValueError, HydraException, OmegaConfBaseException):
            pass
        except Exception as error:
            assert cause(error), f"{name} {word}: {type(error).__name__}: {error}"
