"""genlab trains generative models and uses them.

On the command line: `genlab train | sample | encode | eval | export`. From Python:
`genlab.load(run)`.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__", "load"]

try:
    __version__ = version("genlab")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"


def __getattr__(name: str):
    if name == "load":  # here, because it imports torch, and `import genlab` must stay fast
        from genlab.runs import load

        return load
    raise AttributeError(f"module 'genlab' has no attribute {name!r}")
