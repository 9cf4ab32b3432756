"""The contract: what a system can do, one Protocol a capability, asked with `isinstance`.

A system is a LightningModule with a `modality`. Whatever else it offers is one of the capabilities
below. Commands, callbacks, evaluation and exports know these Protocols and no system, so a system
of your own gains a command by having the methods; it inherits nothing from genlab.

Members are methods or plain attributes, never submodules: from Python 3.12 on, `isinstance` with a
Protocol does not see what torch keeps in `_modules`.

Shapes: N inputs; images (N, C, H, W) in [-1, 1]; points (N, D); texts as lists; codes (N, Z).
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "CAPABILITIES",
    "Adversarial",
    "Bijective",
    "BindsData",
    "Captured",
    "Classifies",
    "Decodes",
    "Derived",
    "Encodes",
    "Exports",
    "Generates",
    "HasConditions",
    "HasGenerator",
    "HasLabels",
    "HasLikelihood",
    "HasSamplers",
    "HasStandingStatistics",
    "HasStoredCodes",
    "Interpolates",
    "Invertible",
    "Pretrained",
    "Reconstructs",
    "Samples",
    "Staged",
    "System",
    "num_classes",
    "reconstructs",
]


@runtime_checkable
class System(Protocol):
    """What every system has: `batch[modality]` is what it is trained on."""

    modality: Literal["image", "point", "text"]


# --- images and points ----------------------------------------------------------------------------


@runtime_checkable
class Samples(Protocol):
    """Draws images or points from the model."""

    def prior(self, num: int, seed: int) -> Tensor:
        """Codes (num, Z), a function of `seed`; an optional temperature= scales their spread."""
        ...

    def sample(self, num: int, seed: int = 0) -> Tensor:
        """`num` images or points; takes what `prior` takes, and label= where there are labels."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Turns codes into images or points."""

    latent_dim: int

    def decode(self, codes: Tensor) -> Tensor:
        """Inputs from codes (N, Z); a second argument is labels (N,) where there are labels."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Turns inputs into codes; of text systems, texts into vectors."""

    def encode(self, inputs: Any) -> Tensor:
        """Codes (N, Z) of images, points or texts."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Encodes inputs and decodes their codes, in one call."""

    def reconstruct(self, inputs: Tensor, scale: float | None = None) -> Tensor:
        """Inputs of the same shape; scale: on the codes, the model's own if None."""
        ...


@runtime_checkable
class Invertible(Protocol):
    """Has an inverse that settings can switch off: then it reconstructs nothing."""

    invertible: bool


@runtime_checkable
class Bijective(Protocol):
    """Is one network with two directions: `net(x)` is (codes, log det), `net.inverse(codes)` is x.

    Of images, `pixels` (genlab.nn.pixels) turns them into what the network sees.
    """

    def prepare(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of inputs (N, ...), and the log det (N,) of that step."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """Draws what lies between two inputs."""

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """(N, num, ...): `num` inputs on the line between the codes of each pair."""
        ...


@runtime_checkable
class HasLabels(Protocol):
    """Can be trained with class labels; num_classes is 0 where it was trained without."""

    num_classes: int

    def labels(self, num: int, label: Any = None) -> Tensor | None:
        """Labels (num,) int64; None without classes.

        Args:
            num: How many.
            label: A class by number or name, or a list of them to take in turn; None: all classes
                in turn.
        """
        ...


@runtime_checkable
class HasGenerator(Protocol):
    """Has a differentiable map from codes to images, so that codes can be searched by descent."""

    latent_dim: int

    def generate_images(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        ...


@runtime_checkable
class Adversarial(Protocol):
    """A GAN: trained with a discriminator."""

    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's outputs (N, out_dim), before the score is formed."""
        ...

    def score(self, outputs: Tensor) -> Tensor:
        """The score (N,), high for real images."""
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """Has a log-density, exact or estimated."""

    measure: str  # what a held-out likelihood is logged as: bits_per_dim or nll

    def log_prob(self, inputs: Tensor, seed: int = 0) -> Tensor:
        """log p in nats (N,); seed: of the noise that dequantises images."""
        ...

    def scaled(self, log_prob: Tensor) -> Tensor:
        """log p in nats (N,) as `measure` (N,)."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """Predicts the class of images."""

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        ...


@runtime_checkable
class HasStoredCodes(Protocol):
    """Keeps a code for each training image; other images are encoded by a search."""

    def stored_codes(self) -> Tensor:
        """Codes (N, Z) of the training split, in its order."""
        ...


@runtime_checkable
class HasSamplers(Protocol):
    """Can draw its codes in several ways: `sampler` is one of `samplers`."""

    samplers: Sequence[str]
    sampler: str


@runtime_checkable
class HasStandingStatistics(Protocol):
    """Can take the batch statistics of its generator anew for sampling."""

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Takes them from `num_batches` batches of 256 samples."""
        ...


# --- text -----------------------------------------------------------------------------------------


@runtime_checkable
class Generates(Protocol):
    """Writes texts. `codec` has the vocabulary and the lengths that it was trained with."""

    def generate(self, examples: Sequence, decoding: Any = None, **options: Any) -> list:
        """A genlab.systems.text.writing.Generated for each example."""
        ...


@runtime_checkable
class HasConditions(Protocol):
    """Writes texts under a condition: labels or an image, encoded as a vector."""

    writes_freely: bool  # a language model, rather than one that rewrites a source

    def conditions(self, given: Any) -> Tensor:
        """Condition vectors (N, W) of {"labels": (N, fields)} or {"image": (N, C, H, W)}."""
        ...


@runtime_checkable
class Pretrained(Protocol):
    """Is trained on raw text."""

    objective: Literal["mlm", "gpt", "unilm"]

    def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (M, V) of the M tokens that the objective predicts, and these tokens (M,)."""
        ...


@runtime_checkable
class Exports(Protocol):
    """Writes itself in formats of its own."""

    formats: Sequence[str]

    def export(self, out: str, format: str) -> list[str]:
        """The names of the files written in the folder `out`."""
        ...


# --- around training ------------------------------------------------------------------------------


@runtime_checkable
class BindsData(Protocol):
    """Needs the data for more than batches, for instance for a loss over a network trained on
    them.
    """

    def bind(self, data: Any) -> None:
        """Is called once, before the first use outside of training."""
        ...


@runtime_checkable
class Derived(Protocol):
    """Keeps buffers that follow from its weights, such as norms by power iteration."""

    def refresh(self) -> None:
        """Computes them anew, after weights were averaged or loaded."""
        ...


@runtime_checkable
class Captured(Protocol):
    """Its training step can be captured as a CUDA graph."""

    def graph_key(self) -> tuple:
        """What decides which kernels the next step launches; ValueError where it is not known."""
        ...


@runtime_checkable
class Staged(Protocol):
    """Is trained in stages, one after the other."""

    stage: str  # of the next step, for the progress line


# In the order of the table in the docs
CAPABILITIES = (
    Samples,
    Decodes,
    Encodes,
    Reconstructs,
    Interpolates,
    HasLabels,
    HasGenerator,
    Adversarial,
    HasLikelihood,
    Bijective,
    Invertible,
    Classifies,
    HasStoredCodes,
    HasSamplers,
    HasStandingStatistics,
    Generates,
    HasConditions,
    Pretrained,
    Exports,
    BindsData,
    Derived,
    Captured,
    Staged,
)


def num_classes(system: Any) -> int:
    """How many classes `system` was trained with; 0 where it was trained without labels."""
    return system.num_classes if isinstance(system, HasLabels) else 0


def reconstructs(system: Any) -> bool:
    """Whether `system` reconstructs inputs, with the settings that it was trained with."""
    return isinstance(system, Reconstructs) and (
        not isinstance(system, Invertible) or system.invertible
    )
