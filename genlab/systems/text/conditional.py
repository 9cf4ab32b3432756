"""Texts written under a condition, labels or an image: a language model, or sequence to sequence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.models.seq2seq.generation import Decoding
from genlab.ranges import PartialFraction
from genlab.systems.text.seq2seq import Seq2Seq
from genlab.systems.text.writing import ROWS, Generated, generate

__all__ = ["Conditional"]


class Conditional(Seq2Seq):
    """A Seq2Seq whose `net` is steered by a vector that `condition` makes of labels or images.

    "Conditional text generation by conditional layer normalisation", Su 2019,
    https://kexue.fm/archives/7124. With data.max_source=0 it is a language model: rows are [CLS]
    text [SEP], and every token is predicted. condition_dropout: the part of the training rows whose
    condition is not told; of several labels, each is left out as often by itself, so that some of
    them may be given. What it learns then is the text without a condition, from which
    decoding.guidance leads away.
    """

    formats = ()  # transformers' BERT knows no condition

    def __init__(
        self,
        net: nn.Module,
        codec: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        condition: nn.Module,
        condition_dropout: PartialFraction = 0.1,
        **options,
    ):
        super().__init__(net, codec, optimizer, **options)
        if net.condition_dim != condition.condition_dim:
            raise ValueError(
                f"net.condition_dim={net.condition_dim}: expected model.condition.condition_dim={condition.condition_dim}, the width of what "
                "steers the network"
            )
        if not 0 <= condition_dropout < 1:
            raise ValueError(
                f"model.condition_dropout={condition_dropout}: expected a part of the rows, in [0, 1)"
            )
        self.condition, self.condition_dropout = condition, condition_dropout

    @property
    def writes_freely(self) -> bool:
        """Whether it is a language model, which needs no source."""
        return not self.codec.max_source

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        data, key = (
            self.trainer.datamodule,
            "labels" if hasattr(self.condition, "values") else "image",
        )
        if not hasattr(data, "given") or key not in data.given("val"):
            kinds = {
                "labels": "fact_sentences, poems, labelled_text",
                "image": "labelled_images, coco_captions",
            }[key]
            raise ValueError(
                f"data={data.name}: comes without the {key} that this model writes under; choose one of {kinds}"
            )
        if key == "labels" and self.condition.values != data.label_values:
            raise ValueError(
                "model.condition.values: not those of the data; leave it null, and genlab train fills it in"
            )
        if hasattr(self.condition, "begin") and self.trainer.ckpt_path is None:
            self.condition.begin()

    def predict(
        self, batch: dict[str, Tensor], condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logits (M, V), tokens (M,)) of all M target tokens of a batch, under what it says or
        another `condition`.
        """
        if condition is None:
            condition = self.condition(batch, self.condition_dropout if self.training else 0.0)
        return super().predict(batch, condition)

    # --- verbs ------------------------------------------------------------------------------------

    @torch.no_grad()
    def conditions(self, given: Mapping[str, Tensor]) -> Tensor:
        """The vectors (N, C) of {"labels": (N, F)} or {"image": (N, 3, H, W)}."""
        count = len(next(iter(given.values())))
        parts = [
            self.condition(
                {
                    name: values[torch.arange(i, min(i + ROWS, count))].to(self.device)
                    for name, values in given.items()
                }
            )
            for i in range(0, count, ROWS)
        ]
        return torch.cat(parts) if parts else self.condition.free(0)

    def generate(
        self,
        examples: Sequence,
        decoding: Decoding | None = None,
        given: Mapping[str, Tensor] | None = None,
        conditions: Tensor | None = None,
        **options,
    ) -> list[Generated]:
        """What is written to the source of each example, or goes on from it, under what is `given`
        with it.

        conditions (N, C): the vectors themselves instead; without either nothing is told. A
        language model under labels samples by default, with top_p=0.95. options: seed, progress.
        """
        decoding = decoding or Decoding()
        if decoding.guidance not in (None, 1) and not self.condition_dropout:
            raise ValueError(
                f"decoding.guidance={decoding.guidance}: needs a model trained with model.condition_dropout above 0, which "
                "knows the text without a condition too"
            )
        if decoding.method is None and self.writes_freely and hasattr(self.condition, "values"):
            top_p = 0.95 if decoding.top_p is None and decoding.top_k is None else decoding.top_p
            decoding = replace(decoding, method="sample", top_p=top_p)
        if conditions is None:
            conditions = (
                self.condition.free(len(examples)).detach()
                if given is None
                else self.conditions(given)
            )
        return generate(self, examples, decoding, conditions=conditions, **options)

    @torch.no_grad()
    def score(
        self, batches: Iterator[dict[str, Tensor]], conditions: Tensor | None = None
    ) -> Tensor:
        """log p of each target, float64: (N, 1) under its own condition, or (N, K) under each of
        `conditions` (K, C).
        """
        out = []
        for batch in batches:
            batch = {name: values.to(self.device) for name, values in batch.items()}
            row = (batch["segments"][:, 1:] == 1).nonzero()[:, 0]
            under = (
                [None]
                if conditions is None
                else [c.expand(len(batch["ids"]), -1) for c in conditions.to(self.device)]
            )
            sums = []
            for c in under:
                logits, tokens = self.predict(batch, c)
                gains = -F.cross_entropy(logits, tokens, reduction="none").double()
                sums.append(gains.new_zeros(len(batch["ids"])).index_add_(0, row, gains))
            out.append(torch.stack(sums, 1).cpu())
        return torch.cat(out)

    def encode(self, *args, **kwargs) -> Tensor:
        """The condition's vectors (N, C), as `conditions`; what a text says of its label is
        `score`.
        """
        return self.conditions(*args, **kwargs)
