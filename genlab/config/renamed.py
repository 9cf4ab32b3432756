"""Names of earlier versions.

A run that was trained under them still loads, and a user who types one is told today's name.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["ARGUMENTS", "OPTIONS", "new_target", "unit_note", "with_new_names"]

# Modules of genlab, before -> today
MODULES = {
    "callbacks.growing": "callbacks.resolution",
    "data.cifar10": "data.images.cifar10",
    "data.codec": "data.text.codec",
    "data.corpus": "data.corpus.corpus",
    "data.facts": "data.text.facts",
    "data.folder": "data.images.folder",
    "data.labelled": "data.text.labelled",
    "data.sets": "data.images.sets",
    "data.text": "data.text.module",
    "sweeps": "sweeps.jobs",
    "systems.conditional": "systems.text.conditional",
    "systems.encoders": "systems.text.encoders",
    "systems.flow": "systems.flow.flow",
    "systems.flow_classifier": "systems.flow.classifier",
    "systems.gan": "systems.gan.gan",
    "systems.glann": "systems.latent.glann",
    "systems.glo": "systems.latent.glo",
    "systems.imle": "systems.latent.imle",
    "systems.lamb": "training.lamb",
    "systems.ogan": "systems.gan.ogan",
    "systems.pretraining": "systems.text.pretraining",
    "systems.seq2seq": "systems.text.seq2seq",
    "systems.trainer": "training.trainer",
}

# Classes that moved out of a module that still exists, before -> today
CLASSES = {
    "genlab.data.CIFAR10": "genlab.data.images.cifar10.CIFAR10",
    "genlab.data.Digits": "genlab.data.images.sets.Digits",
    "genlab.data.FashionMNIST": "genlab.data.images.sets.FashionMNIST",
    "genlab.data.ImageFolder": "genlab.data.images.folder.ImageFolder",
    "genlab.data.MNIST": "genlab.data.images.sets.MNIST",
    "genlab.data.MNIST5k": "genlab.data.images.sets.MNIST5k",
    "genlab.data.PointSet": "genlab.data.points.PointSet",
    "genlab.data.facts.FactTexts": "genlab.data.corpus.facts.FactTexts",
}

# Tables that several targets share
FRACTIONS = {"val_part": "val_fraction", "test_part": "test_fraction"}
IRESNET = {
    "width": "hidden_dim",
    "depth": "num_layers",
    "levels": "num_scales",
    "norm": "actnorm",
}
SCHEDULE = {"warmup_steps": "num_warmup_steps", "decay_steps": "num_decay_steps"}
FLOW = SCHEDULE | {"levels": "num_bins"}

# Arguments of today's targets, before -> today. If today's name of one argument was the old name of
# another, some other key of the same target must be gone: with_new_names takes a config for an old
# one only if it has such a key.
ARGUMENTS: dict[str, dict[str, str]] = {
    "genlab.data.corpus.corpus.Corpus": FRACTIONS,
    "genlab.data.corpus.facts.FactTexts": FRACTIONS,
    "genlab.models.flow.glow.Glow": {
        "depth": "num_steps",
        "hidden": "hidden_dim",
        "levels": "num_scales",
    },
    "genlab.models.flow.iresnet.IResNet": IRESNET,
    "genlab.models.flow.iresnet_classifier.IResNetClassifier": IRESNET,
    "genlab.models.flow.realnvp.RealNVP": {
        "depth": "num_couplings",
        "hidden": "hidden_dim",
        "levels": "num_scales",
    },
    "genlab.models.flow.residual_flow.ResidualFlow": IRESNET,
    "genlab.models.gan.biggan.Discriminator": {"attention": "attention_size", "dim": "hidden_dim"},
    "genlab.models.gan.biggan.Generator": {"attention": "attention_size", "dim": "hidden_dim"},
    "genlab.models.gan.dcgan.Discriminator": {"width_multiple": "hidden_dim"},
    "genlab.models.gan.dcgan.Generator": {"width_multiple": "hidden_dim"},
    "genlab.models.gan.growing.Discriminator": {"width_multiple": "hidden_dim"},
    "genlab.models.gan.growing.Generator": {"width_multiple": "hidden_dim"},
    "genlab.models.gan.growing.StyleGenerator": {"width_multiple": "hidden_dim"},
    "genlab.models.gan.pggan.Discriminator": {"dim": "hidden_dim"},
    "genlab.models.gan.pggan.Generator": {"dim": "hidden_dim"},
    "genlab.models.gan.sagan.Discriminator": {"dim": "hidden_dim"},
    "genlab.models.gan.sagan.Generator": {"dim": "hidden_dim"},
    "genlab.models.gan.sndcgan.Discriminator": {"dim": "hidden_dim"},
    "genlab.models.gan.sndcgan.Generator": {"dim": "hidden_dim"},
    "genlab.models.gan.sngan.Discriminator": {"dim": "hidden_dim"},
    "genlab.models.gan.sngan.Generator": {"dim": "hidden_dim"},
    "genlab.models.gan.stylegan.Generator": {"width_multiple": "hidden_dim"},
    "genlab.models.glann.Generator": {"dim": "hidden_dim", "hidden_dim": "dense_dim"},
    "genlab.models.seq2seq.bert.BERT": {"dim": "hidden_dim", "hidden_dim": "intermediate_dim"},
    "genlab.nn.conditions.Labels": {"dim": "condition_dim"},
    "genlab.systems.flow.classifier.HybridFlow": FLOW,
    "genlab.systems.flow.classifier.InvertibleClassifier": SCHEDULE,
    "genlab.systems.flow.flow.Flow": FLOW,
    "genlab.systems.text.conditional.Conditional": SCHEDULE,
    "genlab.systems.text.encoders.Backbone": {"dim": "condition_dim"},
    "genlab.systems.text.encoders.RunEncoder": {"dim": "condition_dim", "frozen": "run_config"},
    "genlab.systems.text.pretraining.Pretraining": {
        "warmup": "num_warmup_steps",
        "decay": "num_decay_steps",
    },
    "genlab.systems.text.seq2seq.Seq2Seq": SCHEDULE,
}

# Numbers that have another unit under their new name: key before -> what 1 is today. At every image
# size, the convolution next to the image had 8 width_multiple channels.
UNITS = {"width_multiple": 8}

# Options of commands, before -> today
OPTIONS = {
    "sample": {"scale": "temperature=, and with mode=reconstruct code_scale="},
    "eval": {"scale": "temperature="},
}


def new_target(target: str) -> str | None:
    """Today's name of a target; None if it was not renamed."""
    if target in CLASSES:
        return CLASSES[target]
    module, _, name = target.rpartition(".")
    today = MODULES.get(module.removeprefix("genlab."))
    return f"genlab.{today}.{name}" if module.startswith("genlab.") and today else None


def unit_note(name: str) -> str:
    """What to add to the new name of an argument that now counts in another unit, or ""."""
    return f" ({name}=1 is now {UNITS[name]})" if name in UNITS else ""


def with_new_names(node: Any) -> Any:
    """A copy of the config of a run in which every target and argument has today's name."""
    if isinstance(node, list):
        return [with_new_names(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    content = {key: with_new_names(child) for key, child in node.items()}
    target = content.get("_target_")
    if not isinstance(target, str):
        return content
    target = content["_target_"] = new_target(target) or target
    renamed = ARGUMENTS.get(target, {})
    gone = renamed.keys() - set(renamed.values())
    if not any(key in content for key in gone):
        return content  # a config of today, in which every name has its present meaning
    return {
        renamed.get(key, key): _in_new_unit(key, child) if key in renamed else child
        for key, child in content.items()
    }


def _in_new_unit(key: str, value: Any) -> Any:
    return UNITS[key] * value if key in UNITS and isinstance(value, int) else value
