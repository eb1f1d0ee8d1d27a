"""Test checkpoints of other programs that are damaged, hostile or unusual: each is read correctly or refused."""

from __future__ import annotations

import bz2
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import deeptn as dtn
from deeptn.files import load_checkpoint


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def with_header(text: str) -> bytes:
    """Return an array of four doubles with another header."""
    head = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(32)


def test_arrays_of_any_kind(tmp_path):
    arrays = {
        "F": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "scalar": np.array(3.0),
        "empty": np.ones((0, 3)),
        "ints": np.arange(5, dtype="int16"),
        "big": np.arange(3, dtype=">f4"),
        "bool": np.array([True, False]),
        "complex": np.ones((2, 2), "complex64"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "m.npz", **arrays)
        found = load_checkpoint(tmp_path / "m.npz").tensors
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert np.array_equal(found[name], array)


def test_more_arrays_than_open_files(tmp_path):
    arrays: dict[str, Any] = {f"a{k}": np.full(3, k) for k in range(1200)}
    np.savez(tmp_path / "m.npz", **arrays)
    tensors = load_checkpoint(tmp_path / "m.npz").tensors
    assert all(tensors[f"a{k}"].tolist() == [k] * 3 for k in range(1200))


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }"
HEADERS = {
    "an open bracket": GOOD.replace("}", "("),
    "a text without an end": GOOD.replace("}", "'''"),
    "an empty dtype": GOOD.replace("'<f8'", "()"),
    "a bad dtype": GOOD.replace("'<f8'", "'<f8,,'"),
    "objects": GOOD.replace("'<f8'", "'|O'"),
    "numbers as keys": "{1: 2, 'a': 3}",
    "lists as keys": "{[]: 1}",
    "a bool as size": GOOD.replace("(4,)", "(True,)"),
    "a size too large": GOOD.replace("(4,)", "(5,)"),
    "a size too small": GOOD.replace("(4,)", "(3,)"),
    "negative sizes": GOOD.replace("(4,)", "(-2, -2)"),
    "huge sizes": GOOD.replace("(4,)", f"({2**62}, {2**62}, 0)"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_arrays(name, tmp_path):
    assert load_checkpoint(archive(tmp_path / "good.npz", {"w.npy": with_header(GOOD)})).tensors["w"].shape == (4,)
    path = archive(tmp_path / "m.npz", {"w.npy": with_header(HEADERS[name])})
    with pytest.raises(dtn.FormatError, match=r"m\.npz"):
        load_checkpoint(path).tensors["w"]


EMPTY = GOOD.replace("(4,)", f"({2**62}, {2**62}, 0)")


@pytest.mark.parametrize(
    "content", [b"", b"PK", with_header(EMPTY)[:-32], npy(np.ones(3))[:-1], b"\x93NUMPY\x09\x00" + bytes(200)]
)
def test_members_that_are_no_arrays(content, tmp_path):
    with pytest.raises(dtn.FormatError):
        load_checkpoint(archive(tmp_path / "m.npz", {"w.npy": content}))


def test_an_archive_in_an_archive(tmp_path):
    inner = io.BytesIO()
    np.savez(inner, a=np.ones(3))
    with pytest.raises(dtn.FormatError, match="file of arrays"):
        load_checkpoint(archive(tmp_path / "m.npz", {"w.npy": inner.getvalue()}))


def test_damage_in_another_compression(tmp_path):
    path = archive(tmp_path / "m.npz", {"w.npy": npy(np.arange(1000.0))}, zipfile.ZIP_BZIP2)
    assert load_checkpoint(path).tensors["w"][5] == 5
    content = path.read_bytes()
    place = content.index(bz2.compress(b"")[:3]) + 20
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    with pytest.raises(dtn.FormatError, match=r"m\.npz"):
        load_checkpoint(path)


TENSORS = {
    "sparse": lambda: {"w": torch.eye(3).to_sparse()},
    "quantized": lambda: {"w": torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)},
    "without memory": lambda: {"w": torch.ones(3, device="meta")},
    "under a number": lambda: {1: torch.ones(3)},
    "much larger than the file": lambda: {"w": torch.ones(1).expand(10**6, 10**6)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_torch(name, tmp_path):
    torch.save(TENSORS[name](), tmp_path / "m.pt")
    with pytest.raises(dtn.FormatError, match=r"m\.pt"):
        load_checkpoint(tmp_path / "m.pt")


def test_shards_without_an_index(tmp_path):
    for k in (1, 2):
        save_file({f"w{k}": np.ones(3)}, tmp_path / f"model-0000{k}-of-00002.safetensors")
    with pytest.raises(dtn.FormatError, match=r"contains 2 files .*; name one of them"):
        load_checkpoint(tmp_path)
    files = {f"w{k}": f"model-0000{k}-of-00002.safetensors" for k in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert load_checkpoint(tmp_path).tensors.keys() == {"w1", "w2"}
