"""Names of earlier versions: a run that was trained under them loads, and a user who types one is
answered with today's.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["ARGUMENTS", "OPTIONS", "new_target", "with_new_names"]

# Modules below genlab, before -> today
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

# Classes that left the module of their name
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

# Arguments of today's targets, before -> today. Where one name took the meaning of another, another
# key of the same target must be gone: with_new_names tells by that whether a config is an old one.
ARGUMENTS: dict[str, dict[str, str]] = {}


# Options of commands, before -> today
OPTIONS = {
    "sample": {"scale": "temperature=, and with mode=reconstruct code_scale="},
    "eval": {"scale": "temperature="},
}


def new_target(target: str) -> str | None:
    """Today's name of what an earlier version called `target`; None where it had the same name."""
    if target in CLASSES:
        return CLASSES[target]
    module, _, name = target.rpartition(".")
    today = MODULES.get(module.removeprefix("genlab."))
    return f"genlab.{today}.{name}" if module.startswith("genlab.") and today else None


def with_new_names(node: Any) -> Any:
    """A copy of a run's config in which every target and argument has today's name."""
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
    if not any(key in content for key in renamed.keys() - set(renamed.values())):
        return content  # without a key of before, even one that changed its meaning has today's
    return {renamed.get(key, key): child for key, child in content.items()}
