"""From an image to the vector that steers its caption: a torchvision backbone, or another genlab
run.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from genlab import config, runs
from genlab.nn.conditions import leave_out
from genlab.ranges import PositiveInt
from genlab.tensors import read_torch

__all__ = ["Backbone", "RunEncoder"]

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and std of RGB in [0, 1], as torchvision's weights want it
HEADS = (
    "fc",
    "classifier",
    "head",
    "heads",
)  # what torchvision calls the last layers of its networks


class ImageCondition(nn.Module):
    """{"image": uint8, or float in [-1, 1], (B, C, H, W)} -> (B, dim): a linear map of features (B,
    `width`).

    With a probability `dropout` a row is `none` instead, a vector of its own that is learned.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.dim = dim
        self.map = nn.Linear(width, dim)
        self.none = nn.Parameter(torch.zeros(dim))

    def forward(self, given: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
        image = given["image"].to(self.none.device)
        image = image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image
        c = self.map(self.features(image).to(self.map.weight.dtype))
        return torch.where(leave_out(len(c), dropout, c.device), self.none, c) if dropout else c

    def free(self, num: int) -> Tensor:
        return self.none.expand(num, -1)

    def features(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) in [-1, 1] -> (B, width)."""
        raise NotImplementedError


class Backbone(ImageCondition):
    """A torchvision network without its last layers, over the image's pixels normalised as for
    ImageNet.

    name: of torchvision.models. weights: DEFAULT or another name, which torchvision downloads, a
    file with a state dict, or
    null: random ones. frozen: only the linear map behind it is trained, and its batch norms keep
    their statistics.
    """

    def __init__(
        self,
        name: str = "mobilenet_v3_small",
        weights: str | None = None,
        frozen: bool = True,
        dim: PositiveInt = 128,
    ):
        known = torchvision.models.list_models(torchvision.models)
        if name not in known:
            raise ValueError(
                f"model.condition.name={name}: torchvision.models has none of it.{config.closest(name, known)}"
            )
        network = torchvision.models.get_model(name, weights=None)
        head = next(
            (part for part in HEADS if isinstance(getattr(network, part, None), nn.Module)), None
        )
        if head is None:
            raise ValueError(
                f"model.condition.name={name}: none of {', '.join(HEADS)} is there to take off; choose another"
            )
        last = getattr(network, head)
        linear = [m for m in last.modules() if isinstance(m, nn.Linear)]
        super().__init__(linear[0].in_features, dim)
        setattr(network, head, nn.Flatten())
        if frozen and weights is None:
            raise ValueError(
                "model.condition.weights=null: a frozen network of random weights tells little; give DEFAULT or a file, or "
                "train it, model.condition.frozen=false"
            )
        self.name, self.weights, self.frozen, self.network, self.head = (
            name,
            weights,
            frozen,
            network,
            head,
        )
        self.register_buffer("mean", torch.tensor(IMAGENET[0]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET[1]).view(3, 1, 1), persistent=False)
        network.requires_grad_(not frozen)

    def begin(self) -> None:
        """Takes the pretrained weights, for a new run."""
        if self.weights is None:
            return
        path = Path(self.weights).expanduser()
        if path.is_file():
            state = read_torch(path)
        else:
            state = torchvision.models.get_model_weights(self.name)[self.weights].get_state_dict(
                progress=False
            )
        state = {
            name: value for name, value in state.items() if not name.startswith(f"{self.head}.")
        }
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"model.condition.weights={self.weights}: {str(error).splitlines()[1].strip()}"
            ) from None

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        return self.network((((image + 1) / 2) - self.mean) / self.std)


class RunEncoder(ImageCondition):
    """The codes that the model of a finished run gives images, as an O-GAN's or a flow's; it is not
    trained further.

    run: its directory. frozen: its config as JSON, which genlab train adds, so that this run, whose
    checkpoints hold the weights, can be used without that one. ckpt: best, last or a path, read
    when training starts.
    """

    def __init__(
        self,
        run: str | None = None,
        frozen: str | None = None,
        ckpt: str = "last",
        dim: PositiveInt = 128,
    ):
        if run is None:
            raise ValueError(
                "model.condition.run: give the run whose codes steer the captions: outputs/train/ogan/<stamp>"
            )
        frozen = config.read_frozen(run) if frozen is None else config.parse_frozen(frozen)
        system = config.build_system(frozen)
        able = (
            hasattr(system, "encode")
            and hasattr(system, "latent_dim")
            and not hasattr(system, "stored_codes")
        )
        if not able or system.modality != "image":
            raise ValueError(
                f"model.condition.run={run}: {type(system).__name__} has no encoder of images"
            )
        super().__init__(system.latent_dim, dim)
        data = frozen["data"]
        self.run, self.ckpt, self.shape = (
            run,
            ckpt,
            (data["channels"], data["image_size"], data["image_size"]),
        )
        self.system = system.eval().requires_grad_(False)

    def begin(self) -> None:
        """Takes the weights of the run, for a new one."""
        self.system.load_state_dict(runs.load(self.run, self.ckpt).state_dict())

    def train(self, mode: bool = True):
        super().train(mode)
        self.system.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        if image.shape[1:] != self.shape:
            raise ValueError(
                f"data: images of {tuple(image.shape[1:])}; the run {self.run} was trained on {self.shape} "
                "(data.images.image_size=, data.images.channels=)"
            )
        with torch.no_grad():
            return self.system.encode(image)
