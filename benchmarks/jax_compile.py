"""Measure training steps of a small GPT in JAX, generated (also grouped) against dense; the first one is compilation.

python benchmarks/jax_compile.py        # a few minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from deeptn_demo.environment import environment
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx

import deeptn as dtn

OUT = Path(__file__).parent / "results" / "jax_compile.json"
#: Width, blocks, heads, words, and the length of a text.
WIDTH, BLOCKS, HEADS, WORDS, LENGTH = 128, 4, 4, 256, 32
FAMILIES = {
    "brick wall, two layers": dtn.BrickWall(layers=2),
    "brick wall, two layers, linear": dtn.BrickWall(layers=2, activation=None),
    "TT-matrix, rank 8": dtn.TTMatrix(rank=8),
}
#: Later steps, of which the median counts.
STEPS = 20
ADAM: Any = optax.adam(1e-3)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Apply causal attention with several heads to arrays of shape (…, length, width)."""
    parts = (x.reshape(*x.shape[:-1], HEADS, WIDTH // HEADS) for x in (query, key, value))
    return jax.nn.dot_product_attention(*parts, is_causal=True).reshape(query.shape)


class EquinoxBlock(eqx.Module):
    """A block of the model for Equinox, called with one text."""

    linear: dict[str, eqx.nn.Linear]
    norms: list[eqx.nn.LayerNorm]

    def __init__(self, key: jax.Array):
        sizes = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
        keys = jax.random.split(key, len(sizes))
        self.linear = {name: eqx.nn.Linear(*size, key=one) for (name, size), one in zip(sizes.items(), keys)}
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(2)]

    def __call__(self, x: jax.Array) -> jax.Array:
        each = {name: jax.vmap(layer) for name, layer in self.linear.items()}
        y = jax.vmap(self.norms[0])(x)
        x = x + each["o"](attend(*(each[name](y) for name in "qkv")))
        return x + each["down"](jax.nn.gelu(each["up"](jax.vmap(self.norms[1])(x))))


class EquinoxGPT(eqx.Module):
    """The model for Equinox."""

    embedding: eqx.nn.Embedding
    blocks: list[EquinoxBlock]
    head: eqx.nn.Linear

    def __init__(self, seed: int):
        keys = jax.random.split(jax.random.key(seed), BLOCKS + 2)
        self.embedding = eqx.nn.Embedding(WORDS, WIDTH, key=keys[0])
        self.blocks = [EquinoxBlock(key) for key in keys[2:]]
        self.head = eqx.nn.Linear(WIDTH, WORDS, key=keys[1])

    def __call__(self, text: jax.Array) -> jax.Array:
        x = jax.vmap(self.embedding)(text)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(x)


class NNXBlock(nnx.Module):
    """A block of the model for NNX."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
        self.linear = nnx.Dict({name: nnx.Linear(*size, rngs=rngs) for name, size in sizes.items()})
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norms[0](x)
        x = x + self.linear["o"](attend(*(self.linear[name](y) for name in "qkv")))
        return x + self.linear["down"](jax.nn.gelu(self.linear["up"](self.norms[1](x))))


class NNXGPT(nnx.Module):
    """The model for NNX."""

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.embedding = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NNXBlock(rngs) for _ in range(BLOCKS)])
        self.head = nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, texts: jax.Array) -> jax.Array:
        x = self.embedding(texts)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def step_of(model: Any) -> tuple[Any, Any]:
    """Return a training step, not yet compiled, and its first arguments: parameters and averages of Adam."""
    if isinstance(model, nnx.Module):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        call: Callable[..., Any] = lambda params, texts: nnx.merge(graph, params, rest)(texts)  # noqa: E731
    else:
        params, static = eqx.partition(model, eqx.is_inexact_array)
        call = lambda params, texts: jax.vmap(eqx.combine(params, static))(texts)  # noqa: E731

    def step(params: Any, state: Any, texts: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(call(params, texts)[:, :-1], texts[:, 1:]).mean()

        value, slopes = jax.value_and_grad(loss)(params)
        updates, state = ADAM.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value

    return jax.jit(step), (params, ADAM.init(params))


def first_step(model: Any) -> dict[str, float]:
    """Return the seconds of the parts of a first step: tracing and lowering, compiling, running; and of a later one."""
    step, arguments = step_of(model)
    texts = jnp.zeros((8, LENGTH), int)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = step.trace(*arguments, texts).lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    jax.block_until_ready(compiled(*arguments, texts))
    done = time.perf_counter()
    parts = {"trace": traced - start, "compile": ready - traced, "run": done - ready, "total": done - start}
    later = []
    for _ in range(STEPS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments, texts))
        later.append(time.perf_counter() - start)
    return parts | {"step": statistics.median(later)}


def main() -> None:
    """Measure dense and generated models in turn, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    frameworks = {"equinox": (EquinoxGPT, tne.compress, tne.group), "nnx": (NNXGPT, tnx.compress, tnx.group)}
    for framework, (make, compress, group) in frameworks.items():
        models = {"dense": make(0)}
        seconds = {}
        for name, family in FAMILIES.items():
            jax.clear_caches()
            start = time.perf_counter()
            models[name], _ = compress(make(0), {"blocks.*": family}, fit=None, key=0)
            seconds[name] = time.perf_counter() - start
            models[f"{name}, grouped"] = group(models[name])
        found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        for _ in range(options.rounds):
            for name, model in models.items():
                found[name].append(first_step(model))
        for name, times in found.items():
            row: dict[str, Any] = {part: statistics.median(one[part] for one in times) for part in times[0]}
            for ratio, part in (("ratio", "total"), ("step_ratio", "step")):
                row[ratio] = statistics.median(one[part] / dense[part] for one, dense in zip(times, found["dense"]))
            rows.append({"framework": framework, "model": name, "compress": seconds.get(name), **row})
            print(
                framework,
                name,
                {
                    key: value and round(value, 2)
                    for key, value in rows[-1].items()
                    if key not in ("framework", "model")
                },
                flush=True,
            )
    rounded = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    ]
    data = {"environment": environment(), "seed": 0, "rounds": options.rounds, "rows": rounded}
    options.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
