"""Sequence to sequence with one BERT: it reads in both directions, and writes from left to right."""

import sys
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchmetrics import MeanMetric

from genlab.losses.language import select
from genlab.models.seq2seq.generation import Decoding
from genlab.nn.masks import CAUSAL, bidirectional, unilm
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PartialFraction, PositiveInt
from genlab.systems.text.writing import Generated, generate, vectors
from genlab.training.graph import refuse_checkpointing
from genlab.training.schedules import check_decay, configure_schedule, warmup_decay
from genlab.weights.bert import fill
from genlab.weights.huggingface import save

__all__ = ["Seq2Seq"]


class Seq2Seq(LightningModule):
    """UNILM: a BERT `net` whose mask lets a source see itself, and a target the source and its own
    past.

    The loss is the cross-entropy of each target token and the final [SEP], a mean over the target
    tokens of the batch, after "Unified Language Model Pre-training", Dong et al. 2019, arXiv
    1905.03197, trained by next tokens as in Su 2019, https://kexue.fm/archives/6933. codec: texts
    to rows, with the vocabulary. optimizer: called with two parameter groups, of which biases and
    norms have no weight decay. lr rises over num_warmup_steps, then falls to a hundredth at
    num_decay_steps (null: it stays). adversarial: FGM's epsilon, the length of the step that the word embeddings
    are moved against the loss (Miyato et al. 2016, arXiv 1605.07725); 0: none. target_segment: 1,
    or 5 with source_segment 4 for UniLM's own weights.
    init: pretrained weights to start from (genlab.weights.source.find); null: random ones.
    """

    modality = "text"
    formats = ("huggingface",)
    static = False  # training steps of fixed shapes (systems.graph)

    def __init__(
        self,
        net: nn.Module,
        codec: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: NonNegativeFloat = 1e-5,
        weight_decay: NonNegativeFloat = 0.01,
        num_warmup_steps: NonNegativeInt = 0,
        num_decay_steps: PositiveInt | None = None,
        label_smoothing: PartialFraction = 0.0,
        adversarial: NonNegativeFloat = 0.0,
        source_segment: NonNegativeInt = 0,
        target_segment: NonNegativeInt = 1,
        init: str | None = None,
    ):
        super().__init__()
        check_decay(num_warmup_steps, num_decay_steps)
        if adversarial < 0 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"model.adversarial={adversarial}, model.label_smoothing={label_smoothing}: expected 0 or more"
            )
        if codec.max_length > net.max_length:
            raise ValueError(
                f"data.max_source + data.max_question + data.max_target = {codec.max_length}: expected at most "
                f"net.max_length={net.max_length}"
            )
        self.net, self.codec, self.optimizer = net, codec, optimizer
        self.lr, self.weight_decay = lr, weight_decay
        self.num_warmup_steps, self.num_decay_steps = num_warmup_steps, num_decay_steps
        self.label_smoothing, self.adversarial = label_smoothing, adversarial
        self.source_segment, self.target_segment, self.init = source_segment, target_segment, init
        self.nll, self.right = MeanMetric(), MeanMetric()

    # --- the objective ----------------------------------------------------------------------------

    def predict(
        self, batch: dict[str, Tensor], condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logits (M, V), tokens (M,)) of all M target tokens of a batch, the head applied to them
        alone.

        condition: (B, C), a vector that each row is written under. In static training M is as many
        as there may be, the rest of tokens being IGNORED (losses.language).
        """
        ids, target = batch["ids"], batch["segments"]
        mask = CAUSAL  # of a language model, whose source is the [CLS]
        if self.codec.max_source:
            mask = unilm(
                target, torch.arange(ids.shape[1], device=ids.device) < batch["lengths"][:, None]
            )
        segments = torch.where(target == 1, self.target_segment, self.source_segment)
        hidden = self.net(ids, segments, mask, condition=condition).flatten(0, 1)
        predicted = F.pad(target[:, 1:] == 1, (0, 1))
        capacity = (
            min(len(ids) * self.codec.max_target, ids.numel())
            if self.static and self.training
            else None
        )
        places, tokens = select(predicted, ids.roll(-1, 1), capacity)
        if condition is not None:
            condition = condition.index_select(0, places // ids.shape[1])
        return self.net.logits(hidden.index_select(0, places), condition).float(), tokens

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        return F.cross_entropy(*self.predict(batch), label_smoothing=self.label_smoothing)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self(batch)
        logs = {"train/loss": loss.detach()}
        if self.adversarial:
            word = self.net.word.weight
            (gradient,) = torch.autograd.grad(loss, word, retain_graph=True)
            moved = word + self.adversarial * gradient / gradient.norm().clamp(min=1e-12)
            attacked = functional_call(self, {"net.word.weight": moved}, (batch,))
            logs["train/adversarial_loss"] = attacked.detach()
            loss = loss + attacked
        self.log_dict(logs, batch_size=len(batch["ids"]))
        return loss

    def graph_key(self) -> tuple:
        """What decides which kernels a step launches (trainer.graph=true); ValueError for what
        cannot be captured.
        """
        refuse_checkpointing(self.net)
        longest = self.trainer.datamodule.codec.max_target
        if longest > self.codec.max_target:
            raise ValueError(
                f"trainer.graph=true: model.codec.max_target={self.codec.max_target}: the data's is {longest}"
            )
        return ()

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        weights, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = self.optimizer(groups, lr=self.lr)
        return configure_schedule(optimizer, self.rate)

    def rate(self, step: int) -> float:
        """The factor of lr in step 0, 1, ..."""
        return warmup_decay(
            step, self.num_warmup_steps, self.num_decay_steps, "linear", floor=0.01, after=1
        )

    def setup(self, stage: str) -> None:
        """Takes over the vocabulary of the data, and for a new run the pretrained weights.

        A resumed run has the same vocabulary: the data's fingerprint includes it.
        """
        if stage == "fit":
            tokenizer = self.trainer.datamodule.codec.tokenizer
            if len(tokenizer) != self.net.vocab_size:
                raise ValueError(
                    f"net.vocab_size={self.net.vocab_size}: the vocabulary of the data has {len(tokenizer)} tokens"
                )
            self.codec.use(tokenizer)
            if self.init is not None and self.trainer.ckpt_path is None:
                report = fill(self.net, self.init, tokenizer.keep_tokens, tokenizer.vocab)
                if self.trainer.is_global_zero:
                    print(report, file=sys.stderr)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, tokens = self.predict(batch)
        self.nll.update(F.cross_entropy(logits, tokens, reduction="none"))
        self.right.update((logits.argmax(1) == tokens).float())

    def on_validation_epoch_end(self) -> None:
        self.log("val/perplexity", self.nll.compute().exp())
        self.log("val/token_accuracy", self.right.compute())
        self.nll.reset()
        self.right.reset()

    # --- verbs ------------------------------------------------------------------------------------

    def generate(
        self, examples: Sequence, decoding: Decoding | None = None, **options
    ) -> list[Generated]:
        """What is written to each example, which has `sources` (texts) and, to be answered out of
        them, a `question`.

        options: seed, progress; see systems.writing.
        """
        return generate(self, examples, decoding or Decoding(), **options)

    def encode(self, texts: Sequence[str], pooling: str = "mean") -> Tensor:
        """Vectors (N, D) float32 of texts, cut to data.max_source tokens: the mean over its tokens,
        or [CLS]'s.
        """
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling={pooling}: expected mean or cls")
        return vectors(self, texts, pooling, bidirectional)

    def export(self, out: str, format: str = "huggingface") -> list[str]:
        """Writes weights and vocabulary in one of `formats` into the directory `out`; the names of
        its files.
        """
        return save(self.net, self.codec.tokenizer, out)
