"""Writing genlab's BERT in Hugging Face's format, which `transformers` reads."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, processors
from torch import nn

from genlab.files import write_text
from genlab.tensors import save_safetensors
from genlab.weights.bert import to_huggingface
from genlab.weights.source import ARGUMENTS, WeightsError
from genlab.weights.vocabulary import NAMES

__all__ = ["make_config", "save"]


def make_config(net: nn.Module) -> dict[str, Any]:
    """The content of config.json for a BERT."""
    fixed = {
        "model_type": "bert",
        "tie_word_embeddings": True,
        "position_embedding_type": "absolute",
    }
    arguments = net.arguments
    return fixed | {
        theirs: arguments[ours]
        for theirs, ours in ARGUMENTS.items()
        if arguments.get(ours) is not None
    }


def save(net: nn.Module, tokenizer, out: str | Path, decoder: bool = False) -> list[str]:
    """Writes weights, vocabulary and their configs into `out`.

    Args:
        net: A BERT.
        tokenizer: Its genlab.data.text.tokenizer.Tokenizer.
        out: A directory, which is made where it is missing.
        decoder: Whether it is a language model, which transformers reads as BertLMHeadModel;
            otherwise BertForMaskedLM, which has the same tensors.

    Returns:
        The names of the files.

    Raises:
        WeightsError: transformers' BERT has no such network.
    """
    config, out = make_config(net), Path(out)
    if config.pop("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise WeightsError(
            f"net.embedding_dim={net.arguments['embedding_dim']}: transformers' BERT has no "
            "factorised embeddings; only a network with net.embedding_dim=null can be exported"
        )
    config |= {
        "architectures": ["BertLMHeadModel" if decoder else "BertForMaskedLM"],
        "is_decoder": decoder,
    }
    state = to_huggingface(net.state_dict()).items()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state}
    save_safetensors(tensors, out / "model.safetensors", {"format": "pt"})
    # Only the general class of transformers reads all settings of a tokenizer.json.
    is_berts = not tokenizer.compose and tokenizer.clean_text and tokenizer.max_word == 100
    about = {
        "tokenizer_class": "BertTokenizer" if is_berts else "PreTrainedTokenizerFast",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.chinese_chars,
        "model_max_length": net.max_length,
    }
    about |= {key: name for key, name in NAMES.items() if name in tokenizer.ids}
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(out / "vocab.txt", "".join(f"{token}\n" for token in tokenizer.vocab))
    write_text(out / "tokenizer.json", make_tokenizer_json(tokenizer))
    write_text(out / "tokenizer_config.json", json.dumps(about, indent=2) + "\n")
    return [
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def make_tokenizer_json(tokenizer) -> str:
    """The content of tokenizer.json, with [CLS] and [SEP] around a text."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([name for name in NAMES.values() if name in tokenizer.ids])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)],
    )
    backend.decoder = decoders.WordPiece()
    return backend.to_str(pretty=True)
