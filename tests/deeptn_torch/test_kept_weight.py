"""Test when a decoded weight is kept, and that no change of a core goes unnoticed."""

from __future__ import annotations

import copy
import threading
from typing import Any, cast

import pytest
import torch
import torch.multiprocessing as processes
from deeptn_torch import TNConv2d, TNEmbedding, TNLinear, frozen
from deeptn_torch.layers import cache
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import deeptn as dtn

MAKERS: dict[str, Any] = {
    "relu": lambda: TNLinear(20, 12),
    "linear": lambda: TNLinear(20, 12, dtn.TTMatrix(rank=2)),
    "square core": lambda: TNLinear(16, 16, dtn.LowRank(rank=16)),
    "convolution": lambda: TNConv2d(4, 6, 3, dtn.Tucker(rank=2)),
    "table": lambda: TNEmbedding(30, 8, dtn.TTMatrix(rank=2)),
}
INPUTS = {
    "relu": torch.ones(3, 20),
    "linear": torch.ones(3, 20),
    "square core": torch.arange(48.0).reshape(3, 16),
    "convolution": torch.ones(1, 4, 5, 5),
    "table": torch.arange(30),
}


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every decoding."""
    calls: list[int] = []
    decode = cache.decode
    monkeypatch.setattr(cache, "decode", lambda *args: calls.append(1) or decode(*args))
    return calls


def fresh(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the answer of a copy, which keeps nothing."""
    with torch.no_grad():
        return copy.deepcopy(layer)(x)


def _change(core: torch.Tensor) -> torch.Tensor:
    """Change one entry; a factor on a whole core would have no effect in a normalized network."""
    core.reshape(-1)[0].add_(1)
    return core


def _first(layer: Any) -> nn.Parameter:
    return next(iter(layer.cores.values()))


def _assign(layer: Any) -> None:
    for core in layer.cores.values():
        core.data = core.data * 2


def _optimize(layer: Any, x: torch.Tensor, **options: Any) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, **options)
    with torch.enable_grad():
        layer(x).square().sum().backward()
    layer(x)
    optimizer.step()


def _replacement(layer: Any) -> dict[str, nn.Parameter]:
    return {next(iter(layer.cores)): nn.Parameter(_change(_first(layer).clone()))}


def _swap(layer: Any) -> None:
    for core in layer.cores.values():
        torch.utils.swap_tensors(core, nn.Parameter(core.detach() * 2))


WRITES: dict[str, Any] = {
    "data in place": lambda layer, x: [core.data.mul_(2) for core in layer.cores.values()],
    "data assigned": lambda layer, x: _assign(layer),
    "vector": lambda layer, x: vector_to_parameters(parameters_to_vector(layer.parameters()) * 2, layer.parameters()),
    "NumPy": lambda layer, x: [core.detach().numpy().__imul__(2) for core in layer.cores.values()],
    "state_dict": lambda layer, x: [entry.mul_(2) for entry in layer.state_dict().values()],
    "in place": lambda layer, x: _change(_first(layer)),
    "one entry": lambda layer, x: _change(_first(layer).data),
    "storage": lambda layer, x: _first(layer).untyped_storage().copy_(_change(_first(layer).clone()).untyped_storage()),
    "set": lambda layer, x: cast("Any", _first(layer)).set_(_change(_first(layer).clone())),
    "swap": lambda layer, x: _swap(layer),
    "replaced": lambda layer, x: layer.cores.update(_replacement(layer)),
    "loaded": lambda layer, x: layer.load_state_dict({name: 2 * t for name, t in layer.state_dict().items()}),
    "assigned": lambda layer, x: layer.load_state_dict(
        {name: 2 * entry for name, entry in layer.state_dict().items()}, assign=True
    ),
    "optimizer": _optimize,
    "fused optimizer": lambda layer, x: _optimize(layer, x, fused=True),
    "dtype there and back": lambda layer, x: _change(_first(layer.double().float()).data),
    "train and eval": lambda layer, x: _change(_first(layer.train().eval()).data),
    "share_memory": lambda layer, x: _change(_first(layer.share_memory()).data),
    "drawn again": lambda layer, x: layer.reset_parameters(),
    "NaN": lambda layer, x: _first(layer).data.view(-1)[:1].fill_(torch.nan),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_write_counts(name, write):
    layer, x = MAKERS[name]().eval(), INPUTS[name]
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        write(layer, x)
        after = layer(x)
        assert torch.equal(torch.nan_to_num(after), torch.nan_to_num(fresh(layer, x)))
        assert not torch.equal(after, before)


def test_memory_read_in_another_order_counts():
    layer, x = MAKERS["square core"]().eval(), INPUTS["square core"]
    with torch.no_grad():
        layer(x)
        core = _first(layer)
        core.data = core.data.mT  # the same bytes at the same address
        assert torch.equal(layer(x), fresh(layer, x))


@pytest.mark.parametrize("name", MAKERS)
def test_the_weight_is_decoded_once(name, monkeypatch):
    calls, layer, x = decodes(monkeypatch), MAKERS[name](), INPUTS[name]
    with torch.no_grad():
        for _ in range(3):
            layer(x)
            with torch.inference_mode():
                layer(x)
        layer.eval()
        layer(x)
    layer.requires_grad_(False)
    layer(x)
    assert len(calls) == 1
    layer.train()
    layer(x)
    assert len(calls) == 2


def test_large_cores_nan_and_other_orders_of_memory(monkeypatch):
    layer: Any = TNConv2d(4, 6, 3, dtn.Tucker(rank=4))
    x = INPUTS["convolution"]
    for core in layer.cores.values():
        if core.ndim == 4:
            core.data = core.data.contiguous(memory_format=torch.channels_last)
    assert not all(core.is_contiguous() for core in layer.cores.values())
    large = TNLinear(256, 256, dtn.LowRank(rank=20))
    half = TNLinear(256, 256, dtn.LowRank(rank=40), dtype=torch.bfloat16)
    complex_ = TNLinear(128, 128, dtn.LowRank(rank=20), dtype=torch.complex64)
    for made, entry in ((layer, x), (large, torch.ones(2, 256)), (half, torch.ones(2, 256).bfloat16())):
        calls = decodes(monkeypatch)
        with torch.no_grad():
            _first(made).data[0].fill_(torch.nan)
            made(entry)
            made(entry)
            assert len(calls) == 1
            _first(made).data[-1].add_(1)
            made(entry)
            assert len(calls) == 2
        monkeypatch.undo()
    with torch.no_grad():
        x = torch.ones(2, 128, dtype=torch.complex64)
        complex_(x)
        _first(complex_).data.mul_(1j)
        assert torch.equal(complex_(x), fresh(complex_, x))


@pytest.mark.slow
def test_a_write_by_another_process_counts():
    layer, x = TNLinear(20, 12).eval().share_memory(), INPUTS["relu"]
    with torch.no_grad():
        before = layer(x)
        process = processes.get_context("spawn").Process(target=_change, args=(_first(layer).detach(),))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert not torch.equal(layer(x), before)
        assert torch.equal(layer(x), fresh(layer, x))


def serve(layer: nn.Module, go: threading.Barrier, write: Any) -> None:
    """Use a layer a few times, and write into it in between."""
    go.wait()
    with torch.no_grad():
        for _ in range(3):
            layer(torch.ones(2, 64))
            write()


@pytest.mark.few(1)
@pytest.mark.parametrize("load", [False, True])
def test_a_write_by_another_thread_counts(load):
    """Eight threads use a layer, and one of them writes: in the end, all see the last values."""
    stale = 0
    for trial in range(60):
        layer, go = TNLinear(64, 64, dtn.BrickWall(layers=3)).eval(), threading.Barrier(8)
        values = {name: entry * torch.rand_like(entry) for name, entry in layer.state_dict().items()}

        def write(layer: Any = layer, values: Any = values) -> None:
            if load:
                layer.load_state_dict(values)
            else:
                for name, core in layer.cores.items():
                    core.data.copy_(values[f"cores.{name}"])

        work = [(layer, go, write if number == trial % 8 else lambda: None) for number in range(8)]
        threads = [threading.Thread(target=serve, args=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with torch.no_grad():
            stale += not torch.equal(layer(torch.ones(2, 64)), fresh(layer, torch.ones(2, 64)))
    assert stale == 0


def test_the_bound(monkeypatch):
    calls = decodes(monkeypatch)
    layer, x = TNLinear(20, 12), INPUTS["relu"]
    layer.max_kept = 12 * 20 * 4 - 1
    with torch.no_grad():
        layer(x)
        layer(x)
        assert len(calls) == 2
        layer.max_kept += 1
        layer(x)
        layer(x)
        assert len(calls) == 3


@pytest.mark.parametrize("mode", ["auto", "materialize", "apply"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("faster", [True, False])
def test_a_huge_weight_is_never_decoded_as_a_whole(mode, bias, faster, monkeypatch):
    calls = decodes(monkeypatch)
    layer = TNLinear(64, 48, dtn.TTMatrix(rank=2), mode=mode, bias=bias)
    table = TNEmbedding(64, 48, dtn.TTMatrix(rank=2), mode=mode)
    x, rows = torch.randn(5, 64), torch.tensor([[3, 63], [0, 3]])
    expected, found = layer.to_dense()(x), table.to_dense()(rows)
    calls.clear()
    monkeypatch.setattr(cache, "HUGE", 48 * 64)
    monkeypatch.setattr("deeptn_torch.layers.linear.HUGE", 48 * 64)
    monkeypatch.setattr("deeptn_torch.layers.base.is_faster", lambda *args: faster)
    with torch.no_grad():
        for made in (layer, table):
            made.max_kept = 0
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert torch.allclose(table(rows), found, atol=1e-5)
    assert calls == []
    assert torch.allclose(layer(x), expected, atol=1e-5)  # with gradients: as the mode says
    assert len(calls) == (mode == "materialize" or (mode == "auto" and not faster))


def test_freeze(monkeypatch):
    calls, layer, x = decodes(monkeypatch), TNLinear(20, 12), INPUTS["relu"]
    layer.max_kept = 0  # as on an accelerator, nothing is kept otherwise
    assert not layer.is_frozen
    assert layer.freeze().is_frozen
    with torch.no_grad():
        before = layer(x)
        _change(_first(layer).data)  # the promise is broken
        assert torch.equal(layer(x), before)
        assert len(calls) == 1
        assert not torch.equal(layer.unfreeze()(x), before)
        assert torch.equal(layer(x), fresh(layer, x))
    assert layer.freeze()(x).requires_grad  # gradients flow into the cores
    assert not copy.deepcopy(layer).is_frozen


ENDS: dict[str, Any] = {
    "train": lambda layer: layer.train(),
    "load": lambda layer: layer.load_state_dict(layer.state_dict()),
    "dtype": lambda layer: layer.double(),
    "cores": lambda layer: layer.load_cores({"L1_g0": layer.cores["L1_g0"] * 2}),
    "reset": lambda layer: layer.reset_parameters(),
    "grow": lambda layer: layer.grow(3),
    "assignment": lambda layer: layer.fit(torch.ones(12, 20), fit=None),
    "unfreeze": lambda layer: layer.unfreeze(),
}


@pytest.mark.filterwarnings("ignore:the cores give")
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_ends_a_freeze(end):
    layer = TNLinear(20, 12, dtn.BrickWall(layers=2)).eval().freeze()
    end(layer)
    assert not layer.is_frozen


def test_a_frozen_model(monkeypatch):
    calls = decodes(monkeypatch)
    model: Any = nn.Sequential(TNLinear(20, 12), nn.ReLU(), TNLinear(12, 4, dtn.TTMatrix(rank=2), mode="apply"))
    model[0].max_kept = 0
    with torch.no_grad():
        with frozen(model) as same:
            assert same is model
            expected = model(INPUTS["relu"])
            model(INPUTS["relu"])
            with frozen(model):
                pass
            assert model[0].is_frozen  # the inner block leaves it as it was
        assert len(calls) == 2
        assert not model[0].is_frozen
        # Applied or decoded, which CPUs may round in different ways.
        torch.testing.assert_close(model(INPUTS["relu"]), expected)
        with pytest.raises(ZeroDivisionError), frozen(model):
            raise ZeroDivisionError
        assert not model[0].is_frozen


def test_nothing_is_kept_without_memory_on_the_cpu():
    layer = TNLinear(20, 12, device="meta")
    with torch.no_grad():
        assert layer(torch.ones(3, 20, device="meta")).shape == (3, 12)
    assert layer._kept is None
    strided = TNLinear(16, 16, dtn.LowRank(rank=2)).eval()
    core = _first(strided)
    core.data = torch.stack([core.data, core.data], -1)[..., 0]  # every second entry
    with torch.no_grad():
        strided(torch.ones(2, 16))
        assert strided._kept is None
    inside = TNLinear(20, 12)
    with torch.no_grad():
        torch.func.vmap(lambda x: inside(x))(torch.ones(3, 2, 20))
        assert inside._kept is None


def test_gradients_reach_constrained_cores_of_a_frozen_layer():
    layer = TNLinear(16, 16, dtn.Tree(rank=4))
    layer.constrain()
    layer.freeze()
    layer(torch.ones(2, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert layer.is_frozen
    with torch.no_grad():
        assert torch.equal(layer(torch.ones(2, 16)), fresh(layer, torch.ones(2, 16)))


def test_training_does_not_end_a_freeze():
    layer = TNLinear(20, 12).freeze()
    layer(INPUTS["relu"]).sum().backward()
    assert layer.is_frozen


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in make_dual
@pytest.mark.parametrize("freeze", [False, True])
def test_transformations_see_their_own_cores(freeze):
    layer, x = TNLinear(20, 12, bias=False).requires_grad_(False).eval(), INPUTS["relu"]
    again = copy.deepcopy(layer)  # keeps nothing
    layer(x)
    if freeze:
        layer.freeze()
    params = dict(layer.named_parameters())
    call = lambda params: torch.func.functional_call(layer, params, (x,))
    tangents = {name: torch.randn_like(core) for name, core in params.items()}
    expected = torch.func.jvp(lambda p: torch.func.functional_call(again, p, (x,)), (params,), (tangents,))[1]
    assert torch.allclose(torch.func.jvp(call, (params,), (tangents,))[1], expected, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        duals = {name: torch.autograd.forward_ad.make_dual(core, tangents[name]) for name, core in params.items()}
        found = torch.autograd.forward_ad.unpack_dual(call(duals)).tangent
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-5)
    others = {name: core + 1 for name, core in params.items()}
    stacked = {name: torch.stack([core, others[name]]) for name, core in params.items()}
    with torch.no_grad():
        wanted = x @ layer.network.materialize({name.removeprefix("cores."): core for name, core in others.items()}).T
        assert torch.allclose(call(others), wanted, atol=1e-4)
        assert torch.allclose(torch.vmap(call)(stacked)[1], wanted, atol=1e-4)


def test_cores_in_another_order_and_another_network(monkeypatch):
    layer, x = MAKERS["square core"]().eval(), INPUTS["square core"]
    with torch.no_grad():
        layer(x)
        left, right = layer.cores["U"], layer.cores["V"]
        del layer.cores["U"], layer.cores["V"]
        layer.cores.update([("V", left), ("U", right)])
        assert torch.equal(layer(x), fresh(layer, x))
        calls = decodes(monkeypatch)
        layer(x)
        layer(x)
        assert calls == []
        wall = TNLinear(20, 12).eval()
        before = wall(INPUTS["relu"])
        wall.network = dtn.network(dtn.BrickWall(layers=2, activation=None), (12, 20))
        assert not torch.equal(wall(INPUTS["relu"]), before)


def test_conjugate_cores():
    layer, x = TNLinear(128, 128, dtn.LowRank(rank=20), dtype=torch.complex64).eval(), torch.ones(2, 128) * (1 + 0.5j)
    with torch.no_grad():
        for core in layer.cores.values():
            core.data = core.data * (1 + 1j)
        layer(x)
        for core in layer.cores.values():
            core.data = core.data.conj()
        assert torch.allclose(layer(x), fresh(layer, x), rtol=1e-4, atol=1e-5)


def test_empty_inputs_of_huge_layers(monkeypatch):
    calls = decodes(monkeypatch)
    monkeypatch.setattr(cache, "HUGE", 48 * 64)
    for mode in ("auto", "materialize", "apply"):
        layer = TNLinear(64, 48, dtn.TTMatrix(rank=2), mode=mode)
        table = TNEmbedding(64, 48, dtn.TTMatrix(rank=2), mode=mode)
        layer.max_kept = table.max_kept = 0
        with torch.no_grad():
            assert layer(torch.ones(0, 64)).shape == (0, 48)
            assert table(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 48)
    assert calls == []


def test_a_freeze_inside_a_transformation_is_refused():
    layer = TNLinear(20, 12)
    with pytest.raises(dtn.SpecError, match="freeze before"):
        torch.vmap(lambda x: layer.freeze()(x))(torch.ones(2, 3, 20))
    assert not layer.is_frozen
