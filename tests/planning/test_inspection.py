"""Test inspections against independent computations: singular values, errors of networks, costs."""

from __future__ import annotations

import json
import math
import weakref

import numpy as np
import pytest

import deeptn as dtn
from deeptn.files import StoredLayer, StoredModel, save_checkpoint
from deeptn.models import Weight
from deeptn.planning import curve, inspect_model, inspection, sizes
from deeptn.planning.sizes import smallest

LEVELS = (10.0, 20.0, 40.0)


def decaying(rows: int, columns: int, decay: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    left, right = (np.linalg.qr(draw.standard_normal((side, rows)))[0] for side in (rows, columns))
    return (left / np.arange(1, rows + 1) ** decay) @ right.T


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    found = {
        "fc.weight": decaying(24, 60, 2.0),
        "fc.bias": np.zeros(24),
        "conv.weight": decaying(12, 36, 1.5).reshape(12, 4, 3, 3),
        "flat.weight": draw.standard_normal((32, 32)),
        "kron": np.kron(draw.standard_normal((8, 8)), draw.standard_normal((8, 8))),
        "bad.weight": np.full((4, 6), np.nan),
        "tiny.weight": np.eye(2),
        "zero.weight": np.zeros((16, 16)),
    }
    return {name: array.astype("float32") for name, array in found.items()}


@pytest.fixture(scope="module")
def found():
    return inspect_model(StoredModel({}, tensors()))


@pytest.fixture(scope="module")
def layers(found):
    return {layer.name: layer for layer in found.layers}


def needed(layer, family):
    return {one.decibels: one for one in layer.needed if one.label.partition("(")[0] == family}


@pytest.mark.slow
def test_every_weight_is_listed(found):
    assert [layer.name for layer in found.layers] == ["fc", "conv", "flat", "kron", "bad", "tiny", "zero"]
    assert [layer.kind for layer in found.layers][:4] == ["linear", "conv2d", "linear", "weight"]
    assert found.families == ("LowRank", "TensorTrain", "TTMatrix", "BrickWall")
    assert found.params == sum(array.size for array in tensors().values())


@pytest.mark.parametrize("name", ["fc", "conv", "flat"])
def test_spectrum_and_low_ranks_are_those_of_the_svd(layers, name):
    weight = tensors()[f"{name}.weight"].astype("float64")
    matrix, layer = weight.reshape(len(weight), -1), layers[name]
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    norm = np.linalg.norm(matrix)
    np.testing.assert_allclose(layer.spectrum, values / norm, rtol=1e-6, atol=1e-9)
    share = (values / norm) ** 2
    assert layer.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    for level in LEVELS:
        errors = [np.linalg.norm(matrix - (left[:, :r] * values[:r]) @ right[:r]) / norm for r in range(len(values))]
        ranks = [r for r, error in enumerate(errors) if r and -20 * math.log10(error) >= level] or [len(values)]
        params = ranks[0] * sum(matrix.shape)
        one = needed(layer, "LowRank")[level]
        if params < matrix.size:
            assert (one.params, one.label) == (params, f"LowRank(rank={ranks[0]})")
            assert one.error == pytest.approx(errors[ranks[0]], rel=1e-6)
        else:
            assert one.params is None
            assert one.note == "no smaller network reaches it"


@pytest.mark.parametrize("family", ["TensorTrain", "TTMatrix"])
def test_networks_have_the_error_that_is_reported(layers, family):
    weight, layer = tensors()["fc.weight"], layers["fc"]
    reached = {level: one for level, one in needed(layer, family).items() if one.params is not None}
    assert {10.0} <= set(reached)
    found = smallest(weight, dtn.topologies.topology(family), LEVELS)
    for level, one in reached.items():
        net = found.reached[level].network
        assert net is not None
        assert net.topology is not None
        assert (net.num_params, dtn.topologies.describe(net.topology)) == (one.params, one.label)
        made = dtn.decompose(weight, net.topology, net.layout, sweeps=0)
        assert made.error == pytest.approx(one.error)
        assert -20 * math.log10(made.error) >= level
        assert net.num_params < weight.size


@pytest.mark.few(1)
@pytest.mark.parametrize("level", [5.0, 10.0, 15.0])
def test_no_size_for_all_bonds_is_much_smaller(level):
    weight, found = decaying(32, 64, 1.5), None
    found = smallest(weight, dtn.TensorTrain(), [level]).reached[level].network
    assert found is not None
    for layout in sizes.layouts_of(dtn.TensorTrain(), (32, 64)):
        for rank in range(1, 33):
            train = dtn.TensorTrain(rank=rank)
            if dtn.network(train, (32, 64), layout).num_params < found.num_params * (1 - sizes.PRECISION) - 1:
                assert dtn.decompose(weight, train, layout, sweeps=0).error > 10 ** (-level / 20)


def test_a_kronecker_product_is_a_ttmatrix_of_rank_1(layers):
    layer = layers["kron"]
    assert {one.params for one in needed(layer, "TTMatrix").values()} == {128}
    assert layer.network == dtn.network(dtn.TTMatrix(rank=1), (64, 64), dtn.TTMatrix().default_layout((64, 64)))
    assert (layer.narrower, layer.outputs) == (128 // 64, 64)
    assert layer.advice.startswith("A TTMatrix of rank 1 reaches 20 dB with 3.1% of the parameters")
    assert needed(layer, "LowRank")[20.0].params is None


def test_advice(layers):
    assert layers["flat"].advice == (
        "Flat spectrum: no smaller network reaches 20 dB; leave it dense or train a narrower layer."
    )
    assert layers["tiny"].advice == "No network of these families is smaller; leave it dense."
    assert layers["zero"].advice == "All entries are zero."
    assert layers["bad"].refused == "has entries that are not finite (nan or inf)"
    (some,) = inspect_model(StoredModel({}, {"a": tensors()["flat.weight"]}), levels=[5]).layers
    assert some.network is not None
    share = some.network.num_params / 32**2
    assert share > 0.5
    assert some.advice.startswith(f"Flat spectrum: 5 dB takes {share:.0%} of the parameters; leave it dense")


def test_times_are_those_of_choose(layers):
    layer = layers["fc"]
    choice = layer.network.choose(1)
    assert layer.seconds_after == choice.seconds[choice.mode]
    assert layer.way == choice.mode
    slower = layer.seconds_after / layer.seconds_before
    assert ("but a call takes" in layer.advice) == (slower > 1.2)
    assert layers["flat"].seconds_after is None
    large = inspect_model(StoredModel({}, tensors()), targets=["fc"], topologies=["LowRank"], batch=512).layers[0]
    assert large.seconds_before > layer.seconds_before


def test_an_embedding_is_looked_up():
    weight = decaying(16, 400, 2.0).T.astype("float32")
    (layer,) = inspect_model(StoredModel({}, {"embed.weight": weight}), topologies=["LowRank"]).layers
    net = layer.network
    assert net is not None
    assert (layer.kind, layer.way in ("gather", "materialize")) == ("embedding", True)
    assert (layer.narrower, layer.outputs) == (net.num_params // 400, 16)


def test_text_and_data(found):
    text = str(found)
    assert ["fc", "linear", "24", "×", "60", "1,440"] in [line.split()[:6] for line in text.splitlines()]
    assert "bad (4 × 6) has entries that are not finite (nan or inf)" in text
    assert text.count(" outputs  ") == sum(layer.network is not None for layer in found.layers)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["decibels"] == [10, 20, 40]
    (bad,) = (layer for layer in data["layers"] if layer["name"] == "bad")
    assert bad["refused"]
    fc = data["layers"][0]
    assert len(fc["spectrum"]) == 24
    assert fc["smallest"]["ratio"] == pytest.approx(24 * 60 / fc["smallest"]["params"])
    assert len(fc["needed"]) == 12


def test_levels_in_any_order_and_twice():
    model = StoredModel({}, {"fc.weight": tensors()["fc.weight"]})
    (layer,) = inspect_model(model, levels=(20, 10, 20), topologies=["TTMatrix"]).layers
    assert [one.decibels for one in layer.needed] == [20, 10, 20]
    assert layer.needed[0] == layer.needed[2]


def test_complex_and_half_precision():
    draw = np.random.default_rng(0)
    wave = np.exp(2j * np.pi * np.outer(np.arange(16), np.arange(16)) / 16)[:, :2] @ draw.standard_normal((2, 16))
    model = StoredModel({}, {"c": wave.astype("complex64"), "h": decaying(16, 16, 3.0).astype("float16")})
    for layer in inspect_model(model).layers:
        assert needed(layer, "LowRank")[10.0].params == (64 if layer.name == "c" else 32)
    (one,) = curve(1j * decaying(16, 16, 3.0), dtn.BrickWall(activation=None), None, (250,))
    assert one.error < 0.6  # a real network has an error of at least 1


@pytest.mark.slow
def test_processes_and_paths_change_nothing(found, tmp_path):
    save_checkpoint(StoredModel({}, tensors()), tmp_path / "m.safetensors")
    again = inspect_model(tmp_path / "m.safetensors", targets=["fc", "kron"], workers=2)
    few = {layer.name: layer for layer in found.layers}
    for layer in again.layers:
        assert layer.needed == few[layer.name].needed
        assert layer.network == few[layer.name].network


@pytest.mark.slow
def test_one_weight_at_a_time():
    alive: list[weakref.ref] = []

    def weight(name: str) -> Weight:
        def read():
            assert not any(ref() is not None for ref in alive)
            array = np.random.default_rng(0).standard_normal((16, 16)).astype("float32")
            alive.append(weakref.ref(array))
            return array

        return Weight((name,), "linear", (16, 16), "float32", read)

    class View:
        model = None

        def weights(self):
            return [weight(name) for name in "abc"]

        def entries(self):
            return {}

    assert len(inspect_model(View()).layers) == len(alive) == 3


def test_generated_and_tied_weights_are_listed_with_the_reason():
    net = dtn.network(dtn.LowRank(rank=2), (8, 8))
    model = StoredModel({"a": StoredLayer("linear", net, net.init(), None)}, {"b.weight": np.eye(8)})
    layers = {layer.name: layer for layer in inspect_model(model).layers}
    assert layers["a"].refused == "is already generated by LowRank(rank=2); fold it first"
    assert not layers["b"].refused
    torch = pytest.importorskip("torch")
    tied = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8, bias=False))
    tied[2].weight = tied[0].weight
    assert any("untie them" in layer.refused for layer in inspect_model(tied).layers)


@pytest.mark.slow
def test_families_without_a_closed_form_are_fitted():
    pytest.importorskip("torch")
    weight = tensors()["fc.weight"]
    (layer,) = inspect_model(StoredModel({}, {"fc.weight": weight}), topologies=["BrickWall"], levels=[4]).layers
    (one,) = layer.needed
    assert layer.network is not None
    assert (one.params, one.label) == (layer.network.num_params, dtn.topologies.describe(layer.network.topology))
    assert one.params is not None
    assert one.error is not None
    assert one.error <= 10 ** (-4 / 20)
    fits = curve(weight, dtn.BrickWall(), layer.network.layout, [one.params])
    assert fits[0].error == pytest.approx(one.error, rel=1e-3)


@pytest.mark.slow
def test_a_deep_family_is_tried_where_a_library_can_fit_it(monkeypatch):
    model = StoredModel({}, {"fc.weight": tensors()["fc.weight"]})
    assert inspect_model(model).families == ("LowRank", "TensorTrain", "TTMatrix", "BrickWall")
    monkeypatch.setattr(inspection, "can_fit", lambda: False)
    assert inspect_model(model).families == ("LowRank", "TensorTrain", "TTMatrix")


def test_fits_that_take_long_are_left_out(monkeypatch):
    monkeypatch.setattr(sizes, "PATIENCE", 1e-9)
    model = StoredModel({}, {"fc.weight": tensors()["fc.weight"]})
    found = inspect_model(model, topologies=["BrickWall"])
    assert {one.note for one in found.layers[0].needed} == {"too large for a short fit"}
    assert "? / ? / ?" in str(found)
    assert found.layers[0].advice == (
        "No network tried reaches 20 dB (a larger deep one would need a longer fit); "
        "leave it dense or train a narrower layer."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": (0,)}, r"levels = \(0,\); expected positive numbers of decibels"),
        ({"levels": ()}, "levels = "),
        ({"levels": 20}, "levels = 20"),
        ({"levels": (math.nan,)}, "levels = "),
        ({"batch": 0}, "batch must be at least 1"),
        ({"topologies": "LowRank"}, "topologies = 'LowRank'; expected a list"),
        ({"topologies": []}, "topologies is empty"),
        ({"topologies": ["LowRunk"]}, "did you mean 'LowRank'"),
        ({"targets": ["fx"]}, "targets: 'fx' matches none"),
        ({"targets": "fc"}, r"write \['fc'\]"),
        ({"ignore": ["*"]}, "every layer that targets selects is also in ignore"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(dtn.DeepTNError, match=message):
        inspect_model(StoredModel({}, tensors()), **arguments)


def test_models_without_weights():
    with pytest.raises(dtn.PlanError, match="no weight to inspect"):
        inspect_model(StoredModel({}, {"bias": np.ones(3), "ids": np.arange(4).reshape(2, 2)}))
    with pytest.raises(dtn.PlanError, match="got int"):
        inspect_model(3)
