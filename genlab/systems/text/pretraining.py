"""Pretraining a BERT on raw text: masked tokens (MLM), next tokens (GPT), or the rest of a text
(UNILM).
"""

import sys
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from genlab.losses.language import (
    IGNORED,
    Question,
    continued,
    masked,
    most_masked,
    next_tokens,
    select,
)
from genlab.models.seq2seq.bert import Layer
from genlab.models.seq2seq.generation import Decoding
from genlab.nn.masks import CAUSAL, FULL, bidirectional, causal, positions_of, unilm
from genlab.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from genlab.systems.text.filling import fill_masks, go_on
from genlab.systems.text.writing import Generated, generate, vectors
from genlab.training.graph import refuse_checkpointing
from genlab.training.lamb import LAMB
from genlab.training.schedules import check_decay, configure_schedule, warmup_decay
from genlab.weights.bert import fill
from genlab.weights.huggingface import save

__all__ = ["Pretraining", "sharded_layers"]


class Pretraining(LightningModule):
    """A BERT `net` that learns from packed rows of text; the loss is the mean cross-entropy of what
    is asked.

    objective: mlm (words of mask_rate of the text are hidden), gpt (each next token), unilm (the
    rest of each text after a random split, its beginning read in both directions):
    genlab.losses.language. optimizer: called with two groups, of which biases and norms have no
    weight decay and, with LAMB, no trust ratio. lr rises over `num_warmup_steps`, then falls to 0
    at `num_decay_steps` (null: it stays), counted in `unit`: steps of the optimiser, or tokens read. codec: the
    vocabulary, and the lengths that sample and encode read and write. init: weights to start from,
    of a run or pretrained; null: random ones.
    """

    modality = "text"
    formats = ("huggingface",)
    source_segment = 0
    static = False  # training steps of fixed shapes (systems.graph)

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
                f"model.mask_rate={mask_rate}: expected a part of the words, between 0 and 1"
            )
        check_decay(num_warmup_steps, num_decay_steps)
        if codec.max_source + (codec.max_target if objective != "mlm" else 0) > net.max_length:
            raise ValueError(
                f"model.codec: max_source and max_target do not fit into net.max_length={net.max_length}"
            )
        self.net, self.codec, self.optimizer, self.objective, self.mask_rate = (
            net,
            codec,
            optimizer,
            objective,
            mask_rate,
        )
        self.lr, self.weight_decay, self.init = lr, weight_decay, init
        self.num_warmup_steps, self.num_decay_steps = num_warmup_steps, num_decay_steps
        self.unit = unit
        self.target_segment = 1 if objective == "unilm" else 0
        self.nll, self.right = MeanMetric(), MeanMetric()

    # --- the objective ----------------------------------------------------------------------------

    def ask(self, batch: dict[str, Tensor]) -> tuple[Question, Tensor | str, Tensor | None]:
        """(what is asked about a batch, its attention mask, its positions; None: straight through)."""
        ids, documents, lengths, t = (
            batch["ids"],
            batch.get("documents"),
            batch.get("lengths"),
            self.codec.tokenizer,
        )
        inside = torch.ones_like(ids, dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        if self.objective == "mlm":
            hideable = inside & (ids != t.cls_id) & (ids != t.sep_id)
            question = masked(
                ids,
                batch["starts"],
                hideable,
                batch["keys"],
                self.mask_rate,
                t.mask_id,
                self.net.vocab_size,
            )
            mask = (
                FULL if documents is None and lengths is None else bidirectional(inside, documents)
            )
        elif self.objective == "gpt":
            question = next_tokens(ids, inside, documents, t.cls_id)
            mask = CAUSAL if documents is None else causal(inside, documents)
        else:
            question, inside, documents = continued(
                ids, inside, documents, batch["keys"], t.sep_id, t.pad_id
            )
            mask = unilm(question.segments, inside, documents)
        return question, mask, None if documents is None else positions_of(documents)

    def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(logits (M, V), tokens (M,)) of all that is asked about a batch, the head applied to that
        alone.

        In static training M is as many as there may be, the rest of tokens being IGNORED.
        """
        question, mask, positions = self.ask(batch)
        capacity, count = None, question.ids.numel()
        if self.static and self.training:
            capacity = most_masked(count, self.mask_rate) if self.objective == "mlm" else count
        places, tokens = select(question.chosen, question.right, capacity)
        hidden = self.net(question.ids, question.segments, mask, positions).flatten(0, 1)
        return self.net.logits(hidden.index_select(0, places)).float(), tokens

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        return F.cross_entropy(*self.predict(batch))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss as a mean over all that is asked in all processes, whose numbers of questions
        differ.
        """
        logits, tokens = self.predict(batch)
        count = (tokens != IGNORED).sum().float()
        if self.trainer.world_size > 1:
            count = self.trainer.strategy.reduce(count, reduce_op="mean")
        loss = F.cross_entropy(logits, tokens, reduction="sum") / count.clamp(min=1)
        self.log("train/loss", loss.detach(), batch_size=len(batch["ids"]))
        return loss

    def graph_key(self) -> tuple:
        """What decides which kernels a step launches (trainer.graph=true); ValueError for what
        cannot be captured.
        """
        refuse_checkpointing(self.net)
        if (
            self.objective == "unilm"
            and getattr(self.trainer.datamodule, "pack", None) == "isolated"
        ):
            raise ValueError(
                "trainer.graph=true: model.objective=unilm with data.pack=isolated makes rows as wide as their documents "
                "demand; set data.pack=cross_document"
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
                    "optimizer=lamb: its norms are of whole tensors, which trainer=fsdp cuts; use optimizer=adamw"
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
        """How far a step of the optimiser is in `unit`."""
        if self.unit == "steps":
            return 1
        trainer, data = self.trainer, self.trainer.datamodule
        return (
            data.batch_size * data.max_length * trainer.world_size * trainer.accumulate_grad_batches
        )

    def setup(self, stage: str) -> None:
        """Takes over the vocabulary of the data, and for a new run the weights of `init`."""
        if stage != "fit":
            return
        data = self.trainer.datamodule
        tokenizer, length = data.tokenizer, data.max_length
        if len(tokenizer) != self.net.vocab_size:
            raise ValueError(
                f"net.vocab_size={self.net.vocab_size}: the vocabulary of the data has {len(tokenizer)} tokens"
            )
        if self.objective == "mlm" and tokenizer.mask_id is None:
            raise ValueError("data.vocab: it has no [MASK], which model.objective=mlm needs")
        if length + (self.objective == "unilm") > self.net.max_length:
            raise ValueError(
                f"data.max_length={length}: expected at most net.max_length={self.net.max_length}, and one less with "
                "model.objective=unilm, for the [SEP] of the split"
            )
        self.codec.use(tokenizer)
        if self.init is not None and self.trainer.ckpt_path is None:
            report = fill(self.net, self.init, tokenizer.keep_tokens, tokenizer.vocab)
            if self.trainer.is_global_zero:
                print(report, file=sys.stderr)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, tokens = self.predict(batch)
        if len(tokens):
            self.nll.update(F.cross_entropy(logits, tokens, reduction="none"))
            self.right.update((logits.argmax(1) == tokens).float())

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/loss": self.nll.compute(), "val/accuracy": self.right.compute()})
        self.nll.reset()
        self.right.reset()

    # --- verbs ------------------------------------------------------------------------------------

    def generate(
        self, examples: Sequence, decoding: Decoding | None = None, **options
    ) -> list[Generated]:
        """mlm: each example's source with its [MASK]s filled; gpt: what follows it; unilm: what is
        written to it.
        """
        write = {"mlm": fill_masks, "gpt": go_on, "unilm": generate}[self.objective]
        return write(self, examples, decoding or Decoding(), **options)

    def encode(self, texts: Sequence[str], pooling: str = "mean") -> Tensor:
        """Vectors (N, D) float32 of texts, cut to the codec's max_source: the mean over the tokens,
        or [CLS]'s.
        """
        if pooling not in ("mean", "cls") or (self.objective == "gpt" and pooling == "cls"):
            raise ValueError(
                f"pooling={pooling}: expected mean, or, of a model that reads in both directions, cls"
            )
        return vectors(self, texts, pooling, causal if self.objective == "gpt" else bidirectional)

    def export(self, out: str, format: str = "huggingface") -> list[str]:
        """Writes weights and vocabulary in one of `formats` into the directory `out`; the names of
        its files.
        """
        return save(self.net, self.codec.tokenizer, out, decoder=self.objective == "gpt")


def sharded_layers() -> set[type[nn.Module]]:
    """The modules that fully sharded training (trainer=fsdp) gathers one at a time."""
    return {Layer}
