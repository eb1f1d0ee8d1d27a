"""LeNet-5 in Equinox and Flax NNX, for ``healed.py``: what PyTorch has compressed, loaded and healed there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from deeptn_torch import save_model
from flax import nnx
from safetensors.torch import save_file

from deeptn.files import load_checkpoint
from deeptn.models import from_stored, view_of


class EquinoxLeNet(eqx.Module):
    """`deeptn_demo.networks.ConvNet("lenet5")`, with the same names."""

    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    fc3: eqx.nn.Linear
    pool: eqx.nn.MaxPool2d

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 5)
        self.conv1 = eqx.nn.Conv2d(1, 6, 5, padding=2, key=keys[0])
        self.conv2 = eqx.nn.Conv2d(6, 16, 5, key=keys[1])
        self.fc1, self.fc2, self.fc3 = (
            eqx.nn.Linear(a, b, key=k) for a, b, k in zip((400, 120, 84), (120, 84, 10), keys[2:])
        )
        self.pool = eqx.nn.MaxPool2d(2, 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pool(jax.nn.relu(self.conv1(x)))
        x = self.pool(jax.nn.relu(self.conv2(x))).reshape(-1)
        return self.fc3(jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x)))))


class NNXLeNet(nnx.Module):
    """The same in Flax NNX, whose convolutions have channels last."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 6, (5, 5), padding=2, rngs=rngs)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(400, 120, rngs=rngs), nnx.Linear(120, 84, rngs=rngs)
        self.fc3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.transpose(0, 2, 3, 1)
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2)).transpose(0, 3, 1, 2).reshape(len(x), -1)
        return self.fc3(nnx.relu(self.fc2(nnx.relu(self.fc1(x)))))


LIBRARIES: dict[str, tuple[Any, Callable[[], Any]]] = {
    "Equinox": (tne, lambda: EquinoxLeNet(jax.random.key(0))),
    "NNX": (tnx, lambda: NNXLeNet(nnx.Rngs(0))),
}


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Return the accuracy in percent."""
    batched = model if isinstance(model, nnx.Module) else jax.vmap(model)
    outputs = [batched(jnp.asarray(x[k : k + 1000])) for k in range(0, len(x), 1000)]
    return 100 * float((np.concatenate(outputs).argmax(1) == np.asarray(y)).mean())


def healed_in(name: str, flow: Any, small: Any, rates: tuple[float, ...]) -> dict[str, Any]:
    """Heal a compressed model of PyTorch in another library, as `Workflow` does; the better rate counts."""
    library, make = LIBRARIES[name]
    with tempfile.TemporaryDirectory() as folder:
        save_model(small, file := Path(folder) / "small.safetensors")
        start = library.load_model(make(), file)
        save_file(flow.dense.state_dict(), file)
        dense = view_of(make())
        from_stored(dense, load_checkpoint(file))
    rows, held = (tuple(part.numpy() for part in pair) for pair in (flow.rows, flow.validation))
    test, began = (flow.data.test_x.numpy(), flow.data.test_y.numpy()), time.perf_counter()
    found: dict[str, Any] = {"before": accuracy(start, *test), "validation": -1.0}
    for rate in rates:
        recipe = replace(flow.setting.heal, core_lr=rate)
        model, _ = library.heal(start, dense.model, rows, recipe, flow.seed + 1, validation=held)
        score = accuracy(model, *held)
        if score > found["validation"]:
            found |= {"validation": score, "rate": rate, "after": accuracy(model, *test)}
    return found | {"seconds": time.perf_counter() - began}
