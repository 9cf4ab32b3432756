"""Errors that a user can fix: the command line prints one line and exits with status 2."""

__all__ = ["ConfigError", "DataError", "RunError", "cause", "out_of_memory"]

# Phrases of torch's errors about tensors whose sizes do not match
SIZES = (
    "cannot be multiplied",
    "size mismatch",
    "must match the size",
    "channels, but got",
    "should contain",
    "is invalid for input",
    "Sizes of tensors must match",
    "split_sizes",
    "smaller than kernel",
    "not divisible",
)
# Phrases of torch's errors about memory
MEMORY = (
    "allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "multiplication overflow",
)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key."""


class DataError(ValueError):
    """An error in the data or their config; the message names the file or key and a remedy."""


class RunError(ValueError):
    """A run directory, or a file written by genlab, that is unusable; the message names it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be allocated, in Python, NumPy or torch."""
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in MEMORY)


def cause(error: BaseException) -> str | None:
    """Explain in one line an error that a user's settings cause deep inside a library.

    Returns:
        The line; None for any other error, which is then a bug of genlab.
    """
    message = str(error).strip()
    first_line = message.partition("\n")[0]
    if out_of_memory(error):
        return (
            "not enough memory; choose smaller numbers (num=, batch_size=, data.batch_size=, net.*)"
        )
    # By name, for NumPy's and torch's: this module imports neither.
    if type(error).__name__ in ("LinAlgError", "_LinAlgError"):
        return (
            f"the weights have diverged ({first_line}); try a lower learning rate (model.lr=, "
            "model.generator_lr=), or ckpt=best"
        )
    if isinstance(error, RuntimeError) and any(phrase in message for phrase in SIZES):
        return f"net: the sizes do not match each other, the data or model.latent_dim: {first_line}"
    return None
