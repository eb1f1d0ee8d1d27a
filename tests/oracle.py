"""Slow, independent references: plain NumPy, no program, no search."""

from __future__ import annotations

from typing import Any

import numpy as np

import deeptn as dtn

ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu:0.2": lambda x: np.where(x > 0, x, 0.2 * x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "sin": np.sin,
}


def gate_by_gate(params, legs, layers, activation=None, normalize=None):
    """The paper's way: one gate after another on the whole state, left to right, full gates on v where they exist."""
    count = len(legs)
    state = np.ones(())
    gate = count // 2
    for first in range(gate):
        state = np.multiply.outer(state, params[f"L1_g{first}"])
    if count % 2:
        vacuum = np.zeros(legs[-1])
        vacuum[0] = 1.0
        state = np.multiply.outer(state, vacuum)
    for layer in range(1, layers + 1):
        if layer > 1:
            gate = 0
        for half in (0, 1):
            if layer == 1 and half == 0:
                continue
            for left in range(half, count - 1, 2):
                matrix = params[f"L{layer}_g{gate}"]
                gate += 1
                state = np.moveaxis(
                    np.tensordot(matrix, state, axes=((2, 3), (left, left + 1))), (0, 1), (left, left + 1)
                )
        if layer < layers and activation is not None:
            if normalize == "rms":
                state = state / np.sqrt(np.mean(np.abs(state) ** 2))
            state = ACTIVATIONS[activation](state)
    return state


def einsum(net: dtn.Network, params):
    """Any network: one numpy.einsum per stage, then the layout undone with reshape and transpose."""
    spec = net.spec
    results: list[Any] = []
    for number, stage in enumerate(spec.stages):
        numbers: dict[str, int] = {}
        operands: list[Any] = []
        sources = stage.sources if stage.sources is not None else ([number - 1] if number else [])
        tensors = [(results[source], spec.stages[source].output) for source in sources]
        for node in stage.nodes:
            shape = spec.node_shape(node)
            array = np.reshape(node.constant, shape) if node.constant is not None else params[node.param]
            tensors.append((np.asarray(array), node.indices))
        for array, indices in tensors:
            operands += [array, [numbers.setdefault(ix, len(numbers)) for ix in indices]]
        operands.append([numbers[ix] for ix in stage.output])
        state = np.einsum(*operands, optimize="greedy")
        for other in stage.multiply:
            state = state * results[other]
        for other in stage.add:
            state = state + results[other]
        if stage.normalize:
            state = state / np.sqrt(np.mean(np.abs(state) ** 2))
        results.append(ACTIVATIONS[stage.activation](state))
    state = results[-1]
    order = sorted(range(len(spec.legs)), key=lambda k: net.layout.permutation[k])
    weight = state.transpose(order).reshape(net.layout.padded_shape)
    return weight[tuple(slice(n) for n in net.shape)]
