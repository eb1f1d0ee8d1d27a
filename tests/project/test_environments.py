"""Install the wheel into fresh environments with one extra each, and check that the promised features work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import deeptn_torch
import numpy as np
import pytest
import torch
from deeptn_torch import TNLinear
from torch import nn

import deeptn as dtn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SEED = 3

#: Optional packages, and which of them each extra installs.
OPTIONAL = ("torch", "jax", "optax", "equinox", "flax", "matplotlib", "onnx", "tensornetwork", "sklearn")
PROMISED = {"core": (), "torch": ("torch",), "jax": ("jax", "optax"), "all": OPTIONAL}

#: The start of every script, which gets the folder of the fixture `files` and has its own working directory.
PRELUDE = """
import sys
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import deeptn as dtn

files = Path(sys.argv[1])
answers = np.load(files / "answers.npz")

def check(found, expected, tolerance=1e-6):
    found = np.asarray(found)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    assert error <= tolerance, error
"""

#: Reads networks of every dtype, and compares their outputs with those of the environment that wrote them.
READ = """
library = sys.argv[2]
if library == "torch":
    import torch
    array, widen = torch.from_numpy, lambda entry: entry.float()
elif library == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
    array, widen = jax.numpy.asarray, lambda entry: entry.astype("float32")
else:
    array = widen = np.asarray
for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 1e-5), ("complex128", 1e-6)):
    net, params = dtn.load(files / f"{dtype}.safetensors", like=library)
    half = dtype == "bfloat16"
    expected = "float32" if half and library == "numpy" else dtype
    assert {str(entry.dtype).rpartition(".")[2] for entry in params.values()} == {expected}
    params = {name: widen(entry) if half else entry for name, entry in params.items()}
    check(net.apply(params, array(answers[f"{dtype}.x"])), answers[f"{dtype}.y"], tolerance)
"""


@dataclass
class Environment:
    """A virtual environment."""

    name: str
    folder: Path

    def run(self, command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command from the environment, without the source tree on its path."""
        program = self.folder / ("Scripts" if sys.platform == "win32" else "bin") / command
        return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600)

    def python(self, code: str, *arguments: object, cwd: Path) -> str:
        """Run a script that must succeed; return what it prints."""
        done = self.run("python", "-I", "-c", code, *map(str, arguments), cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def error(self, code: str, cwd: Path) -> str:
        """Run a script that must fail; return the last line of the traceback."""
        done = self.run("python", "-I", "-c", code, cwd=cwd)
        assert done.returncode != 0, done.stdout
        return done.stderr.strip().splitlines()[-1]

    def imported(self, module: str, cwd: Path) -> set[str]:
        """Return the packages that are loaded after an import."""
        names = self.python(f"import sys, {module}; print(' '.join(sys.modules))", cwd=cwd)
        return {name.partition(".")[0] for name in names.split()}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def env(request, wheel, tmp_path_factory) -> Iterator[Environment]:
    """Create the environment of an extra; it is removed before the next one, because the largest takes gigabytes."""
    folder = tmp_path_factory.mktemp(request.param)
    made = Environment(request.param, folder / "venv")
    subprocess.run([sys.executable, "-m", "venv", str(made.folder)], check=True, capture_output=True)
    what = str(wheel) if made.name == "core" else f"{wheel}[{made.name}]"
    for arguments in (["install", "-q", "--no-compile", "-c", str(ROOT / "constraints.txt"), what], ["check"]):
        done = made.run("python", "-m", "pip", *arguments, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    yield made
    shutil.rmtree(folder)


def within(*names: str) -> pytest.MarkDecorator:
    """Run a test in these environments."""
    return pytest.mark.parametrize("env", names, indirect=True)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = TNLinear(20, 12, dtn.BrickWall(layers=2))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(torch.relu(self.fc(x)))


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Write networks and models, and the outputs that this environment computes with them."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((5, 20)).astype("float32")
    answers: dict[str, np.ndarray] = {"x": x}
    chain = dtn.TTMatrix(rank=3)
    families = {"float32": dtn.BrickWall(layers=2), "bfloat16": chain, "complex128": chain}
    for dtype, family in families.items():
        net = dtn.network(family, (12, 20))
        params = net.init(SEED, like="torch", dtype=dtype)
        dtn.save(folder / f"{dtype}.safetensors", net, params)
        given = x + 1j * rng.standard_normal(x.shape) if dtype == "complex128" else x
        wide = {name: array.float() if dtype == "bfloat16" else array for name, array in params.items()}
        answers |= {f"{dtype}.x": given, f"{dtype}.y": net.apply(wide, torch.from_numpy(given)).numpy()}
    model = Small().eval()
    deeptn_torch.save_model(model, folder / "model.safetensors")
    half = nn.ModuleDict({"fc": TNLinear(20, 12, "TTMatrix", dtype=torch.bfloat16), "head": nn.Linear(12, 4)})
    deeptn_torch.save_model(half, folder / "half.safetensors")
    with torch.no_grad():
        answers |= {"fc": model.fc(torch.from_numpy(x)).numpy(), "model": model(torch.from_numpy(x)).numpy()}
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)
    return folder


@within(*PROMISED)
def test_an_extra_brings_what_it_names_and_no_more(env, tmp_path):
    code = f"from importlib.util import find_spec; print(*(name for name in {OPTIONAL} if find_spec(name)))"
    assert tuple(env.python(code, cwd=tmp_path).split()) == PROMISED[env.name]
    where = env.python("import deeptn; print(deeptn.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(env.folder)


@within(*PROMISED)
def test_an_import_loads_no_more_than_its_own_framework(env, tmp_path):
    heavy = {"torch", "jax", "quimb", "equinox", "flax", "matplotlib", "numba", "tensornetwork", "onnx"}
    assert not heavy & env.imported("deeptn", tmp_path)
    for framework in {"torch", "jax"} & set(PROMISED[env.name]):
        assert heavy & env.imported(f"deeptn_{framework}", tmp_path) == {framework}


@within(*PROMISED)
def test_files_are_read(env, files, tmp_path):
    libraries: Sequence[str] = ["numpy", *({"torch", "jax"} & set(PROMISED[env.name]))]
    for library in libraries:
        env.python(PRELUDE + READ, files, library, cwd=tmp_path)


@within("core")
def test_core_reads_models_and_writes_files_again(env, files, tmp_path):
    code = """
layer = dtn.load_model(files / "model.safetensors").layers["fc"]
assert layer.kind == "linear"
check(layer.network.apply(layer.params, answers["x"]) + layer.bias, answers["fc"])
for name in ("float32", "complex128"):
    dtn.save("again", *dtn.load(files / f"{name}.safetensors"))
    assert Path("again").read_bytes() == (files / f"{name}.safetensors").read_bytes(), name
for name in ("model", "half"):  # bfloat16 too
    dtn.save_model(dtn.load_model(files / f"{name}.safetensors"), "again")
    assert Path("again").read_bytes() == (files / f"{name}.safetensors").read_bytes(), name
"""
    env.python(PRELUDE + code, files, cwd=tmp_path)


@within("core", "torch", "jax")
def test_a_missing_framework_is_named(env, tmp_path):
    for framework in {"torch", "jax"} - set(PROMISED[env.name]):
        init = f"import deeptn as dtn; dtn.network('BrickWall', (8, 8)).init(like={framework!r})"
        message = env.error(init, tmp_path)
        assert message.startswith("deeptn.errors.MissingBackendError")
        assert f"pip install 'deeptn[{framework}]'" in message
        message = env.error(f"import deeptn_{framework}", tmp_path)
        assert message.startswith(("ModuleNotFoundError", "deeptn.errors.MissingBackendError"))
        assert repr(framework) in message


@within("core", "all")
def test_commands(env, tmp_path):
    shown = env.run("deeptn", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert {"demo", "draw"} <= set(shown.stdout.split())
    command = ["draw", "brickwall", "--shape", "16,16", "--layers", "2", "-o", "net.svg"]
    drawn = env.run("deeptn", *command, cwd=tmp_path)
    if env.name == "all":
        assert drawn.returncode == 0, drawn.stderr
        assert "<svg" in (tmp_path / "net.svg").read_text()
    else:
        assert drawn.returncode == 1
        assert "'matplotlib'" in drawn.stderr
        assert "pip install" in drawn.stderr
        assert len(drawn.stderr.splitlines()) == 1
        demo = env.run("deeptn", "demo", cwd=tmp_path)
        assert demo.returncode == 1
        assert "'torch'" in demo.stderr
        assert "pip install 'deeptn[demo]'" in demo.stderr
        assert not list(tmp_path.iterdir())


@within("torch")
def test_torch_trains(env, files, tmp_path):
    code = """
import torch
from deeptn_torch import TNLinear, load_model
torch.manual_seed(0)
layer = TNLinear(20, 12, dtn.BrickWall(layers=2))
x, y = torch.randn(64, 20), torch.randn(64, 12)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
before = torch.nn.functional.mse_loss(layer(x), y)
before.backward()
optimizer.step()
with torch.no_grad():
    assert torch.nn.functional.mse_loss(layer(x), y) < before

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = torch.nn.Linear(20, 12), torch.nn.Linear(12, 4)

    def forward(self, x):
        return self.head(torch.relu(self.fc(x)))

with torch.no_grad():
    model = load_model(Small(), files / "model.safetensors")
    check(model(torch.from_numpy(answers["x"])), answers["model"])
assert "jax" not in sys.modules
"""
    env.python(PRELUDE + code, files, cwd=tmp_path)


@within("jax")
def test_jax_trains(env, files, tmp_path):
    code = """
import deeptn_jax
import jax
import optax
net = dtn.network(dtn.BrickWall(layers=2), (12, 20))
keys = jax.random.split(jax.random.key(0), 3)
params = deeptn_jax.init(net, keys[0])
x, y = jax.random.normal(keys[1], (64, 20)), jax.random.normal(keys[2], (64, 12))
loss = jax.jit(jax.value_and_grad(lambda params: ((deeptn_jax.apply(net, params, x) - y) ** 2).mean()))
optimizer = optax.sgd(0.01)
before, gradient = loss(params)
updates, _ = optimizer.update(gradient, optimizer.init(params), params)
assert loss(optax.apply_updates(params, updates))[0] < before
layer = dtn.load_model(files / "model.safetensors").layers["fc"]
cores = {name: jax.numpy.asarray(core) for name, core in layer.params.items()}
check(deeptn_jax.apply(layer.network, cores, jax.numpy.asarray(answers["x"])) + layer.bias, answers["fc"])
assert not {"torch", "equinox", "flax"} & set(sys.modules)
"""
    env.python(PRELUDE + code, files, cwd=tmp_path)


@within("all")
def test_torch_writes_and_jax_reads(env, files, tmp_path):
    write = """
import torch
from deeptn_torch import TNLinear, save_model
torch.manual_seed(0)
model = torch.nn.Sequential(TNLinear(20, 12, dtn.BrickWall(layers=2)), torch.nn.ReLU(), torch.nn.Linear(12, 4))
save_model(model, "model.safetensors")
with torch.no_grad():
    np.save("y.npy", model(torch.from_numpy(answers["x"])).numpy())
assert "jax" not in sys.modules
"""
    read = """
import equinox as eqx
import jax
from deeptn_jax import equinox as tne, nnx as tnx
from flax import nnx
x, y = jax.numpy.asarray(answers["x"]), np.load("y.npy")
keys = jax.random.split(jax.random.key(0))
dense = eqx.nn.Sequential(
    [eqx.nn.Linear(20, 12, key=keys[0]), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(12, 4, key=keys[1])]
)
model = tne.load_model(dense, "model.safetensors", names={"0": "layers.0", "2": "layers.2"})
assert isinstance(model.layers[0], tne.TNLinear)
check(jax.vmap(model)(x), y)

class Small(nnx.Module):
    def __init__(self, rngs):
        self.fc, self.head = nnx.Linear(20, 12, rngs=rngs), nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.fc(x)))

model = tnx.load_model(Small(nnx.Rngs(0)), "model.safetensors", names={"0": "fc", "2": "head"})
assert isinstance(model.fc, tnx.TNLinear)
check(model(x), y)
check(tnx.load_model(Small(nnx.Rngs(0)), files / "model.safetensors")(x), answers["model"])
assert "torch" not in sys.modules
"""
    env.python(PRELUDE + write, files, cwd=tmp_path)
    env.python(PRELUDE + read, files, cwd=tmp_path)
