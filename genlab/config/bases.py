"""Configs that are only a base of others, such as model/_gan.yaml: not options of their group."""

from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

__all__ = ["hide_bases", "is_base"]


def is_base(name: str) -> bool:
    """Whether the config file `name` is only a base of others."""
    return name.startswith("_")


# The workers of a launcher get these sources and then register Hydra's own beside them, which Hydra
# only accepts from classes of the same name.


class ImportlibResourcesConfigSource(
    importlib_resources_config_source.ImportlibResourcesConfigSource
):
    """Hydra's configs in a package, listed without the bases."""

    def list(self, config_path, results_filter):
        return [name for name in super().list(config_path, results_filter) if not is_base(name)]


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's configs in a folder (--config-dir), listed without the bases."""

    def list(self, config_path, results_filter):
        return [name for name in super().list(config_path, results_filter) if not is_base(name)]


def hide_bases() -> None:
    """Make Hydra leave the bases out of --help, completion, glob(*) and its lists of options."""
    Plugins.instance()  # registers Hydra's own sources
    sources = {"pkg": ImportlibResourcesConfigSource, "file": FileConfigSource}
    SourcesRegistry.instance().types |= sources
