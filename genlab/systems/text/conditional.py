"""Conditional text models: labels or an image steer a language model or a sequence-to-sequence one.

Shapes: N texts; C = condition_dim; M tokens that are predicted; V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.models.seq2seq.generation import Decoding
from genlab.nn.conditions import LabelEncoder, LoadsWeights
from genlab.ranges import PartialFraction
from genlab.systems.text.seq2seq import Seq2Seq
from genlab.systems.text.writing import BATCH_ROWS, Generated, generate

__all__ = ["Conditional"]

DATA_SETS = {  # of data/, by what their texts come with
    "labels": "fact_sentences, poems, labelled_text",
    "image": "labelled_images, coco_captions",
}


@runtime_checkable
class GivesConditions(Protocol):
    """Data whose texts come with labels or images."""

    def given(self, split: str) -> Mapping[str, Tensor]:
        """{"labels": (N, fields)} or {"image": (N, channels, height, width)} of a split."""
        ...


class Conditional(Seq2Seq):
    """A Seq2Seq whose network is steered by the vector that `condition` makes of labels or images.

    "Conditional text generation by conditional layer normalisation", Su 2019,
    https://kexue.fm/archives/7124. With data.max_source=0 it is a language model: rows are [CLS]
    text [SEP], and every token is predicted.

    Args:
        net: A BERT with net.condition_dim.
        codec: See Seq2Seq.
        optimizer: See Seq2Seq.
        condition: The condition encoder (genlab.nn.conditions, genlab.systems.text.encoders).
        condition_dropout: The fraction of the training rows whose condition is dropped; of several
            labels each is also dropped by itself as often, so that a user may give some of them.
            On these rows the network learns the unconditional text, which decoding.guidance
            extrapolates away from.
        options: The other arguments of Seq2Seq.
    """

    formats = ()  # transformers' BERT has no conditions

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
                f"net.condition_dim={net.condition_dim}: expected "
                f"model.condition.condition_dim={condition.condition_dim}"
            )
        if not 0 <= condition_dropout < 1:
            raise ValueError(
                f"model.condition_dropout={condition_dropout}: expected a fraction of the rows, "
                "0 or more and below 1"
            )
        self.condition = condition
        self.condition_dropout = condition_dropout

    @property
    def writes_freely(self) -> bool:
        """Whether it is a language model, which needs no source."""
        return not self.codec.max_source

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        data = self.trainer.datamodule
        kind = "labels" if isinstance(self.condition, LabelEncoder) else "image"
        if not isinstance(data, GivesConditions) or kind not in data.given("val"):
            raise ValueError(
                f"data={data.name}: its texts come without the {kind} that this model is "
                f"conditional on; choose one of {DATA_SETS[kind]}"
            )
        if kind == "labels" and self.condition.values != data.label_values:
            raise ValueError(
                "model.condition.values: expected the labels of the data; leave it null, and "
                "genlab train fills it in"
            )
        if isinstance(self.condition, LoadsWeights) and self.trainer.ckpt_path is None:
            self.condition.load_weights()

    def predict(
        self, batch: dict[str, Tensor], condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (M, V) and tokens (M,) of all target tokens of a batch.

        condition: (B, C), instead of the condition of each row.
        """
        if condition is None:
            condition = self.condition(batch, self.condition_dropout if self.training else 0.0)
        return super().predict(batch, condition)

    # --- verbs ------------------------------------------------------------------------------------

    @torch.no_grad()
    def conditions(self, given: Mapping[str, Tensor]) -> Tensor:
        """Condition vectors (N, C) of {"labels": (N, fields)} or {"image": (N, 3, H, W)}."""
        count = len(next(iter(given.values())))
        parts = []
        for rows in torch.arange(count).split(BATCH_ROWS) if count else ():
            batch = {name: values[rows].to(self.device) for name, values in given.items()}
            parts.append(self.condition(batch))
        return torch.cat(parts) if parts else self.condition.free(0)

    def generate(
        self,
        examples: Sequence,
        decoding: Decoding | None = None,
        given: Mapping[str, Tensor] | None = None,
        conditions: Tensor | None = None,
        **options,
    ) -> list[Generated]:
        """Texts for the source of each example, or that continue it if this is a language model.

        Args:
            examples: Each has `sources`, of one text.
            decoding: The options. A language model on labels samples by default, with top_p=0.95.
            given: What `conditions` takes.
            conditions: (N, C) the condition vectors, instead of `given`; without either the texts
                are unconditional.
            options: seed and progress, see genlab.systems.text.writing.generate.
        """
        decoding = decoding or Decoding()
        if decoding.guidance not in (None, 1) and not self.condition_dropout:
            raise ValueError(
                f"decoding.guidance={decoding.guidance}: expected a model that was trained with "
                "model.condition_dropout above 0, and so knows unconditional texts"
            )
        on_labels = isinstance(self.condition, LabelEncoder)
        if decoding.method is None and self.writes_freely and on_labels:
            top_p = 0.95 if decoding.top_p is None and decoding.top_k is None else decoding.top_p
            decoding = replace(decoding, method="sample", top_p=top_p)
        if conditions is None and given is None:
            conditions = self.condition.free(len(examples)).detach()
        elif conditions is None:
            conditions = self.conditions(given)
        return generate(self, examples, decoding, conditions=conditions, **options)

    @torch.no_grad()
    def score(
        self, batches: Iterator[dict[str, Tensor]], conditions: Tensor | None = None
    ) -> Tensor:
        """log p of each target in nats, float64.

        Args:
            batches: Of the data, N rows in all.
            conditions: (K, C) condition vectors; None: each text's own condition.

        Returns:
            (N, K), or (N, 1) for the own conditions.
        """
        out = []
        for batch in batches:
            batch = {name: values.to(self.device) for name, values in batch.items()}
            size = len(batch["ids"])
            row = (batch["segments"][:, 1:] == 1).nonzero()[:, 0]  # of each predicted token
            vectors = [None]
            if conditions is not None:
                vectors = [c.expand(size, -1) for c in conditions.to(self.device)]
            sums = []
            for c in vectors:
                logits, tokens = self.predict(batch, c)
                gains = -F.cross_entropy(logits, tokens, reduction="none").double()
                sums.append(gains.new_zeros(size).index_add_(0, row, gains))
            out.append(torch.stack(sums, 1).cpu())
        return torch.cat(out)

    def encode(self, *args, **kwargs) -> Tensor:
        """The condition vectors (N, C), as `conditions`; `score` says how a text fits its label."""
        return self.conditions(*args, **kwargs)
