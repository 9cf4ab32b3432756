"""Texts that the model writes for held-out examples during training, and their quality."""

import json
from pathlib import Path

import torch
from lightning.pytorch import Callback

from genlab.callbacks.loggers import show_texts
from genlab.evaluation.text import is_chinese, judge
from genlab.files import write_text
from genlab.ranges import PositiveInt

__all__ = ["ConditionalTexts", "Texts"]


class Texts(Callback):
    """At each validation, writes texts for validation examples to samples/texts_<step>.jsonl.

    The averaged weights write them. For questions, F1 is logged as val/quality (questions without
    an answer included) and exact match as val/em; for other tasks ROUGE-L is val/quality.

    Args:
        num: Validation examples to use, the first ones.
    """

    def __init__(self, num: PositiveInt = 100):
        self.num = num

    def on_validation_epoch_end(self, trainer, system) -> None:
        examples = trainer.datamodule.examples("val")[: self.num]
        if not examples:
            return
        question = examples[0].question is not None
        accepted = [example.accepted for example in examples]
        texts = [generated.texts[0] for generated in system.generate(examples)]
        scores = judge(texts, accepted, question, "cmrc" if is_chinese(accepted) else "squad")
        system.log("val/quality", scores["f1" if question else "rouge_l"], sync_dist=True)
        if question:
            system.log("val/em", scores["em"], sync_dist=True)
        if trainer.is_global_zero and not trainer.sanity_checking:
            rows = [
                {
                    "id": example.id,
                    "source": example.sources[0],
                    "question": example.question,
                    "text": text,
                    "accepted": example.accepted,
                }
                for example, text in zip(examples, texts, strict=True)
            ]
            _write(trainer, rows)


class ConditionalTexts(Callback):
    """At each validation, writes texts for given conditions to samples/texts_<step>.jsonl.

    The conditions are those of the first validation examples.

    Args:
        num: Validation examples to use.
    """

    def __init__(self, num: PositiveInt = 20):
        self.num = num

    def on_validation_epoch_end(self, trainer, system) -> None:
        data = trainer.datamodule
        examples = data.examples("val")[: self.num]
        if not examples or trainer.sanity_checking:
            return
        index = torch.arange(len(examples))
        given = {name: values[index] for name, values in data.given("val").items()}
        texts = [generated.texts[0] for generated in system.generate(examples, given=given)]
        if trainer.is_global_zero:
            rows = [
                {
                    "id": example.id,
                    "labels": example.labels,
                    "text": text,
                    "accepted": example.accepted,
                }
                for example, text in zip(examples, texts, strict=True)
            ]
            _write(trainer, rows)


def _write(trainer, rows: list[dict]) -> None:
    """Writes samples/texts_<step>.jsonl and sends the rows to the loggers."""
    path = Path(trainer.default_root_dir) / "samples" / f"texts_{trainer.global_step:06d}.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)
    show_texts(trainer.loggers, "samples/texts", rows, trainer.global_step)
