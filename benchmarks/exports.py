"""Measure exported ONNX models: file sizes, and times to load and to call them with onnxruntime, for `docs/models.md`.

python benchmarks/exports.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from deeptn_demo.environment import environment
from deeptn_torch import TNLinear, export_onnx
from torch import nn

import deeptn as dtn

OUT = Path(__file__).parent / "results" / "exports.json"
CASES = {
    "400 -> 120, two layers": (120, 400, 2),
    "4096 -> 4096, three layers": (4096, 4096, 3),
}


def measure(path: Path, x: np.ndarray, optimize: bool, rounds: int = 7) -> dict[str, float]:
    """Return the seconds to load a model, and the median of the seconds to call it, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    load = time.perf_counter() - start
    feed = {session.get_inputs()[0].name: x}
    session.run(None, feed)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return {"load": load, "call": statistics.median(times)}


def main() -> None:
    """Export every case with its cores and folded, and write the results."""
    rows: list[dict[str, Any]] = []
    for label, (outputs, inputs, layers) in CASES.items():
        torch.manual_seed(0)
        model = nn.Sequential(TNLinear(inputs, outputs, dtn.BrickWall(layers=layers)))
        x = torch.ones(4, inputs)
        for fold in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                export_onnx(model, (x,), path, fold=fold)
                times = {name: measure(path, x.numpy(), name == "default") for name in ("default", "not optimized")}
                size = path.stat().st_size
            params = sum(p.numel() for p in model.parameters())
            rows.append({"label": label, "params": params, "fold": fold, "bytes": size, "seconds": times})
            print(rows[-1], flush=True)
    OUT.write_text(json.dumps({"environment": environment(), "seed": 0, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
