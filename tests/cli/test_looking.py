"""Test ``deeptn inspect`` and ``deeptn compare``."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredModel, save_checkpoint


def strictly(text: str):
    """Parse JSON that has no NaN and no Infinity."""

    def refuse(literal: str):
        raise AssertionError(literal)

    return json.loads(text, parse_constant=refuse)


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((32, 3)), draw.standard_normal((3, 48))
    found = {
        "fc1.weight": left @ right,
        "head.weight": draw.standard_normal((8, 32)),
        "bad.weight": np.full((4, 4), np.inf),
    }
    return {name: array.astype("float32") for name, array in found.items()}


@pytest.fixture(params=["m.npz", "m.safetensors"])
def path(request, tmp_path):
    if request.param == "m.npz":
        np.savez(tmp_path / request.param, **tensors())  # pyright: ignore[reportArgumentType]
    else:
        save_checkpoint(StoredModel({}, tensors()), tmp_path / request.param)
    return str(tmp_path / request.param)


@pytest.mark.few(1)
def test_inspect_prints_a_table_and_sentences(path, capsys):
    assert main(["inspect", path, "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert any(line.split()[:2] == ["fc1", "linear"] and "16% / 16% / 16%" in line for line in lines)
    assert any(line.startswith("fc1: A LowRank of rank 3 reaches 20 dB with 16% of the parameters") for line in lines)
    assert "bad (4 × 4) has entries that are not finite (nan or inf)" in lines


def test_inspect_prints_one_json_document(path, capsys):
    options = ["--json", "--ignore", "head", "--topologies", "LowRank", "--batch", "8"]
    assert main(["inspect", path, *options]) == 0
    data = strictly(capsys.readouterr().out)
    assert (data["batch"], data["families"], data["params"]) == (8, ["LowRank"], 32 * 48 + 8 * 32 + 16)
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert set(layers) == {"fc1", "bad"}
    values = np.linalg.svd(tensors()["fc1.weight"].astype(float), compute_uv=False)
    np.testing.assert_allclose(layers["fc1"]["spectrum"], values / np.linalg.norm(values), atol=1e-9)
    found = dtn.planning.inspect_model(path, ignore=["head"], topologies=["LowRank"], batch=8).to_dict()
    assert data == json.loads(json.dumps(found))


@pytest.mark.few(4)
@pytest.mark.parametrize("layer", ["fc1", "fc1.weight"])
@pytest.mark.parametrize(("params", "most"), [("240", 240), ("20%", 307), ("1_000", 1000)])
def test_compare_is_that_of_the_library(path, capsys, layer, params, most):
    expected = dtn.compare(tensors()["fc1.weight"], ["LowRank", "TTMatrix"], most)
    arguments = ["compare", path, "--layer", layer, "--params", params, "--topologies", "LowRank,TTMatrix"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"fc1: {expected}\n"
    assert main([*arguments, "--json"]) == 0
    data = strictly(capsys.readouterr().out)
    assert data["layer"] == "fc1"
    assert (data["budget"], data["params"]) == (most, 32 * 48)
    assert [row["error"] for row in data["rows"]] == [row.error for row in expected.rows]
    assert [row["ratio"] for row in data["rows"]] == [32 * 48 / (row.params or 1) for row in expected.rows]


@pytest.mark.few(1)
def test_compare_fits_families_without_a_closed_form(path, capsys):
    pytest.importorskip("torch")
    arguments = ["compare", path, "--layer", "head", "--params", "40%", "--topologies", "BrickWall", "--json"]
    assert main(arguments) == 0
    (row,) = strictly(capsys.readouterr().out)["rows"]
    assert row["label"].startswith("BrickWall")
    assert row["params"] <= 0.4 * 8 * 32
    assert 0 < row["error"] < 1
    assert row["cost"]["params"] == row["params"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "OUT/none.npz"], "no file"),
        (["inspect", "MODEL", "--targets", "fcl"], "did you mean 'fc1'"),
        (["inspect", "MODEL", "--topologies", "LowRunk", "--json"], "did you mean 'LowRank'"),
        (["inspect", "MODEL", "--batch", "0"], "batch must be at least 1"),
        (["compare", "MODEL", "--layer", "fcl.weight", "--params", "200", "--json"], "did you mean 'fc1'"),
        (["compare", "MODEL", "--layer", "fc1", "--params", "many"], "'params' is 'many'"),
        (["compare", "MODEL", "--layer", "fc1", "--params", "200%"], "'params' is '200%'"),
        (["compare", "MODEL", "--layer", "fc1", "--params", "9", "--topologies", "Tuker"], "did you mean 'Tucker'"),
        (
            ["compare", "MODEL", "--layer", "bad", "--params", "9"],
            "layer 'bad': weight has entries that are not finite",
        ),
    ],
)
def test_wrong_input(path, tmp_path, capsys, arguments, message):
    assert main([word.replace("MODEL", path).replace("OUT", str(tmp_path)) for word in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_missing_arguments(path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", path, "--layer", "fc1"])
    assert "--params" in capsys.readouterr().err
