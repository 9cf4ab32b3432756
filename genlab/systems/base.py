"""The contract: what a system can do, one Protocol per capability, asked with `isinstance`.

A system is a LightningModule with a `modality`. Whatever else it offers is one of the capabilities
below. Commands, callbacks, evaluation and exports know these Protocols and no system, so a system
of your own gains a command by having the methods; it inherits nothing from genlab.

Members are methods or plain attributes, never submodules: from Python 3.12 on, `isinstance` with a
Protocol does not see what torch keeps in `_modules`. A parameter before `/` may have any name in a
system; what is behind it is called by name.

Shapes: N inputs; images (N, C, H, W) in [-1, 1]; points (N, D); texts as lists; codes (N, Z).
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from genlab.nn.conditions import LabelEncoder

__all__ = [
    "CAPABILITIES",
    "Adversarial",
    "Bijective",
    "BindsData",
    "Captured",
    "ChecksCapture",
    "Classifies",
    "Decodes",
    "Derived",
    "Encodes",
    "Exports",
    "Generates",
    "HasClassNames",
    "HasCodeScale",
    "HasConditions",
    "HasGenerator",
    "HasGraphs",
    "HasLabels",
    "HasLikelihood",
    "HasPriorName",
    "HasSamplers",
    "HasStandingStatistics",
    "HasStoredCodes",
    "Interpolates",
    "Invertible",
    "LabelEncoder",
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

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, Z), a function of `seed`.

        Args:
            num: How many.
            seed: Of the noise.
            temperature: Factor on the spread of the codes; below 1 truncates.
        """
        ...

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """`num` images or points, decoded from `prior`; takes label= where there are labels."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Turns codes into images or points."""

    latent_dim: int

    def decode(self, codes: Tensor) -> Tensor:
        """Inputs of codes (N, Z); where there are labels, labels (N,) are a second argument."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Turns inputs into codes; of text systems, texts into vectors."""

    def encode(self, inputs: Any, /) -> Tensor:
        """Codes (N, Z) of images, points or texts."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Encodes inputs and decodes their codes, in one call."""

    def reconstruct(self, inputs: Tensor, /, code_scale: float | None = None) -> Tensor:
        """Inputs of the same shape; takes labels= (N,) where there are labels.

        Args:
            inputs: Images or points.
            code_scale: Factor on the codes before they are decoded; None: the model's own.
        """
        ...


@runtime_checkable
class Invertible(Protocol):
    """Has an inverse unless settings switch it off; without it, it reconstructs nothing."""

    invertible: bool


@runtime_checkable
class Bijective(Protocol):
    """Is one network with two directions: `net(x)` is (codes, log det), `net.inverse(codes)` is x.

    Of images, `pixels` (genlab.nn.pixels) turns them into what the network sees.
    """

    def prepare(self, inputs: Tensor, /) -> tuple[Tensor, Tensor]:
        """What the network sees of inputs (N, ...), and the log det (N,) of that step."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """Draws images or points between two inputs."""

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """(N, num, ...): `num` inputs on the line between the codes of each pair."""
        ...


@runtime_checkable
class HasLabels(Protocol):
    """Can be trained with class labels; num_classes is 0 if it was trained without."""

    num_classes: int

    def labels(self, num: int, label: Any = None) -> Tensor | None:
        """Labels (num,) int64; None without classes.

        Args:
            num: How many.
            label: A class by number or name, or a list of them that is repeated; None: all classes,
                repeated.
        """
        ...


@runtime_checkable
class HasClassNames(Protocol):
    """Knows what its classes are called; `classes` is None where the data have no names."""

    classes: Sequence[str] | None


@runtime_checkable
class HasGenerator(Protocol):
    """Has a differentiable map from codes to images, so that codes can be searched by descent."""

    latent_dim: int

    def generate_images(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        ...


@runtime_checkable
class HasGraphs(Protocol):
    """Decodes or encodes images in one pass of tensors, which can be exported as a graph."""

    def graphs(self) -> dict[str, nn.Module]:
        """Networks in eval mode by verb; {} where settings rule a single pass out.

        `decode` maps codes (N, Z), and labels (N,) where there are classes, to images; `encode`
        maps images to codes.
        """
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

    def log_prob(self, inputs: Tensor, /, seed: int = 0) -> Tensor:
        """log p in nats (N,); seed: of the noise that dequantises images."""
        ...

    def scaled(self, log_prob: Tensor) -> Tensor:
        """log p in nats (N,) as `measure` (N,)."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """Classifies images."""

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        ...


@runtime_checkable
class HasStoredCodes(Protocol):
    """Stores a code for each training image; other images are encoded by a search."""

    def stored_codes(self) -> Tensor:
        """Codes (N, Z) of the training split, in its order."""
        ...


@runtime_checkable
class HasSamplers(Protocol):
    """Can draw its codes in several ways: `sampler` is one of `samplers`."""

    samplers: Sequence[str]
    sampler: str


@runtime_checkable
class HasPriorName(Protocol):
    """Names the distribution of each number of a code; without it, it is a standard normal."""

    prior_name: Literal["normal", "uniform"]  # uniform: in [-1, 1]


@runtime_checkable
class HasCodeScale(Protocol):
    """Multiplies the code of an input by `code_scale` before it is decoded again."""

    code_scale: float


@runtime_checkable
class HasStandingStatistics(Protocol):
    """Can recompute the batch statistics of its generator for sampling."""

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Recomputes them from `num_batches` batches of 256 samples."""
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
    """Writes conditional texts: on labels or an image, which `condition` encodes as a vector.

    `condition` is a submodule: a LabelEncoder where the condition is labels.
    """

    writes_freely: bool  # a language model, rather than one that rewrites a source
    condition_dropout: float  # fraction of the training rows without a condition

    def conditions(self, given: Any) -> Tensor:
        """Condition vectors (N, W) of {"labels": (N, fields)} or {"image": (N, C, H, W)}."""
        ...

    def score(self, batches: Any, conditions: Tensor | None = None) -> Tensor:
        """log p (N, K) of each target under each of K condition vectors (K, W)."""
        ...


@runtime_checkable
class Pretrained(Protocol):
    """A text model that is trained on raw text."""

    objective: Literal["mlm", "gpt", "unilm"]
    mask_rate: float  # fraction of the words that mlm hides


@runtime_checkable
class Exports(Protocol):
    """Can be exported in formats of its own."""

    formats: Sequence[str]

    def export(self, out: str, format: str) -> list[str]:
        """Writes `format` into the folder `out`; returns the names of the files."""
        ...


# --- around training ------------------------------------------------------------------------------


@runtime_checkable
class BindsData(Protocol):
    """Needs the data module itself, as a perceptual distance does that is trained on its images."""

    def bind(self, data: Any) -> None:
        """Called once, before the system is first used outside of training."""
        ...


@runtime_checkable
class Derived(Protocol):
    """Keeps buffers that follow from its weights, such as norms by power iteration."""

    def refresh(self) -> None:
        """Computes them again, after weights were averaged or loaded."""
        ...


@runtime_checkable
class Captured(Protocol):
    """Its training step can be captured as a CUDA graph."""

    def graph_key(self) -> tuple:
        """A key of the kernels that the next step launches; ValueError where they vary freely.

        A step is captured once per key and replayed for all later steps of that key.
        """
        ...


@runtime_checkable
class ChecksCapture(Protocol):
    """Can tell before the first step that some setting rules out capture."""

    def check_graph(self) -> None:
        """ValueError naming the setting. Called once, so it may look through the whole network."""
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
    HasClassNames,
    HasGenerator,
    HasGraphs,
    Adversarial,
    HasLikelihood,
    Bijective,
    Invertible,
    Classifies,
    HasStoredCodes,
    HasSamplers,
    HasPriorName,
    HasCodeScale,
    HasStandingStatistics,
    Generates,
    HasConditions,
    Pretrained,
    Exports,
    BindsData,
    Derived,
    Captured,
    ChecksCapture,
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
