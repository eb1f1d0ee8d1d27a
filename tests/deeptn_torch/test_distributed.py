"""Train in two processes on the CPU; the parameters must equal those of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from deeptn_torch import TNLinear
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import deeptn as dtn

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

PROCESSES = 2


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        TNLinear(20, 16, dtn.BrickWall(layers=2), dtype=torch.float64),
        nn.ReLU(),
        TNLinear(16, 8, dtn.TTMatrix(rank=2), dtype=torch.float64, mode="apply"),
        nn.Tanh(),
        TNLinear(8, 4, dtn.LowRank(rank=2), dtype=torch.float64, mode="materialize"),
    )


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (20, 4))
    return x, y


def descend(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def shard(model: nn.Sequential) -> None:
    """Shard each generated layer separately, so that its cores are freed between passes, then the whole model."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in model:
        if isinstance(layer, TNLinear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Any) -> Tensor:
    """Return a parameter, gathered from the processes if it is sharded."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def replicated(rank: int) -> dict[str, Tensor]:
    model = nn.parallel.DistributedDataParallel(make_model())
    x, y = make_batch()
    descend(model, x[rank::PROCESSES], y[rank::PROCESSES])
    return {name: whole(param) for name, param in model.module.named_parameters()}


def sharded(rank: int) -> dict[str, Tensor]:
    model = make_model()
    shard(model)
    x, y = make_batch()
    descend(model, x[rank::PROCESSES], y[rank::PROCESSES])
    assert all(type(param).__name__ == "DTensor" for param in model[0].parameters())
    return {name: whole(param) for name, param in model.named_parameters()}


def written(rank: int) -> dict[str, Tensor]:
    """Return outputs before and after a write into the shards that does not notify the layers."""
    model = make_model().eval()
    shard(model)
    x, _ = make_batch()
    with torch.no_grad():
        before = model(x)
        for param in model.parameters():
            param.mul_(1.1)
        return {"before": before, "after": model(x)}


def work(rank: int, folder: str) -> None:
    """Run one process: join the others, and save the results of all functions to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    try:
        found = {function.__name__: function(rank) for function in (replicated, sharded, written)}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """Return the results of each process; processes start slowly, so they are started only once."""
    folder: Path = tmp_path_factory.mktemp("processes")
    spawn(work, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["replicated", "sharded"])
def test_two_processes_train_as_one(results, name):
    alone = make_model()
    start = {name: param.detach().clone() for name, param in alone.named_parameters()}
    descend(alone, *make_batch())
    expected = {name: param.detach() for name, param in alone.named_parameters()}
    assert not any(torch.allclose(start[name], param) for name, param in expected.items())
    for found in (result[name] for result in results):
        assert found.keys() == expected.keys()
        for key, param in expected.items():
            torch.testing.assert_close(found[key], param, rtol=0.0, atol=1e-10)


def test_a_layer_sees_what_is_written_into_its_shards(results):
    alone, (x, _) = make_model().eval(), make_batch()
    with torch.no_grad():
        expected = {"before": alone(x)}
        for param in alone.parameters():
            param.mul_(1.1)
        expected["after"] = alone(x)
    assert not torch.allclose(expected["before"], expected["after"])
    for found in (result["written"] for result in results):
        for key, y in expected.items():
            torch.testing.assert_close(found[key], y, rtol=0.0, atol=1e-10)
