"""Configs that are only a base of others, such as model/_gan.yaml: not options of their group."""

from functools import cache, wraps

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

__all__ = ["hide_bases", "is_base"]


def is_base(name: str) -> bool:
    """Whether the config file `name` is only a base of others."""
    return name.startswith("_")


@cache
def hide_bases() -> None:
    """Make Hydra leave the bases out of --help, completion, glob(*) and its lists of options.

    Hydra has no setting for that, and refuses sources of other classes in the workers of a sweep.
    So the listing of its own two sources is wrapped: of a package, and of a folder (--config-dir).
    """
    Plugins.instance()  # loads the sources anew, so they are taken from the registry after it
    for scheme in ("pkg", "file"):
        source = SourcesRegistry.instance().types[scheme]
        # mypy refuses to assign to a method.
        setattr(source, "list", _without_bases(source.list))  # noqa: B010


def _without_bases(listing):
    @wraps(listing)
    def names(self, config_path, results_filter):
        return [name for name in listing(self, config_path, results_filter) if not is_base(name)]

    return names
