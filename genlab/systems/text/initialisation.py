"""What a text system takes from its data and from pretrained weights when training starts."""

import sys

from genlab.weights.bert import fill

__all__ = ["initialise"]


def initialise(system, tokenizer) -> None:
    """Gives a system the vocabulary of its data and, in a new run, its pretrained weights.

    A resumed run has the same vocabulary, since the fingerprint of the data includes it.

    Args:
        system: With `net`, `codec`, `trainer`, and `init`: the weights to start from, or None.
        tokenizer: Of the data.

    Raises:
        ValueError: The network has another number of tokens.
    """
    if len(tokenizer) != system.net.vocab_size:
        raise ValueError(
            f"net.vocab_size={system.net.vocab_size}: expected {len(tokenizer)}, the tokens of the "
            "data's vocabulary"
        )
    system.codec.use(tokenizer)
    if system.init is not None and system.trainer.ckpt_path is None:
        report = fill(system.net, system.init, tokenizer.keep_tokens, tokenizer.vocab)
        if system.trainer.is_global_zero:
            print(report, file=sys.stderr)
