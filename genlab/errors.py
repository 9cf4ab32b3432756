"""Errors that a user can put right; the command line prints one line of each and exits with 2."""

__all__ = ["ConfigError", "RunError", "out_of_memory"]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key."""


class RunError(ValueError):
    """A run directory or a file in it that cannot be used as asked; the message names the file."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had: Python's and NumPy's MemoryError, or what torch raises for it."""
    said = ("allocate memory", "out of memory", "Storage size calculation overflowed", "multiplication overflow")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(one in str(error) for one in said))
