"""genlab trains generative models and uses them: `genlab train | sample | encode | eval | export`,
or `genlab.load(run)`.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__", "load"]

try:
    __version__ = version("genlab")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0.0.0"


def __getattr__(name: str):
    if name == "load":  # lazily, because it imports torch, and `import genlab` must not
        from genlab.runs import load

        return load
    raise AttributeError(f"module 'genlab' has no attribute {name!r}")
