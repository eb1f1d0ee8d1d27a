"""Make many networks and take many steps: memory and the folder for caches stop growing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

START = """
import gc, os, sys, tempfile
from pathlib import Path
import numpy as np, torch
import deeptn as dtn, deeptn_torch
os.environ["DEEPTN_CACHE"] = folder = tempfile.mkdtemp()
torch.set_num_threads(1)
x = torch.ones(4, 80)

def resident():
    gc.collect()
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

found = []
"""

NETWORKS = """
families = [dtn.BrickWall(layers=2), dtn.TTMatrix(rank=2), dtn.LowRank(rank=2), dtn.Tree(rank=2), dtn.Tucker(rank=2)]
for number in range(20_000):
    columns, rows = 40 + number // 500, 50 + number // 5 % 100  # all pairs differ, and none is much larger
    layer = deeptn_torch.TNLinear(columns, rows, families[number % 5])
    layer(x[:, :columns]).sum().backward()
    if number % 1000 == 999:
        found.append(resident())
"""

STEPS = """
layer = deeptn_torch.TNLinear(64, 64, dtn.BrickWall(layers=2))
adam = torch.optim.Adam(layer.parameters())
for number in range(20_000):
    adam.zero_grad()
    layer(x[:, :64]).square().sum().backward()
    adam.step()
    if number % 1000 == 999:
        found.append(resident())
"""

END = """
print(len(list(Path(folder).iterdir())), *(round(one, 1) for one in found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("name", "allowed"), [("networks", 30.0), ("steps", 2.0)])
def test_memory_is_flat_after_warm_up(name, allowed):
    code = START + {"networks": NETWORKS, "steps": STEPS}[name] + END
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files, *found = map(float, done.stdout.split())
    print(f"20,000 {name}: resident MB after every 1,000: {found}; {files:.0f} cached files")
    assert files <= 4096
    assert max(found[10:]) - min(found[5:10]) < allowed
