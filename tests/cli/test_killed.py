"""Test `deeptn compress` when it, or a worker of its cluster, is killed: it ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deeptn.files import StoredModel, save_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint, and the file that an undisturbed run makes of it."""
    made = tmp_path_factory.mktemp("killed")
    draw = np.random.default_rng(0)
    weights = {f"fc{n}.weight": draw.standard_normal((192, 256)).astype("float32") for n in range(6)}
    save_checkpoint(StoredModel({}, weights), made / "m.safetensors")
    start = time.perf_counter()
    assert run(made, "whole.safetensors").wait() == 0
    (made / "seconds").write_text(str(time.perf_counter() - start))
    return made


def run(folder, out, *more):
    """Start the command."""
    words = ["compress", str(folder / "m.safetensors"), "--budget", "30%", "-o", str(folder / out), *more]
    return subprocess.Popen([sys.executable, "-m", "deeptn", *words], stdout=subprocess.DEVNULL)


def test_ten_kills_at_random_moments(folder):
    draw, took = random.Random(0), float((folder / "seconds").read_text())
    target = folder / "small.safetensors"
    target.write_bytes(b"the old file")
    kills, stored = 0, 0
    while kills < 10:
        process = run(folder, target.name, "--jobs", "1")
        try:
            assert process.wait(draw.uniform(0.2, 1.5) * took / 5) == 0  # it came to its end
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            stored = max(stored, len(list((folder / f"{target.name}.work").glob("*"))))
            assert target.read_bytes() == b"the old file"
    assert kills >= 3
    assert stored
    if kills == 10:
        assert run(folder, target.name).wait() == 0
    assert target.read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert not (folder / f"{target.name}.work").exists()


def test_a_worker_of_the_cluster_is_killed(folder):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        victims = [worker.pid for worker in cluster.workers.values()]
        process = run(folder, "cluster.safetensors", "--scheduler", cluster.scheduler_address)
        work = folder / "cluster.safetensors.work"
        while process.poll() is None and len(list(work.glob("*"))) < 2:
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(victims[0], signal.SIGKILL)
        assert process.wait() == 0
        assert {worker.pid for worker in cluster.workers.values()} != set(victims)
    assert (folder / "cluster.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
