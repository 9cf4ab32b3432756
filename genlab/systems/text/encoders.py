"""Condition encoders of images: a torchvision network, or the encoder of another genlab run.

Shapes: B images (B, channels, height, width); F features; C = condition_dim.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from genlab import config, runs
from genlab.nn.conditions import drop_conditions
from genlab.ranges import PositiveInt
from genlab.systems.base import Decodes, Encodes, HasStoredCodes
from genlab.tensors import read_torch

__all__ = ["Backbone", "RunEncoder"]

# Mean and standard deviation of RGB in [0, 1] that torchvision's weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
HEADS = ("fc", "classifier", "head", "heads")  # torchvision's names of the last layers


class ImageCondition(nn.Module):
    """A linear map of the features of an image; subclasses compute the features.

    In training some rows are dropped: they get `none`, a vector of its own that is learned.

    Args:
        num_features: F.
        condition_dim: C.
    """

    def __init__(self, num_features: int, condition_dim: int):
        super().__init__()
        self.condition_dim = condition_dim
        self.map = nn.Linear(num_features, condition_dim)
        self.none = nn.Parameter(torch.zeros(condition_dim))

    def forward(self, given: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
        """{"image": uint8, or float in [-1, 1]} -> (B, C); see genlab.nn.conditions."""
        image = given["image"].to(self.none.device)
        image = image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image
        c = self.map(self.features(image).to(self.map.weight.dtype))
        if not dropout:
            return c
        return torch.where(drop_conditions(len(c), dropout, c.device), self.none, c)

    def free(self, num: int) -> Tensor:
        """Vectors (num, C) of texts without an image."""
        return self.none.expand(num, -1)

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F) of images in [-1, 1]."""
        raise NotImplementedError


class Backbone(ImageCondition):
    """A torchvision network without its last layers, then a linear map.

    Args:
        name: A model of torchvision.models.
        weights: DEFAULT or another name, which torchvision downloads; or a file with a state dict.
            None: random weights.
        frozen: Whether only the linear map is trained; the network's batch norms then keep their
            statistics, too.
        condition_dim: C.
    """

    def __init__(
        self,
        name: str = "mobilenet_v3_small",
        weights: str | None = None,
        frozen: bool = True,
        condition_dim: PositiveInt = 128,
    ):
        known = torchvision.models.list_models(torchvision.models)
        if name not in known:
            raise ValueError(
                f"model.condition.name={name}: expected a model of torchvision.models."
                f"{config.closest(name, known)}"
            )
        network = torchvision.models.get_model(name, weights=None)
        heads = [part for part in HEADS if isinstance(getattr(network, part, None), nn.Module)]
        if not heads:
            raise ValueError(
                f"model.condition.name={name}: expected a network with one of {', '.join(HEADS)} "
                "as its last layers; choose another"
            )
        if frozen and weights is None:
            raise ValueError(
                "model.condition.weights=null: a frozen network of random weights tells little "
                "about an image; set model.condition.weights=DEFAULT or a file, or train it with "
                "model.condition.frozen=false"
            )
        head = heads[0]
        last_layers = getattr(network, head).modules()
        first_linear = next(layer for layer in last_layers if isinstance(layer, nn.Linear))
        super().__init__(first_linear.in_features, condition_dim)
        setattr(network, head, nn.Flatten())
        self.name = name
        self.weights = weights
        self.frozen = frozen
        self.head = head
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        network.requires_grad_(not frozen)

    def load_weights(self) -> None:
        """Loads the pretrained weights, at the start of a new run."""
        if self.weights is None:
            return
        path = Path(self.weights).expanduser()
        if path.is_file():
            state = read_torch(path)
        else:
            weights = torchvision.models.get_model_weights(self.name)[self.weights]
            state = weights.get_state_dict(progress=False)
        state = {
            name: value for name, value in state.items() if not name.startswith(f"{self.head}.")
        }
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()
            raise ValueError(f"model.condition.weights={self.weights}: {why}") from None

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        return self.network((((image + 1) / 2) - self.mean) / self.std)


class RunEncoder(ImageCondition):
    """The codes that a finished run gives images, then a linear map; the run is not trained on.

    Args:
        run: The run's directory: an O-GAN, a flow or another model that encodes images.
        run_config: The run's config as JSON. genlab train adds it; since checkpoints hold the
            weights as well, the trained model then needs that directory no more.
        ckpt: best, last or a path, read when training starts.
        condition_dim: C.
    """

    def __init__(
        self,
        run: str | None = None,
        run_config: str | None = None,
        ckpt: str = "last",
        condition_dim: PositiveInt = 128,
    ):
        if run is None:
            raise ValueError(
                "model.condition.run=null: expected the run that encodes the images, as in "
                "model.condition.run=outputs/train/ogan/<stamp>"
            )
        settings = (
            config.read_frozen(run) if run_config is None else config.parse_frozen(run_config)
        )
        system = config.build_system(settings)
        encodes = isinstance(system, Encodes) and isinstance(system, Decodes)
        if not encodes or isinstance(system, HasStoredCodes) or system.modality != "image":
            raise ValueError(
                f"model.condition.run={run}: {type(system).__name__} has no encoder of images; "
                "expected a run such as an O-GAN or a flow of images"
            )
        super().__init__(system.latent_dim, condition_dim)
        data = settings["data"]
        self.run = run
        self.ckpt = ckpt
        self.shape = (data["channels"], data["image_size"], data["image_size"])
        self.system = system.eval().requires_grad_(False)

    def load_weights(self) -> None:
        """Loads the weights of the run, at the start of a new one."""
        self.system.load_state_dict(runs.load(self.run, self.ckpt).state_dict())

    def train(self, mode: bool = True):
        super().train(mode)
        self.system.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        if image.shape[1:] != self.shape:
            raise ValueError(
                f"data: expected images of {self.shape}, which the run {self.run} was trained on, "
                f"found {tuple(image.shape[1:])}; set data.images.image_size= and "
                "data.images.channels="
            )
        with torch.no_grad():
            return self.system.encode(image)
