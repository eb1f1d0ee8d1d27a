"""``deeptn compress --model``: the model's own code, data, healing, scores, a search, and the page."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from deeptn_torch import load_model, train

import deeptn as dtn
from deeptn.cli import main
from deeptn.models import count, view_of
from deeptn.recipe import HEALING, Recipe

CODE = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(0)
x = torch.randn(512, 16, generator=generator)
y = (x[:, :4] @ torch.randn(4, 3, generator=generator)).argmax(1)
number = 3

def make():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

def data():
    return x[:384], y[:384]

def validation():
    return x[384:], y[384:]

def score(model):
    assert not model.training and not torch.is_grad_enabled()
    return 100 * float((model(x[384:]).argmax(1) == y[384:]).float().mean())

def nothing(model):
    return float("nan")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a trained checkpoint, the code of the model, and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(CODE)
    mine = importlib.import_module("mine")
    torch.manual_seed(0)
    model = mine.make()
    train(model, mine.data(), Recipe(epochs=10, lr=0.01, batch=64))
    torch.save(model.state_dict(), "m.pt")
    (tmp_path / "recipe.yaml").write_text("epochs: 4\nlr: 0.003\ncore_lr: 0.02\nbatch: 64\n")
    yield tmp_path
    sys.modules.pop("mine", None)


OUT = ("-o", "s.safetensors", "--jobs", "1")
ALL = (
    *("--model", "mine:make", "--data", "mine:data", "--validation", "mine:validation"),
    *("--evaluate", "mine:score", "--heal", "recipe.yaml"),
)


@pytest.mark.slow
def test_everything_at_once(folder, capsys):
    arguments = ["compress", "m.pt", "--budget", "50%", *OUT, *ALL]
    assert main([*arguments, "--report", "page.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"before", "compressed", "healed"}
    mine = importlib.import_module("mine")
    model = load_model(mine.make(), folder / "s.safetensors").eval()
    with torch.no_grad():
        assert mine.score(model) == pytest.approx(found["scores"]["healed"])
    assert count(view_of(model)) == found["model_after"] <= 0.5 * found["model_before"]
    assert all(layer["held_out_error"] is not None for layer in found["layers"])
    page = (folder / "page.html").read_text()
    for heading in ("Beside other networks", "Healing", "Spectra"):
        assert f"<h2>{heading}</h2>" in page
    assert "m.pt, compressed" in page
    written = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert written == {"mine.py", "m.pt", "recipe.yaml", "s.safetensors", "page.html"}


def test_text_says_the_scores(folder, capsys):
    arguments = ["compress", "m.pt", "--budget", "50%", *OUT, *ALL[:-2]]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "score before " in printed.out
    assert "compressed " in printed.out
    assert "healed" not in printed.out


@pytest.mark.slow
def test_healing_is_that_of_python(folder):
    assert main(["compress", "m.pt", "--budget", "50%", *OUT, *ALL, "--seed", "3", "--quiet"]) == 0
    from deeptn_torch import calibrate, compress, heal

    mine = importlib.import_module("mine")
    model = mine.make()
    model.load_state_dict(torch.load("m.pt"))
    small, _ = compress(
        model, dtn.plan(model, {"params": "50%"}, seed=3), calibration=calibrate(model, mine.data(), mine.validation())
    )
    recipe = replace(HEALING, epochs=4, lr=0.003, core_lr=0.02, batch=64)
    heal(small, model, mine.data(), recipe, 3, validation=mine.validation())
    found = load_model(mine.make(), "s.safetensors")
    for name, one in small.state_dict().items():
        assert torch.equal(one, found.state_dict()[name]), name


def test_a_drop_of_the_score(folder, capsys):
    arguments = ["compress", "m.pt", "--budget", "drop=20", *OUT, *ALL, "--report", "page.html"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "largest drop 20" in printed
    assert "smallest" in printed
    assert "<h2>The search</h2>" in (folder / "page.html").read_text()
    assert not (folder / "s.safetensors.work").exists()


def test_a_search_over_families(folder, capsys):
    pytest.importorskip("optuna")
    arguments = ["compress", "m.pt", "--budget", "drop=20", *OUT, *ALL[:-2], "--each", "--topologies"]
    assert main([*arguments, "LowRank,TTMatrix"]) == 0
    printed = capsys.readouterr().out
    assert "topologies" in printed
    for name in ("LowRank", "TTMatrix"):
        assert name in printed


def test_a_page_without_code(folder, capsys):
    assert main(["compress", "m.pt", "--budget", "50%", *OUT, "--report", "page.html"]) == 0
    page = (folder / "page.html").read_text()
    assert "No score was measured" in page
    assert "<h2>Spectra</h2>" in page
    assert "page.html" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_of_equinox(folder, capsys):
    import equinox as eqx
    import jax
    from deeptn_jax.equinox import compress, load_model, save_model

    code = """
    import equinox as eqx, jax, numpy as np
    def make():
        return eqx.nn.MLP(8, 2, 16, 1, key=jax.random.key(0))
    def data():
        return np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    def score(model):
        return -float(((jax.vmap(model)(data()) - jax.vmap(make())(data())) ** 2).mean())
    """
    (folder / "mine.py").write_text(textwrap.dedent(code))
    sys.modules.pop("mine", None)
    model = eqx.nn.MLP(8, 2, 16, 1, key=jax.random.key(0))
    wide, _ = compress(model, {"layers.1": dtn.LowRank(rank=2)})
    save_model(wide, folder / "m.safetensors")
    arguments = [
        "compress",
        "m.safetensors",
        "--budget",
        "60%",
        "--targets",
        "layers.0",
        *OUT,
    ]
    arguments += ["--model", "mine:make", "--data", "mine:data", "--evaluate", "mine:score", "--heal", "recipe.yaml"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in found["layers"]] == ["layers.0"]
    assert found["scores"]["healed"] != found["scores"]["compressed"]
    small = load_model(model, folder / "s.safetensors")
    assert count(view_of(small)) == found["model_after"]


WRONG = {
    "no model": (["--data", "mine:data"], "--data needs the code of the model; add --model package:function"),
    "no name": (["--model", "mine"], "write package:function"),
    "no package": (["--model", "min:make"], "No module named 'min'"),
    "near": (["--model", "mine:mak"], "did you mean 'make'?"),
    "no function": (["--model", "mine:number"], "is a int; expected a function"),
    "heal": (["--model", "mine:make", "--heal", "default"], "--heal needs data"),
    "no recipe": (
        ["--model", "mine:make", "--data", "mine:data", "--heal", "x.yaml"],
        "no file 'x.yaml' with a recipe",
    ),
    "key": (["--model", "mine:make", "--data", "mine:data", "--heal", "wrong.yaml"], "did you mean 'epochs'?"),
    "value": (["--model", "mine:make", "--data", "mine:data", "--heal", "text.yaml"], "Recipe.lr = 'fast'"),
    "list": (["--model", "mine:make", "--data", "mine:data", "--heal", "list.yaml"], "must be a table"),
    "report": (["--report", "x.pdf"], "ends in .html"),
    "folder": (["--report", "nowhere/x.html"], "no directory 'nowhere'"),
    "score": (["--model", "mine:make", "--evaluate", "mine:nothing"], "must return a finite number"),
    "another model": (["--model", "mine:nn.ReLU"], "do not fit the model"),
}


@pytest.mark.few(5)
@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(options, message, folder, capsys):
    (folder / "wrong.yaml").write_text("epoch: 3")
    (folder / "text.yaml").write_text("lr: fast")
    (folder / "list.yaml").write_text("- 1")
    before = {path.name for path in folder.iterdir()}
    assert main(["compress", "m.pt", "--budget", "50%", *OUT, *options]) == 1
    assert message in capsys.readouterr().err
    after = {path.name for path in folder.iterdir()} - {"s.safetensors.work", "__pycache__"}
    assert after == before - {"__pycache__"}


DROPS = {
    "no score": (["drop=1"], [], "needs a score; add --model and --evaluate"),
    "two limits": (["drop=1", "5%"], ALL, "is searched for alone"),
    "no search": (["5%"], [*ALL, "--each"], "--each is for a search"),
    "text": (["drop=much"], ALL, "write a number, for example drop=1.0"),
    "negative": (["drop=-1"], ALL, "the drop must be a number of at least 0"),
}


@pytest.mark.parametrize(("limits", "options", "message"), DROPS.values(), ids=DROPS)
def test_wrong_drops(limits, options, message, folder, capsys):
    budget = [part for limit in limits for part in ("--budget", limit)]
    assert main(["compress", "m.pt", *budget, *OUT, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "s.safetensors").exists()
