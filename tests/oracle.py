"""Slow, independent references in plain NumPy, without programs or searches."""

from __future__ import annotations

import numpy as np

from deeptn.testing import reference as einsum

__all__ = ["ACTIVATIONS", "einsum", "gate_by_gate"]

ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu:0.2": lambda x: np.where(x > 0, x, 0.2 * x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "gelu": lambda x: x / (1.0 + np.exp(-np.sqrt(8.0 / np.pi) * (x + 0.044715 * x**3))),  # written as a sigmoid
    "sin": np.sin,
}


def gate_by_gate(params, legs, layers, activation=None, normalize=None):
    """Apply the paper's method, one gate after another on the state, left to right; an odd last leg starts as v."""
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
