"""genlab's BERT in Hugging Face's format, to be read by `transformers` and by all that reads its
files.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, processors
from torch import nn

from genlab.files import write_text
from genlab.tensors import save_safetensors
from genlab.weights.bert import named
from genlab.weights.source import ARGUMENTS, WeightsError
from genlab.weights.vocabulary import NAMES

__all__ = ["config_of", "save"]


def config_of(net: dict[str, Any] | nn.Module) -> dict[str, Any]:
    """config.json for a BERT or its constructor's arguments."""
    net = net.arguments if isinstance(net, nn.Module) else net
    made = {
        "model_type": "bert",
        "tie_word_embeddings": True,
        "position_embedding_type": "absolute",
    }
    return made | {
        theirs: net[ours] for theirs, ours in ARGUMENTS.items() if net.get(ours) is not None
    }


def save(net: nn.Module, tokenizer, out: str | Path, decoder: bool = False) -> list[str]:
    """Writes weights, vocabulary and their configs into `out`.

    Args:
        net: a BERT.
        tokenizer: its genlab.data.text.tokenizer.Tokenizer.
        out: a directory, made where it is missing.
        decoder: a language model, which transformers reads as BertLMHeadModel; else
            BertForMaskedLM, which has the same tensors.

    Returns:
        The names of the files.

    Raises:
        WeightsError: transformers' BERT has no such network.
    """
    config, out = config_of(net), Path(out)
    if config.pop("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise WeightsError(
            f"net.embedding_dim={net.arguments['embedding_dim']}: transformers' BERT has no factorised embeddings; only a "
            "network with net.embedding_dim=null can be exported"
        )
    config |= {
        "architectures": ["BertLMHeadModel" if decoder else "BertForMaskedLM"],
        "is_decoder": decoder,
    }
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in named(net.state_dict()).items()
    }
    save_safetensors(tensors, out / "model.safetensors", {"format": "pt"})
    # Of the classes of transformers, only the general one reads all of a tokenizer.json.
    plain = not tokenizer.compose and tokenizer.clean_text and tokenizer.max_word == 100
    about = {
        "tokenizer_class": "BertTokenizer" if plain else "PreTrainedTokenizerFast",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.chinese_chars,
        "model_max_length": net.max_length,
    }
    about |= {key: name for key, name in NAMES.items() if name in tokenizer.ids}
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(out / "vocab.txt", "".join(f"{token}\n" for token in tokenizer.vocab))
    write_text(out / "tokenizer.json", tokenizer_json(tokenizer))
    write_text(out / "tokenizer_config.json", json.dumps(about, indent=2) + "\n")
    return [
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def tokenizer_json(tokenizer) -> str:
    """The tokenizer as transformers keeps it, with [CLS] and [SEP] around a text."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([name for name in NAMES.values() if name in tokenizer.ids])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)],
    )
    backend.decoder = decoders.WordPiece()
    return backend.to_str(pretty=True)
