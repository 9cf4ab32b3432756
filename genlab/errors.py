"""Errors that a user can put right; the command line prints one line of each and exits with 2."""

__all__ = ["ConfigError", "RunError"]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key."""


class RunError(ValueError):
    """A run directory, or a file that genlab wrote, that cannot be used as asked; the message names the file."""
