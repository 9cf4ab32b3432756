"""Errors that a user can put right; the command line prints one line of each and exits with 2."""

__all__ = ["ConfigError", "DataError", "RunError", "cause", "out_of_memory"]

# What torch says of tensors that do not go together.
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


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key."""


class DataError(ValueError):
    """A fault in the user's data or data config; the message names the file or key and what to do."""


class RunError(ValueError):
    """A run directory, or a file that genlab wrote, that cannot be used as asked; the message names
    the file.
    """


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had: Python's and NumPy's MemoryError, or what
    torch raises for it.
    """
    said = (
        "allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
        "multiplication overflow",
    )
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(one in str(error) for one in said)
    )


def cause(error: BaseException) -> str | None:
    """One line for an error that settings cause deep inside a library; None for any other, which is
    a fault of genlab.
    """
    if out_of_memory(error):
        return "there is not enough memory for this; give smaller numbers (num=, batch_size=, data.batch_size=, net.*)"
    if type(error).__name__ in (
        "LinAlgError",
        "_LinAlgError",
    ):  # by name: NumPy's and torch's, and this imports neither
        said = str(error).partition("\n")[0]
        return f"the weights have diverged: {said} Try a lower rate (model.lr=, model.generator_lr=), or ckpt=best"
    if isinstance(error, RuntimeError) and any(one in str(error) for one in SIZES):
        said = str(error).strip().partition("\n")[0]
        return f"net: the sizes do not fit each other, the data or model.latent_dim: {said}"
    return None
