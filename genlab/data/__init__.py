"""Image and point sets as LightningDataModules, and the readers behind them."""

from genlab.data.cache import data_root
from genlab.data.cifar10 import CIFAR10
from genlab.data.decode import DataError
from genlab.data.folder import ImageFolder, read_images
from genlab.data.points import PointSet, read_points
from genlab.data.sets import MNIST, Digits, FashionMNIST, MNIST5k

__all__ = [
    "CIFAR10",
    "MNIST",
    "DataError",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "MNIST5k",
    "PointSet",
    "data_root",
    "read_images",
    "read_points",
]
