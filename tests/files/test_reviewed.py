"""Test what a review found: replaced files, arrays that change, the checkpoint before, YAML that asks for much."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import deeptn as dtn
from deeptn.base import previous, write_atomically
from deeptn.files import StoredLayer, StoredModel, load_checkpoint
from deeptn.planning import Plan

NET = dtn.network(dtn.LowRank(rank=2), (6, 4))
LAYER = StoredLayer("linear", NET, NET.init(), None)


def put(path: Path, text: str) -> None:
    write_atomically(path, lambda new: new.write_text(text), keep=True)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    for number, file in enumerate(files):
        tensors = {f"t{number}{k}": np.full(3 + number, k, "float32") for k in range(4 + number)}
        dtn.save_model(StoredModel({"fc": LAYER}, tensors), file)
    path, contents, done = tmp_path / "m", [file.read_bytes() for file in files], threading.Event()
    path.write_bytes(contents[0])

    def replace() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            (tmp_path / "new").write_bytes(contents[turn % 2])
            os.replace(tmp_path / "new", path)
            done.wait(0.0005)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        found = [len(dtn.load_model(path).tensors) for _ in range(200)]
    finally:
        done.set()
        thread.join()
    assert set(found) == {4, 5}


def test_an_array_that_changes_while_it_is_saved(tmp_path):
    array, done = np.zeros(2**21, "float32"), threading.Event()

    def change() -> None:
        while not done.is_set():
            np.add(array, 1, out=array)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3):
            dtn.save_model(StoredModel({"fc": LAYER}, {"w": array}), tmp_path / "m")
            assert dtn.load_model(tmp_path / "m").tensors["w"].shape == array.shape
    finally:
        done.set()
        thread.join()


def test_the_file_before_is_beside_the_target_of_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    for text in ("one", "two", "three"):
        put(tmp_path / "link", text)
    assert (tmp_path / "link").is_symlink()
    assert previous(tmp_path / "link") == tmp_path / "disk" / "real.previous"
    assert previous(tmp_path / "link").read_text() == "two"
    assert sorted(file.name for file in (tmp_path / "disk").iterdir()) == ["real", "real.previous"]


def test_the_file_before_without_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    put(tmp_path / "c", "one")
    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: ((tmp_path / "c").read_text(), replaced(*names)))  # never missing
    put(tmp_path / "c", "two")
    assert [file.read_text() for file in sorted(tmp_path.iterdir())] == ["two", "one"]


@pytest.mark.parametrize("name", ["c", "x" * 250])
def test_if_the_file_before_cannot_be_kept_the_new_one_is_written(name, tmp_path):
    put(tmp_path / name, "one")
    if name == "c":
        previous(tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match="could not be kept"):
        put(tmp_path / name, "two")
    assert (tmp_path / name).read_text() == "two"
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]


@pytest.mark.slow
def test_a_table_of_tensors_that_is_too_long_is_not_written(tmp_path):
    tensors = {f"encoder.block.{k:06}.weight": np.zeros((4, 4), "float32") for k in range(44_000)}
    with pytest.raises(dtn.SpecError, match="files of deeptn have at most"):
        dtn.save_model(StoredModel({"fc": LAYER}, tensors), tmp_path / "m")


HEAD = "format: deeptn.plan\nversion: 1\nbudget: {params: 1}\nparams_before: 1\nparams_after: 1\n"
TEXTS = {
    "deep blocks": "x:\n " + "- " * 30_000 + "a",
    "deep lists": "x: " + "[" * 100_000,
    "many parts": "x: [" + "1," * 500_000 + "1]",
    "aliases": "a: &a [1]\nb: [*a, *a]",
    "a tag": "a: !!timestamp foo",
    "base 60": HEAD + "layers: {fc: {shape: [2, 2], error: " + "1:" * 300 + "1.0}}",
    "a long integer": "version: 0x" + "f" * 5000,
    "a long plan": "x" * 2**21,
}


@pytest.mark.parametrize("name", TEXTS)
def test_yaml_that_asks_for_much(name, tmp_path):
    (tmp_path / "p.yaml").write_text(TEXTS[name])
    with pytest.raises(dtn.FormatError):
        Plan.load(tmp_path / "p.yaml")


def test_an_error_in_scientific_notation():
    layer = "layers: {fc: {shape: [4, 4], topology: {name: LowRank, rank: 1}, error: 1e-3}}"
    assert Plan.from_yaml(HEAD + layer).layers["fc"].error == 1e-3


def test_looking_for_a_name_reads_nothing(tmp_path):
    dtn.save_model(StoredModel({"fc": LAYER}, {"w": np.ones(2**10, "float32")}), tmp_path / "m.safetensors")
    content = bytearray((tmp_path / "m.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(content)
    tensors = load_checkpoint(tmp_path / "m.safetensors").tensors
    assert "w" in tensors
    assert "v" not in tensors.keys()  # noqa: SIM118
    with pytest.raises(dtn.FormatError, match="is damaged"):
        tensors["w"]


def test_names_that_are_texts_of_numpy(tmp_path):
    shared = np.ones(3, "float32")
    dtn.save_model(StoredModel({"fc": LAYER}, {np.str_("a"): shared, np.str_("b"): shared}), tmp_path / "m")
    assert list(dtn.load_model(tmp_path / "m").tensors) == ["a", "b"]


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "m.npz", w=np.arange(1000.0))
    content = (tmp_path / "m.npz").read_bytes()
    for place in range(60, len(content) - 100, 97):
        (tmp_path / "m.npz").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            load_checkpoint(tmp_path / "m.npz")
        except dtn.FormatError:
            continue


def test_a_bias_of_a_weight_with_one_axis(tmp_path):
    vector = dtn.network(dtn.TensorTrain(rank=1), (8,))
    layer = StoredLayer("conv_transpose1d", vector, vector.init(), np.zeros(8, "float32"))
    dtn.save_model(StoredModel({"fc": layer}, {}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match="a bias of"):
        dtn.load_model(tmp_path / "m")
