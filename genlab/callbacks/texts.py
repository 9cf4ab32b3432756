"""What the model writes to held-out examples as training goes on, and how good that is."""

import json
from pathlib import Path

from lightning.pytorch import Callback

from genlab.callbacks.loggers import show_texts
from genlab.metrics.text_evaluation import is_chinese, judge

__all__ = ["Texts"]


class Texts(Callback):
    """At each validation, writes to the first `num` examples of the validation split: samples/texts_<step>.jsonl.

    Logs val/quality: the F1 of answers, questions without an answer included, or the ROUGE-L of other texts; and val/em.
    The validation has the averaged weights.
    """

    def __init__(self, num: int = 100):
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
        system.log("step", float(trainer.global_step), rank_zero_only=True)
        if trainer.is_global_zero and not trainer.sanity_checking:
            folder = Path(trainer.default_root_dir) / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            rows = [
                {"id": example.id, "source": example.sources[0], "question": example.question, "text": text,
                 "accepted": example.accepted}
                for example, text in zip(examples, texts, strict=True)
            ]  # fmt: skip
            with (folder / f"texts_{trainer.global_step:06d}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            show_texts(trainer.loggers, "samples/texts", rows, trainer.global_step)
