"""Test the loaders on tiny files in the real format, and on the real files where they are installed."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from deeptn_demo import idx as idx_module
from deeptn_demo.data import load_images
from deeptn_demo.idx import download, read_idx

import deeptn as dtn

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SYSTEM = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tiny(folder: Path, zipped: bool = True) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {
        FILES[0]: generator.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        FILES[1]: np.arange(6, dtype=np.uint8),
        FILES[2]: generator.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        FILES[3]: np.arange(3, dtype=np.uint8),
    }
    for name, array in arrays.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_a_local_folder(tmp_path, zipped, name):
    arrays = tiny(tmp_path, zipped)
    images = load_images(name, tmp_path)
    assert images.train_x.shape == (6, 1, 28, 28)
    assert images.train_y.tolist() == list(range(6))
    assert images.test_y.dtype == torch.int64
    pixels = arrays[FILES[0]].astype("float64")
    expected = (arrays[FILES[2]] - pixels.mean()) / pixels.std(ddof=1)
    assert np.allclose(images.test_x[:, 0].numpy(), expected, atol=1e-4)


BROKEN = {
    "magic": (b"\1\0\x08\1\0\0\0\0", "not an IDX file"),
    "floats": (b"\0\0\x0d\1\0\0\0\0", "not an IDX file"),
    "short": (b"\0\0", "not an IDX file"),
    "header": (b"\0\0\x08\3\0\0\0\1", "header is cut off"),
    "data": (idx(np.zeros((2, 3), np.uint8))[:-1], r"the header says \(2, 3\), but 5 bytes follow"),
    "surplus": (idx(np.zeros((2, 3), np.uint8)) + b"x", "7 bytes follow"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_idx(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(dtn.FormatError, match=message):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize("cut", [0, 5, 20, 40])
def test_broken_gzip(cut, tmp_path):
    whole = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    (tmp_path / "x.gz").write_bytes(whole[:cut] if cut else b"no gzip")
    with pytest.raises(dtn.FormatError, match="damaged gzip"):
        read_idx(tmp_path / "x.gz")
    (tmp_path / "y.gz").write_bytes(whole[:15] + b"\xff\xff\xff" + whole[18:])
    with pytest.raises(dtn.FormatError):
        read_idx(tmp_path / "y.gz")


def test_missing_files_and_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load_images("fashion-mnist", tmp_path)
    with pytest.raises(dtn.DeepTNError, match="did you mean 'fashion-mnist'"):
        load_images("fashion_mnist")
    arrays = tiny(tmp_path)
    (tmp_path / f"{FILES[1]}.gz").write_bytes(gzip.compress(idx(arrays[FILES[1]][:5])))
    with pytest.raises(dtn.FormatError, match="do not go with labels"):
        load_images("mnist", tmp_path)


def test_download_checks_the_sum(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    right = hashlib.md5(b"content").hexdigest()
    download(source.as_uri(), tmp_path / "copy", right)
    assert (tmp_path / "copy").read_bytes() == b"content"
    with pytest.raises(dtn.FormatError, match="nothing was kept"):
        download(source.as_uri(), tmp_path / "other", "0" * 32)
    assert not (tmp_path / "other").exists()
    with pytest.raises(dtn.DeepTNError, match="pass --data-dir"):
        download((tmp_path / "nothing").as_uri(), tmp_path / "other", right)


def test_download_into_the_cache(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    tiny(served)
    sums = tuple(hashlib.md5((served / f"{name}.gz").read_bytes()).hexdigest() for name in FILES)
    source = idx_module.Source(served.as_uri() + "/", sums)  # type: ignore[arg-type]
    monkeypatch.setitem(idx_module.SOURCES, "mnist", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_images("mnist")
    for path in served.iterdir():
        path.unlink()
    assert torch.equal(load_images("mnist").train_x, first.train_x)
    assert (tmp_path / "cache" / "deeptn" / "mnist" / f"{FILES[0]}.gz").is_file()


def test_digits():
    images = load_images()
    assert images.train_x.shape == (1438, 1, 8, 8)
    assert images.test_x.shape == (359, 1, 8, 8)
    assert set(images.test_y.tolist()) == set(range(10))
    assert abs(float(images.train_x.mean())) < 1e-5
    assert float(images.train_x.std()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist():
    images = load_images("fashion-mnist")
    assert images.train_x.shape == (60_000, 1, 28, 28)
    assert images.test_x.shape == (10_000, 1, 28, 28)
    assert torch.bincount(images.train_y).tolist() == [6_000] * 10
    raw = read_idx(SYSTEM / f"{FILES[0]}.gz")
    assert abs(raw.mean() / 255 - 0.2860) < 1e-4
    assert abs(raw.std() / 255 - 0.3530) < 1e-4
