"""Sequence to sequence with one BERT, which reads bidirectionally and writes left to right.

Shapes: B rows of L tokens; M target tokens; V vocabulary; C condition_dim; N texts; D hidden_dim.
"""

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
from genlab.systems.text.initialisation import initialise
from genlab.systems.text.writing import Generated, embed_texts, generate
from genlab.training.graph import refuse_checkpointing
from genlab.training.schedules import check_decay, configure_schedule, warmup_decay
from genlab.weights.huggingface import save

__all__ = ["Seq2Seq"]


class Seq2Seq(LightningModule):
    """UniLM: a BERT whose mask lets the source see itself, and the target the source and its past.

    The loss is the cross-entropy of each target token and the final [SEP], a mean over the target
    tokens of the batch. "Unified Language Model Pre-training", Dong et al. 2019, arXiv 1905.03197,
    trained by next tokens as in Su 2019, https://kexue.fm/archives/6933.

    Args:
        net: A BERT.
        codec: Turns texts into rows; holds the vocabulary.
        optimizer: Is called with two parameter groups; biases and norms have no weight decay.
        lr: The highest learning rate.
        weight_decay: Of weights other than biases and norms.
        num_warmup_steps: lr rises over so many steps.
        num_decay_steps: lr falls from there to a hundredth at this step; None: it stays.
        label_smoothing: Of the cross-entropy.
        adversarial: FGM's epsilon: the length of a step of the word embeddings along the gradient,
            behind which the loss is taken once more (Miyato et al. 2016, arXiv 1605.07725); 0: no
            such loss.
        source_segment: The segment of the source; 4 for UniLM's own weights.
        target_segment: The segment of the target; 5 for UniLM's own weights.
        init: Pretrained weights to start from (genlab.weights.source.find); None: random weights.
    """

    modality = "text"
    formats = ("huggingface",)
    static = False  # whether training steps have fixed shapes; genlab.training.graph sets it

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
        if adversarial < 0:
            raise ValueError(f"model.adversarial={adversarial}: expected 0 or more")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"model.label_smoothing={label_smoothing}: expected 0 or more and below 1"
            )
        if codec.max_length > net.max_length:
            raise ValueError(
                f"net.max_length={net.max_length}: expected at least data.max_source + "
                f"data.max_question + data.max_target = {codec.max_length}"
            )
        self.net = net
        self.codec = codec
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.num_warmup_steps = num_warmup_steps
        self.num_decay_steps = num_decay_steps
        self.label_smoothing = label_smoothing
        self.adversarial = adversarial
        self.source_segment = source_segment
        self.target_segment = target_segment
        self.init = init
        self.nll = MeanMetric()
        self.accuracy = MeanMetric()

    # --- the objective ----------------------------------------------------------------------------

    def predict(
        self, batch: dict[str, Tensor], condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (M, V) and tokens (M,) of all target tokens of a batch.

        In static training M is the most that there may be, and the rest of the tokens is IGNORED
        (genlab.losses.language).

        Args:
            batch: ids and segments (B, L), lengths (B,).
            condition: (B, C) the condition of each row.
        """
        ids, target = batch["ids"], batch["segments"] == 1
        mask = CAUSAL  # of a language model, whose source is the [CLS]
        if self.codec.max_source:
            inside = torch.arange(ids.shape[1], device=ids.device) < batch["lengths"][:, None]
            mask = unilm(batch["segments"], inside)
        segments = torch.where(target, self.target_segment, self.source_segment)
        hidden = self.net(ids, segments, mask, condition=condition).flatten(0, 1)
        predicted = F.pad(target[:, 1:], (0, 1))
        capacity = None
        if self.static and self.training:
            capacity = min(len(ids) * self.codec.max_target, ids.numel())
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
        """See genlab.systems.base.Captured."""
        refuse_checkpointing(self.net)
        longest = self.trainer.datamodule.codec.max_target
        if longest > self.codec.max_target:
            raise ValueError(
                f"trainer.graph=true: model.codec.max_target={self.codec.max_target}: expected at "
                f"least the data's, {longest}"
            )
        return ()

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        weights = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]
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
        if stage == "fit":
            initialise(self, self.trainer.datamodule.codec.tokenizer)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, tokens = self.predict(batch)
        self.nll.update(F.cross_entropy(logits, tokens, reduction="none"))
        self.accuracy.update((logits.argmax(1) == tokens).float())

    def on_validation_epoch_end(self) -> None:
        self.log("val/perplexity", self.nll.compute().exp())
        self.log("val/token_accuracy", self.accuracy.compute())
        self.nll.reset()
        self.accuracy.reset()

    # --- verbs ------------------------------------------------------------------------------------

    def generate(
        self, examples: Sequence, decoding: Decoding | None = None, **options
    ) -> list[Generated]:
        """A target for each example, or an answer.

        Args:
            examples: Each has `sources`, texts, and a `question` that is answered out of them, or
                None and one source.
            decoding: The options.
            options: seed and progress, see genlab.systems.text.writing.generate.
        """
        return generate(self, examples, decoding or Decoding(), **options)

    def encode(self, texts: Sequence[str], pooling: str = "mean") -> Tensor:
        """Vectors (N, D) float32 of texts, each cut to data.max_source tokens.

        pooling: mean, over the tokens; or cls, the vector of [CLS].
        """
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling={pooling}: expected mean or cls")
        return embed_texts(self, texts, pooling, bidirectional)

    def export(self, out: str, format: str = "huggingface") -> list[str]:
        """Writes weights and vocabulary in one of `formats` into the directory `out`.

        Returns:
            The names of the files.
        """
        return save(self.net, self.codec.tokenizer, out)
