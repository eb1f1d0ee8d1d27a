"""Kill processes while they write: the file is the old or the new one, and nothing else stays."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import deeptn as dtn

pytestmark = pytest.mark.slow

KILLS = 150

#: Writes a model of 8 MB again and again, each time with other numbers.
SCRIPT = """
import sys
import numpy as np, deeptn as dtn
from deeptn.files import StoredLayer, StoredModel
net = dtn.network(dtn.LowRank(rank=2), (8, 8))
print("ready", flush=True)
turn = int(sys.argv[2])
while True:
    turn += 1
    cores = {name: np.full(shape, turn, "float32") for name, shape in net.spec.param_shapes.items()}
    other = np.full((1024, 2048), turn, "float32")
    dtn.save_model(StoredModel({"fc": StoredLayer("linear", net, cores, None)}, {"w": other}), sys.argv[1])
"""


def turn_of(path) -> int:
    """Return the only number in a model."""
    model = dtn.load_model(path)
    numbers = {float(array.max()) for array in (*model.layers["fc"].params.values(), model.tensors["w"])}
    numbers |= {float(model.tensors["w"].min())}
    (turn,) = numbers
    return int(turn)


def test_kills_while_a_model_is_written(tmp_path):
    draw, path = random.Random(0), tmp_path / "m.safetensors"
    turn, left, kept = 0, 0, 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", SCRIPT, str(path), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        found = [file.name for file in tmp_path.iterdir()]
        left += len(found) > path.exists()
        assert len(found) <= 2  # the leftovers of all kills before are gone
        if path.exists():
            now = turn_of(path)
            assert now >= turn
            kept += now == turn
            turn = now
    print(f"{KILLS} kills, {turn} files written, {left} times half a file was left, {kept} times the old one stayed")
    assert left
    np.testing.assert_array_less(0, turn)
    dtn.save_model(dtn.load_model(path), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
