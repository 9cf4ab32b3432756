"""Pretraining a BERT on raw text: masked words (MLM), next tokens (GPT), or UniLM.

Shapes: B rows of L tokens; M predicted tokens; V vocabulary; N texts; D hidden_dim.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from genlab.losses.language import (
    IGNORED,
    Task,
    bound_masked,
    mask_words,
    predict_next,
    select,
    split_documents,
)
from genlab.models.seq2seq.bert import Layer
from genlab.models.seq2seq.generation import Decoding
from genlab.nn.masks import CAUSAL, FULL, bidirectional, causal, positions_of, unilm
from genlab.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from genlab.systems.text.filling import continue_texts, fill_masks
from genlab.systems.text.initialisation import initialise
from genlab.systems.text.writing import Generated, embed_texts, generate
from genlab.training.graph import refuse_checkpointing
from genlab.training.lamb import LAMB
from genlab.training.schedules import check_decay, configure_schedule, warmup_decay
from genlab.weights.huggingface import save

__all__ = ["Pretraining", "sharded_layers"]


@runtime_checkable
class PacksRows(Protocol):
    """Data whose rows may hold several documents."""

    pack: Literal["cross_document", "isolated"]


class Pretraining(LightningModule):
    """A BERT that learns from packed rows of raw text.

    The loss is the mean cross-entropy of the predicted tokens (genlab.losses.language).

    Args:
        net: A BERT.
        codec: Holds the vocabulary, and the lengths that sample and encode read and write.
        optimizer: Is called with two parameter groups; biases and norms have no weight decay and,
            with LAMB, no trust ratio.
        objective: mlm: random words are masked. gpt: each next token. unilm: each text is split at
            random, its beginning read bidirectionally and the rest predicted.
        mask_rate: The fraction of the words that mlm masks, in (0, 1).
        lr: The highest learning rate.
        weight_decay: Of weights other than biases and norms.
        num_warmup_steps: lr rises over so many units.
        num_decay_steps: lr falls from there to 0 at this many units; None: it stays.
        unit: Of these two: steps of the optimiser, or tokens that are read.
        init: Weights to start from, of a run or pretrained (genlab.weights.source.find); None:
            random weights.
    """

    modality = "text"
    formats = ("huggingface",)
    source_segment = 0
    static = False  # whether training steps have fixed shapes; genlab.training.graph sets it

    def __init__(
        self,
        net: nn.Module,
        codec: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        objective: Literal["mlm", "gpt", "unilm"] = "mlm",
        mask_rate: OpenFraction = 0.15,
        lr: NonNegativeFloat = 1e-3,
        weight_decay: NonNegativeFloat = 0.01,
        num_warmup_steps: NonNegativeInt = 0,
        num_decay_steps: PositiveInt | None = None,
        unit: Literal["steps", "tokens"] = "steps",
        init: str | None = None,
    ):
        super().__init__()
        if objective not in ("mlm", "gpt", "unilm"):
            raise ValueError(f"model.objective={objective}: expected mlm, gpt or unilm")
        if unit not in ("steps", "tokens"):
            raise ValueError(f"model.unit={unit}: expected steps or tokens")
        if not 0 < mask_rate < 1:
            raise ValueError(
                f"model.mask_rate={mask_rate}: expected a fraction of words, above 0 and below 1"
            )
        check_decay(num_warmup_steps, num_decay_steps)
        longest = codec.max_source + (codec.max_target if objective != "mlm" else 0)
        if longest > net.max_length:
            raise ValueError(
                f"net.max_length={net.max_length}: expected at least the {longest} tokens of "
                "model.codec.max_source and, unless model.objective=mlm, model.codec.max_target"
            )
        self.net = net
        self.codec = codec
        self.optimizer = optimizer
        self.objective = objective
        self.mask_rate = mask_rate
        self.lr = lr
        self.weight_decay = weight_decay
        self.init = init
        self.num_warmup_steps = num_warmup_steps
        self.num_decay_steps = num_decay_steps
        self.unit = unit
        self.target_segment = 1 if objective == "unilm" else 0
        self.nll = MeanMetric()
        self.accuracy = MeanMetric()

    # --- the objective ----------------------------------------------------------------------------

    def make_task(self, batch: dict[str, Tensor]) -> tuple[Task, Tensor | str, Tensor | None]:
        """The task of a batch, its attention mask, and its positions (B, L); None: 0 to L-1."""
        ids = batch["ids"]
        documents = batch.get("documents")
        lengths = batch.get("lengths")
        tokenizer = self.codec.tokenizer
        inside = torch.ones_like(ids, dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        if self.objective == "mlm":
            maskable = inside & (ids != tokenizer.cls_id) & (ids != tokenizer.sep_id)
            task = mask_words(
                ids,
                batch["starts"],
                maskable,
                batch["keys"],
                self.mask_rate,
                tokenizer.mask_id,
                self.net.vocab_size,
            )
            is_full = documents is None and lengths is None
            mask = FULL if is_full else bidirectional(inside, documents)
        elif self.objective == "gpt":
            task = predict_next(ids, inside, documents, tokenizer.cls_id)
            mask = CAUSAL if documents is None else causal(inside, documents)
        else:
            task, inside, documents = split_documents(
                ids, inside, documents, batch["keys"], tokenizer.sep_id, tokenizer.pad_id
            )
            mask = unilm(task.segments, inside, documents)
        return task, mask, None if documents is None else positions_of(documents)

    def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (M, V) and labels (M,) of the predicted tokens of a batch.

        In static training M is the most that there may be, and the labels of the rest are IGNORED.
        """
        task, mask, positions = self.make_task(batch)
        capacity, count = None, task.ids.numel()
        if self.static and self.training:
            capacity = bound_masked(count, self.mask_rate) if self.objective == "mlm" else count
        places, labels = select(task.predicted, task.labels, capacity)
        hidden = self.net(task.ids, task.segments, mask, positions).flatten(0, 1)
        return self.net.logits(hidden.index_select(0, places)).float(), labels

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        return F.cross_entropy(*self.predict(batch))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss, a mean over the predicted tokens of all processes, whose numbers differ."""
        logits, labels = self.predict(batch)
        count = (labels != IGNORED).sum().float()
        if self.trainer.world_size > 1:
            count = self.trainer.strategy.reduce(count, reduce_op="mean")
        loss = F.cross_entropy(logits, labels, reduction="sum") / count.clamp(min=1)
        self.log("train/loss", loss.detach(), batch_size=len(batch["ids"]))
        return loss

    def graph_key(self) -> tuple:
        """See genlab.systems.base.Captured."""
        refuse_checkpointing(self.net)
        data = self.trainer.datamodule
        isolated = isinstance(data, PacksRows) and data.pack == "isolated"
        if self.objective == "unilm" and isolated:
            raise ValueError(
                "trainer.graph=true: with model.objective=unilm and data.pack=isolated the width "
                "of a row depends on its documents; set data.pack=cross_document"
            )
        return ()

    def configure_optimizers(self):
        plain = {
            id(p)
            for name, p in self.net.named_parameters()
            if name.endswith("bias") or "norm." in name
        }
        weights = [p for p in self.net.parameters() if id(p) not in plain]
        others = [p for p in self.net.parameters() if id(p) in plain]
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = self.optimizer(groups, lr=self.lr)
        if isinstance(optimizer, LAMB):
            optimizer.param_groups[1]["adapt"] = False
            if "FSDP" in type(self.trainer.strategy).__name__:
                raise ValueError(
                    "optimizer=lamb: needs the norms of whole tensors, which trainer=fsdp shards; "
                    "use optimizer=adamw"
                )
        return configure_schedule(optimizer, self.rate)

    def rate(self, step: int) -> float:
        """The factor of lr in step 0, 1, ..."""
        stride = self._per_step()
        return warmup_decay(
            step * stride,
            self.num_warmup_steps,
            self.num_decay_steps,
            "linear",
            stride=stride,
            after=stride,
        )

    def _per_step(self) -> int:
        """What a step of the optimiser counts in `unit`."""
        if self.unit == "steps":
            return 1
        trainer, data = self.trainer, self.trainer.datamodule
        return (
            data.batch_size * data.max_length * trainer.world_size * trainer.accumulate_grad_batches
        )

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        data = self.trainer.datamodule
        if self.objective == "mlm" and data.tokenizer.mask_id is None:
            raise ValueError(
                "data.vocab: expected a vocabulary with [MASK] for model.objective=mlm"
            )
        most = self.net.max_length - (self.objective == "unilm")
        if data.max_length > most:
            raise ValueError(
                f"data.max_length={data.max_length}: expected at most {most}: net.max_length and, "
                "with model.objective=unilm, one less, for the [SEP] of the split"
            )
        initialise(self, data.tokenizer)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, labels = self.predict(batch)
        if len(labels):
            self.nll.update(F.cross_entropy(logits, labels, reduction="none"))
            self.accuracy.update((logits.argmax(1) == labels).float())

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/loss": self.nll.compute(), "val/accuracy": self.accuracy.compute()})
        self.nll.reset()
        self.accuracy.reset()

    # --- verbs ------------------------------------------------------------------------------------

    def generate(
        self, examples: Sequence, decoding: Decoding | None = None, **options
    ) -> list[Generated]:
        """Texts for each example, whose `sources` are one text.

        Objective mlm: the text with its [MASK]s filled. gpt: what follows it. unilm: a target for
        it. options: seed and progress, see genlab.systems.text.writing.generate.
        """
        write = {"mlm": fill_masks, "gpt": continue_texts, "unilm": generate}[self.objective]
        return write(self, examples, decoding or Decoding(), **options)

    def encode(self, texts: Sequence[str], pooling: str = "mean") -> Tensor:
        """Vectors (N, D) float32 of texts, each cut to the codec's max_source tokens.

        pooling: mean, over the tokens; or cls, the vector of [CLS], unless the objective is gpt.
        """
        if pooling not in ("mean", "cls") or (self.objective == "gpt" and pooling == "cls"):
            raise ValueError(
                f"pooling={pooling}: expected mean or, unless model.objective=gpt, cls"
            )
        make_mask = causal if self.objective == "gpt" else bidirectional
        return embed_texts(self, texts, pooling, make_mask)

    def export(self, out: str, format: str = "huggingface") -> list[str]:
        """Writes weights and vocabulary in one of `formats` into the directory `out`.

        Returns:
            The names of the files.
        """
        return save(self.net, self.codec.tokenizer, out, decoder=self.objective == "gpt")


def sharded_layers() -> set[type[nn.Module]]:
    """The modules that fully sharded training (trainer=fsdp) gathers one at a time."""
    return {Layer}
