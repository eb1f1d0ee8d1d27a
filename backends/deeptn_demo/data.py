"""Image data sets: scikit-learn's digits, and MNIST and Fashion-MNIST from IDX files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeptn.base import PathLike, optional
from deeptn.errors import DeepTNError, FormatError, near_match

from .idx import DATASETS, SOURCES, find_files, read_idx


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes
    ----------
    name : str
    train_x, test_x : Tensor of shape (N, 1, height, width)
        float32, normalized with the mean and standard deviation of the training pixels.
    train_y, test_y : Tensor of shape (N,)
        Class labels, int64.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_images(name: str = "digits", folder: PathLike | None = None) -> Images:
    """Load a data set.

    Parameters
    ----------
    name : {"digits", "fashion-mnist", "mnist"}
        ``"digits"`` is bundled with scikit-learn: 1,797 images of 8 x 8; every fifth one is used for testing.
    folder : path, optional
        Folder with the four IDX files, gzipped or not. By default, use the folder of Debian's package if it exists,
        else deeptn's cache (``$XDG_CACHE_HOME/deeptn``); missing files are downloaded into the cache and verified.

    Returns
    -------
    Images

    Raises
    ------
    DeepTNError
        For an unknown name.
    FileNotFoundError
        If `folder` lacks a file.
    FormatError
        If a file is not an IDX file or has the wrong size, or a download has the wrong checksum.
    """
    if name == "digits":
        if folder is not None:
            raise DeepTNError(f"the digits are bundled with scikit-learn; leave out the folder {str(folder)!r}")
        return _digits()
    if name not in SOURCES:
        raise DeepTNError(f"data set {name!r}; {near_match(str(name), DATASETS)}")
    train_x, train_y, test_x, test_y = (read_idx(path) for path in find_files(name, folder))
    for images, labels in ((train_x, train_y), (test_x, test_y)):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise FormatError(f"images of shape {images.shape} do not go with labels of shape {labels.shape}")
    return _images(name, train_x, train_y, test_x, test_y)


def _digits() -> Images:
    bunch = optional("sklearn.datasets", "demo").load_digits()
    images, labels = np.asarray(bunch.images), np.asarray(bunch.target)
    test = np.arange(len(labels)) % 5 == 4
    return _images("digits", images[~test], labels[~test], images[test], labels[test])


def _images(name: str, *arrays: np.ndarray) -> Images:
    train_x, train_y, test_x, test_y = (torch.from_numpy(np.array(a)) for a in arrays)
    train_x, test_x = train_x.float().unsqueeze(1), test_x.float().unsqueeze(1)
    mean, std = train_x.mean(), train_x.std()
    return Images(name, (train_x - mean) / std, train_y.long(), (test_x - mean) / std, test_y.long())
