"""What goes wrong inside a constructor, said of the settings that it was given."""

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
    """Has whatever is raised inside name `key`, whose settings something is built from.

    Raises:
        ConfigError: for a plain ValueError that names no key yet, and for what a library raises
            where settings do not go together or ask for more memory than there is.
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
                f"{key}: there is not enough memory for objects of this size; choose smaller numbers"
            ) from error
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ConfigError(
            f"{key}: cannot be built from these settings ({what}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
