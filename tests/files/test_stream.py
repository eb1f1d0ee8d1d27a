"""Test that large files are written and read tensor by tensor."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import deeptn as dtn
from deeptn.files import StoredLayer, StoredModel, load_checkpoint, release, save_checkpoint, save_model, size_of_model


def test_safetensors_reads_every_dtype_back(tmp_path):
    draw = np.random.default_rng(0)
    names = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
    tensors = {name: (100 * draw.random((3, 5))).astype(name) for name in names}
    tensors |= {"bool": draw.random(7) > 0.5, "bfloat16": draw.random(3).astype(ml_dtypes.bfloat16)}
    tensors |= {"empty": np.empty((0, 3), "float32"), "scalar": np.array(2.5), "turned": np.arange(6.0).reshape(2, 3).T}
    tensors |= {"big-endian": np.arange(4, dtype=">f4"), "größe": np.ones(2, "float32")}
    save_checkpoint(StoredModel({}, tensors), tmp_path / "m.safetensors")
    for found in (load_file(tmp_path / "m.safetensors"), load_checkpoint(tmp_path / "m.safetensors").tensors):
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype.newbyteorder("=")
            assert np.array_equal(found[name], array)
            release(found[name])
            assert np.array_equal(found[name], array)


def test_the_size_of_a_file_before_it_is_written(tmp_path):
    net = dtn.network(dtn.TTMatrix(rank=3), (12, 18))
    tied = np.ones((4, 5), "float32")
    layers = {"fc": StoredLayer("linear", net, net.init(), np.zeros(12, "float32"))}
    layers |= {"head": StoredLayer("weight", net, net.init(dtype="complex64"), None)}
    model = StoredModel(layers, {"a.weight": tied, "b.weight": tied, "c": np.ones(3, "complex64")})
    save_model(model, tmp_path / "m.safetensors")
    assert size_of_model(model) == (tmp_path / "m.safetensors").stat().st_size


def test_changes_of_a_mapping_survive_release(tmp_path):
    np.ones(10_000).tofile(tmp_path / "a")
    array = np.memmap(tmp_path / "a", float, "c")
    array[0] = 2.0
    release(np.asarray(array))
    assert array[0] == 2.0


SCRIPT = """
import re, sys
from pathlib import Path
import numpy as np
from deeptn.files import load_checkpoint, save_checkpoint

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before, most = resident(), 0.0
import deeptn.files.stream as stream
release = stream.release
def watched(array):
    global most
    most = max(most, resident())
    release(array)
stream.release = watched
save_checkpoint(load_checkpoint(sys.argv[1]), sys.argv[2])
print(most - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_holds_one_tensor(tmp_path):
    """Ten tensors of 16 MB, and two that are decoded, go from file to file."""
    net = dtn.network(dtn.LowRank(rank=1), (2048, 2048))
    layers = {name: StoredLayer("linear", net, net.init(), None) for name in ("a", "b")}
    tensors = {f"t{k}": np.full((2048, 2048), float(k), "float32") for k in range(10)}
    save_model(StoredModel(layers, tensors), tmp_path / "m.safetensors")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "m.safetensors"), str(tmp_path / "back.safetensors")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 15 < float(said) < 80, said
    assert len(load_checkpoint(tmp_path / "back.safetensors").tensors) == 12
