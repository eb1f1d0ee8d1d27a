"""Test files as models: compress, fold and load without model code."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn import models
from deeptn.files import StoredModel, load_checkpoint, save_checkpoint
from deeptn.testing import check_model_view


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype("float32")

    table = normal(12, 6)
    return {
        "word_embeddings.weight": table,
        "fc.weight": normal(8, 6),
        "fc.bias": normal(8),
        "twin.weight": normal(8, 6),
        "twin.bias": normal(8),
        "half.weight": normal(6, 8).astype("float16"),
        "conv.weight": normal(4, 2, 3, 3),
        "norm.weight": normal(6),
        "norm.running_mean": normal(6),
        "norm.num_batches_tracked": np.array(3),
        "rnn.weight_ih_l0": normal(8, 6),
        "decoder.weight": table,
        "positions": np.arange(12).reshape(1, 12),
    }


def test_a_file_keeps_the_laws_of_models():
    check_model_view(lambda: models.StoredView(StoredModel({}, tensors())))


def test_what_a_file_shows():
    view = models.StoredView(StoredModel({}, tensors()))
    assert [(weight.names, weight.kind, weight.bias) for weight in view.weights()] == [
        (("word_embeddings", "decoder"), "embedding", False),
        (("fc",), "linear", True),
        (("twin",), "linear", True),
        (("half",), "linear", False),
        (("conv",), "conv2d", False),
        (("rnn.weight_ih_l0",), "weight", False),
    ]
    trained = [name for name, entry in view.entries().items() if not entry.trained]
    assert trained == ["norm.running_mean", "norm.num_batches_tracked", "positions"]
    assert models.count(view) == 12 * 6 + 2 * 8 * 7 + 48 + 72 + 6 + 48


def test_a_compressed_file_becomes_dense_again(tmp_path):
    source = tensors()
    view = models.StoredView(StoredModel({}, source))
    _, report = models.compress(view, {"*": dtn.LowRank(rank=6)}, ignore=["conv"])
    assert [layer.name for layer in report.layers] == ["word_embeddings", "fc", "twin", "half", "rnn.weight_ih_l0"]
    models.save_model(view, tmp_path / "small.safetensors")
    back = models.StoredView(load_checkpoint(tmp_path / "small.safetensors"))
    assert ("word_embeddings", "decoder") in [weight.names for weight in back.weights()]
    assert models.count(back) == models.count(view) == report.model_after
    models.fold(back)
    save_checkpoint(back.model, tmp_path / "back.safetensors")
    found = load_checkpoint(tmp_path / "back.safetensors").tensors
    assert found.keys() == source.keys()
    for name, array in source.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(found[name], array, atol=2e-3 if name == "half.weight" else 1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt", "shards", "folder"])
def test_every_format_is_read(tmp_path, kind):
    source = tensors()
    if kind == "safetensors":
        path = tmp_path / "m.safetensors"
        save_checkpoint(StoredModel({}, source), path)
    elif kind == "npz":
        path = tmp_path / "m.npz"
        np.savez(path, allow_pickle=False, **source)
    elif kind == "pt":
        torch = pytest.importorskip("torch")
        path = tmp_path / "m.pt"
        state = {name: torch.as_tensor(array) for name, array in source.items()}
        state["decoder.weight"] = state["word_embeddings.weight"]
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        write_shards(source, tmp_path)
        path = tmp_path if kind == "folder" else tmp_path / "model.safetensors.index.json"
    found = load_checkpoint(path).tensors
    assert set(found) == set(source)
    for name, array in source.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    tied = kind == "pt"  # the other formats store an array under each of its names
    assert len(models.StoredView(StoredModel({}, dict(found))).weights()) == (6 if tied else 7)


def write_shards(source, folder):
    import json

    names, files = list(source), {}
    for number in range(3):
        part = f"model-{number + 1}.safetensors"
        chosen = names[number::3]
        save_checkpoint(StoredModel({}, {name: source[name] for name in chosen}), folder / part)
        files |= dict.fromkeys(chosen, part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_networks_with_activations_are_fitted_by_an_installed_library():
    pytest.importorskip("torch")
    view = models.StoredView(StoredModel({}, tensors()))
    how = dtn.fitting.Fit(steps=20)
    _, report = models.compress(view, {"fc": dtn.Tree(rank=2, activation="relu")}, fit=how)
    assert report.layers[0].error < 1
    assert all(isinstance(core, np.ndarray) for core in view.model.layers["fc"].params.values())


def test_torch_fits_if_several_libraries_could(monkeypatch):
    tried = []

    class Missing:
        def __init__(self, name):
            self.name, self.value = name, f"deeptn_{name}.fit:fit"

        def load(self):
            tried.append(self.name)
            raise ImportError(self.name, name=self.name)

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Missing("jax"), Missing("torch")])
    with pytest.raises(dtn.MissingBackendError, match=r"deeptn\[torch\]"):
        models.fit_arrays(dtn.network(dtn.BrickWall(layers=2), (4, 4)), np.eye(4))
    assert tried == ["torch", "jax"]


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "m.npz").write_bytes(b"nothing")
    (tmp_path / "m.pt").write_bytes(b"nothing")
    (tmp_path / "m.safetensors").write_bytes(b"nothing")
    (tmp_path / "m.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    np.savez(tmp_path / "objects.npz", a=np.array([None], dtype=object))
    for name in ("m.npz", "m.pt", "m.safetensors", "m.index.json", "objects.npz"):
        with pytest.raises(dtn.FormatError, match=name.replace(".", r"\.")):
            load_checkpoint(tmp_path / name)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(dtn.FormatError, match=r"expected a file that ends in \.safetensors"):
        load_checkpoint(tmp_path / "m.txt")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_checkpoint(tmp_path / "other.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(dtn.FormatError, match=r"contains none of model\.safetensors"):
        load_checkpoint(tmp_path / "empty")


def test_a_module_reads_a_compressed_file_whatever_was_guessed(tmp_path):
    torch, deeptn_torch = pytest.importorskip("torch"), pytest.importorskip("deeptn_torch")
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(12, 6), "fc": torch.nn.Linear(6, 8)})
    torch.save(model.state_dict(), tmp_path / "m.pt")
    view = models.StoredView(load_checkpoint(tmp_path / "m.pt"))
    models.compress(view, {"*": dtn.LowRank(rank=6)})
    models.save_model(view, tmp_path / "small.safetensors")
    read = deeptn_torch.load_model(model, tmp_path / "small.safetensors")
    assert type(read["table"]).__name__ == "TNEmbedding"
    assert torch.allclose(read["fc"].weight, model["fc"].weight, atol=1e-5)
