"""genlab's BERT in Hugging Face's format, to be read by `transformers` and by all that reads its files."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from genlab.files import write_text
from genlab.tensors import save_safetensors
from genlab.weights.bert import named
from genlab.weights.source import ARGUMENTS, WeightsError

__all__ = ["config_of", "save"]


def config_of(net: dict[str, Any] | nn.Module) -> dict[str, Any]:
    """config.json for a BERT or its constructor's arguments."""
    net = net.arguments if isinstance(net, nn.Module) else net
    made = {"model_type": "bert", "tie_word_embeddings": True, "position_embedding_type": "absolute"}
    return made | {theirs: net[ours] for theirs, ours in ARGUMENTS.items() if net.get(ours) is not None}


def save(net: nn.Module, tokenizer, out: str | Path, decoder: bool = False) -> list[str]:
    """Writes config.json, model.safetensors, vocab.txt and tokenizer_config.json into `out`; their names.

    decoder: a language model, which transformers reads as BertLMHeadModel; else BertForMaskedLM, which has the same tensors.
    """
    config, out = config_of(net), Path(out)
    if config.pop("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise WeightsError(
            f"net.embedding_dim={net.arguments['embedding_dim']}: transformers' BERT has no factorised embeddings; only a "
            "network with net.embedding_dim=null can be exported"
        )
    config |= {"architectures": ["BertLMHeadModel" if decoder else "BertForMaskedLM"], "is_decoder": decoder}
    tensors = {name: value.detach().cpu().contiguous() for name, value in named(net.state_dict()).items()}
    save_safetensors(tensors, out / "model.safetensors", {"format": "pt"})
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(out / "vocab.txt", "".join(f"{token}\n" for token in tokenizer.vocab))
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": tokenizer.lowercase, "model_max_length": net.max_length}
    write_text(out / "tokenizer_config.json", json.dumps(about, indent=2) + "\n")
    return ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"]
