"""Errors of constructors, reported under the config key whose settings caused them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from genlab.errors import ConfigError, out_of_memory

__all__ = ["blame"]

NAMES_A_KEY = re.compile(r"[a-z_]+(\.\w+)*[=:]")  # "net.num_steps=0: ...", "loss: ..."
FAILURES = (
    TypeError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    MemoryError,
)


@contextmanager
def blame(key: str) -> Iterator[None]:
    """Put `key` into the message of every error that is raised inside the block.

    Args:
        key: The key of the settings from which the block builds something.

    Raises:
        ConfigError: In place of a plain ValueError that names no key yet, and of the errors that
            libraries raise when settings do not fit together or ask for more memory than there is.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError or NAMES_A_KEY.match(str(error)):
            raise
        raise ConfigError(f"{key}: {error}") from error
    except FAILURES as error:
        if out_of_memory(error):
            raise ConfigError(
                f"{key}: not enough memory for objects of this size; choose smaller numbers"
            ) from error
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{key}: cannot be built from these settings ({type(error).__name__}: {first_line}); "
            "set HYDRA_FULL_ERROR=1 to see where"
        ) from error
