"""Batches as a PyTorch model takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from deeptn.models import Batch


def moved(batch: Any, model: nn.Module) -> Any:
    """Return a batch with arrays of NumPy as tensors, on the device of a model.

    NumPy's numbers get the floating-point dtype of the model; those of tensors stay as they are.
    """
    own = next((tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point()), None)
    device, dtype = (None, None) if own is None else (own.device, own.dtype)

    def move(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: move(value) for name, value in part.items()}
        if isinstance(part, PackedSequence):
            return part if device is None else part.to(device)
        if isinstance(part, (list, tuple)):
            return [move(value) for value in part]
        if isinstance(part, np.ndarray):
            tensor = torch.as_tensor(part)
            return tensor.to(device, dtype if tensor.is_floating_point() else None)
        return part.to(device) if isinstance(part, Tensor) else part

    return move(batch)


def explain_dtype(error: Exception, batch: Batch, model: nn.Module) -> None:
    """Add a note to an error about dtypes if arguments of a model have another one than its parameters."""
    if not re.search("dtype|same type", str(error)):
        return
    own = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    given = [part for part in (*batch.args, *batch.kwargs.values()) if isinstance(part, Tensor)]
    other = next((part.dtype for part in given if part.is_floating_point() and part.dtype not in own), None)
    if own and other is not None:
        names = ", ".join(sorted(map(str, own)))
        error.add_note(f"The inputs are {other}, but the parameters {names}; convert one: x.to({names.split(',')[0]})")


def logits_of(outputs: Any) -> Tensor | None:
    """Return the first tensor that a model returns, or its ``logits``; None if there is none."""
    if isinstance(outputs, Tensor):
        return outputs
    if hasattr(outputs, "logits"):
        return logits_of(outputs.logits)
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (list, tuple)) else ()
    return next((found for found in map(logits_of, parts) if found is not None), None)
