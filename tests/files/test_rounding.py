"""Test files whose cores are stored in fewer bytes."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_torch import TNLinear, compress, load_model, save_model
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import deeptn as dtn
from deeptn.arrays import relative_error
from deeptn.cli import main
from deeptn.files import StoredLayer, StoredModel, rounded_model, size_of_model
from deeptn.models import rounding_errors

RULES = {"0": dtn.TTMatrix(rank=4), "2": dtn.BrickWall(layers=2)}


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    dense = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))
    return compress(dense, RULES, fit=None, seed=seed)[0]


def dense() -> Any:
    return nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))


@pytest.mark.parametrize(
    ("cores", "itemsize", "limit"), [("float16", 2, 1e-3), ("bfloat16", 2, 1e-2), ("int8", 1, 3e-2)]
)
def test_smaller_files_return_rounded_cores(cores, itemsize, limit, tmp_path):
    small = model()
    whole, path = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    assert save_model(small, whole) == {}
    errors = save_model(small, path, cores=cores)
    count = sum(layer.network.num_params for layer in (small[0], small[2]))
    saved = whole.stat().st_size - path.stat().st_size
    names = sum(len(layer.network.spec.param_shapes) for layer in (small[0], small[2]))
    assert saved > count * (4 - itemsize) - 4 * names - 400  # the scales, and what the header says of them
    for target in (dense(), model(1)):
        found = load_model(target, path)
        for k, layer in (("0", found[0]), ("2", found[2])):
            assert layer.cores[next(iter(layer.cores.keys()))].dtype == torch.float32
            error = relative_error(layer.weight.detach(), small[int(k)].weight.detach())
            assert error == pytest.approx(errors[k], rel=1e-3)
            assert 0 < error < limit
    stored = dtn.load_model(path)
    assert {array.dtype.name for array in stored.layers["0"].params.values()} == {"float32"}
    exact = dtn.load_model(whole)
    assert size_of_model(exact, cores) == os.path.getsize(path)
    same = rounded_model(exact, cores)
    for name, layer in stored.layers.items():
        assert all(np.array_equal(array, same.layers[name].params[core]) for core, array in layer.params.items())
    again = tmp_path / "again.safetensors"
    dtn.save_model(stored, again, cores)
    assert rounding_errors(stored, cores)["0"] < 1e-6  # what is rounded already stays
    assert relative_error(load_model(dense(), again)[0].weight.detach(), load_model(dense(), path)[0].weight) < 1e-6


def test_a_core_has_its_own_scale():
    net = dtn.network(dtn.LowRank(rank=2), (4, 6))
    params = {"U": np.full((4, 2), 1000.0, "float32"), "V": np.linspace(-1e-3, 1e-3, 12, dtype="float32").reshape(6, 2)}
    params = {name: params[name].reshape(shape) for name, shape in net.spec.param_shapes.items()}
    found = rounded_model(StoredModel({"0": StoredLayer("linear", net, params, None)}, {}), "int8").layers["0"].params
    for name, array in params.items():
        assert np.abs(found[name] - array).max() <= np.abs(array).max() / 254 * 1.001
    zero = {name: 0 * array for name, array in params.items()}
    found = rounded_model(StoredModel({"0": StoredLayer("linear", net, zero, None)}, {}), "int8").layers["0"].params
    assert not any(array.any() for array in found.values())


def test_shared_cores_are_stored_once(tmp_path):
    layer = TNLinear(64, 64, dtn.TTMatrix(rank=2))
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_model(tied, two, cores="int8")
    save_model(nn.Sequential(layer), one, cores="int8")
    assert two.stat().st_size < one.stat().st_size + 200
    found = load_model(nn.Sequential(linear := nn.Linear(64, 64), nn.ReLU(), linear), two)
    assert found[0] is found[2]


def test_other_dtypes_and_front_ends(tmp_path):
    path = tmp_path / "small.safetensors"
    save_model(model().double(), path, cores="int8")
    assert dtn.load_model(path).layers["0"].params.popitem()[1].dtype == np.float64
    half = model().bfloat16()
    assert max(save_model(half, path, cores="bfloat16").values()) == 0.0
    import equinox as eqx
    import jax

    mlp = eqx.nn.MLP(256, 64, 128, 1, key=jax.random.key(0))
    save_model(model(), path, cores="int8")
    found = tne.load_model(mlp, path, {"0": "layers.0", "2": "layers.1"})
    expected = load_model(dense(), path)
    assert np.allclose(found.layers[0].weight, expected[0].weight.detach().numpy(), atol=1e-6)


def test_cores_that_have_to_be_copied(tmp_path):
    net = dtn.network(dtn.BrickWall(layers=3), (64, 64))
    for seed in range(5):
        params: dict[str, Any] = {}
        for name, array in net.init(seed, like="torch").items():
            order = tuple(reversed(range(array.ndim)))
            params[name] = array.permute(order).contiguous().permute(order)
        stored = StoredModel({"0": StoredLayer("linear", net, params, None)}, {})
        dtn.save_model(stored, tmp_path / "small.safetensors", "int8")
        for found in (dtn.load_model(tmp_path / "small.safetensors"), rounded_model(stored, "int8")):
            for name, array in found.layers["0"].params.items():
                assert relative_error(array, params[name].numpy()) < 0.05


def test_what_cannot_be_rounded(tmp_path):
    path = tmp_path / "small.safetensors"
    with pytest.raises(dtn.SpecError, match=r"cores = 'int4'; expected 'int8'|cores = 'int4'"):
        save_model(model(), path, cores="int4")  # type: ignore[arg-type]
    large = model()
    with torch.no_grad():
        large[0].cores[next(iter(large[0].cores.keys()))] *= 1e8
    with pytest.raises(dtn.SpecError, match="too large for float16; use bfloat16 or int8"):
        save_model(large, path, cores="float16")
    with torch.no_grad():
        large[0].cores[next(iter(large[0].cores.keys()))] *= torch.nan
    with pytest.raises(dtn.SpecError, match="not finite"):
        save_model(large, path, cores="int8")
    with pytest.raises(dtn.SpecError, match="cores of complex64 cannot be stored as int8"):
        save_model(nn.Sequential(TNLinear(8, 8, "TTMatrix", dtype=torch.complex64)), path, cores="int8")
    huge = model().double()
    with torch.no_grad():
        huge[0].cores[next(iter(huge[0].cores.keys()))] *= 1e300
    with pytest.raises(dtn.SpecError, match="too large for a scale in float32"):
        save_model(huge, path, cores="int8")
    assert not path.exists()


def changed(path: Any, change: Any) -> None:
    """Write a file again with another header and other tensors."""
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["deeptn"])
        tensors = {name: file.get_tensor(name) for name in [*file.keys()]}
    change(header, tensors)
    save_file(tensors, path, {"deeptn": json.dumps(header)})


DAMAGE: dict[str, Any] = {
    "an unknown dtype": lambda header, tensors: header["layers"]["0"].update(rounded="float8"),
    "no text": lambda header, tensors: header["layers"]["0"].update(rounded=["float32"]),
    "no scales": lambda header, tensors: tensors.pop("0.scales"),
    "few scales": lambda header, tensors: tensors.update({"0.scales": tensors["0.scales"][1:]}),
    "wide scales": lambda header, tensors: tensors.update({"0.scales": tensors["0.scales"].astype("float64")}),
    "bad scales": lambda header, tensors: tensors.update({"0.scales": tensors["0.scales"] * np.float32("nan")}),
    "floats": lambda header, tensors: tensors.update({"0.cores": tensors["0.cores"].astype("float32")}),
    "integers": lambda header, tensors: tensors.update({"0.cores": tensors["0.cores"].astype("int16")}),
    "not rounded": lambda header, tensors: header["layers"]["0"].pop("rounded"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_files(change, tmp_path):
    path = tmp_path / "small.safetensors"
    save_model(model(), path, cores="int8")
    changed(path, change)
    with pytest.raises(dtn.FormatError):
        dtn.load_model(path)


def test_the_command_line(tmp_path, capsys):
    source, out = tmp_path / "dense.safetensors", tmp_path / "small.safetensors"
    torch.manual_seed(0)
    save_file({name: tensor.numpy() for name, tensor in dense().state_dict().items()}, source)
    words = ["compress", str(source), "--budget", "50%", "-o", str(out), "--topologies", "LowRank"]
    sizes = []
    for more in ([], ["--cores", "int8"]):
        assert main([*words, *more]) == 0
        text = capsys.readouterr().out
        sizes.append(out.stat().st_size)
        assert ("cores in int8: this changes the weights by up to" in text) == bool(more)
    assert sizes[1] < 0.6 * sizes[0]
    assert main([*words, "--cores", "int8", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["rounding_errors"]["0"] < 0.02
    assert main(["decompress", str(out), "-o", str(tmp_path / "back.safetensors")]) == 0
