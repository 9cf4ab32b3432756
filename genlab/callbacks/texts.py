"""What the model writes to held-out examples as training goes on, and how good that is."""

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
    """At each validation, writes to the first `num` examples of the validation split:
    samples/texts_<step>.jsonl.

    Logs val/quality: the F1 of answers, questions without an answer included, or the ROUGE-L of
    other texts; and val/em. The validation has the averaged weights.
    """

    def __init__(self, num: PositiveInt = 100):
        self.num = num

    def on_validation_epoch_end(self, trainer, system) -> None:
        examples = trainer.datamodule.examples("val")[: self.num]
        if not examples:
            return
        question, accepted = examples[0].question is not None, [e.accepted for e in examples]
        texts = [one.texts[0] for one in system.generate(examples)]
        scores = judge(texts, accepted, question, "cmrc" if is_chinese(accepted) else "squad")
        system.log("val/quality", scores["f1" if question else "rouge_l"], sync_dist=True)
        if question:
            system.log("val/em", scores["em"], sync_dist=True)
        if trainer.is_global_zero and not trainer.sanity_checking:
            rows = [
                {
                    "id": e.id,
                    "source": e.sources[0],
                    "question": e.question,
                    "text": text,
                    "accepted": e.accepted,
                }
                for e, text in zip(examples, texts, strict=True)
            ]
            write(trainer, rows)


class ConditionalTexts(Callback):
    """At each validation, writes under the conditions of the first `num` validation examples:
    samples/texts_<step>.jsonl.
    """

    def __init__(self, num: PositiveInt = 20):
        self.num = num

    def on_validation_epoch_end(self, trainer, system) -> None:
        data = trainer.datamodule
        examples = data.examples("val")[: self.num]
        if not examples or trainer.sanity_checking:
            return
        given = {
            name: values[torch.arange(len(examples))] for name, values in data.given("val").items()
        }
        texts = [one.texts[0] for one in system.generate(examples, given=given)]
        if trainer.is_global_zero:
            rows = zip(examples, texts, strict=True)
            write(
                trainer,
                [
                    {"id": e.id, "labels": e.labels, "text": t, "accepted": e.accepted}
                    for e, t in rows
                ],
            )


def write(trainer, rows: list[dict]) -> None:
    """Writes samples/texts_<step>.jsonl, and shows the rows to the loggers."""
    path = Path(trainer.default_root_dir) / "samples" / f"texts_{trainer.global_step:06d}.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)
    show_texts(trainer.loggers, "samples/texts", rows, trainer.global_step)
