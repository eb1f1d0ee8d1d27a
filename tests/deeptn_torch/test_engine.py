"""Test torch's runner: buffers, recomputation and hand-written gradients do not change results."""

from __future__ import annotations

import dataclasses
import math
import pickle

import jax
import numpy as np
import pytest
import torch
from deeptn_torch import TNLinear
from deeptn_torch.engine import contract, register
from deeptn_torch.engine import runner as engine
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import deeptn as dtn
from deeptn.arrays import CPU, GPU
from deeptn.engine import Program, run_plain
from deeptn.testing import reference

from .. import tables
from ..market import NETWORKS
from ..tiers import choose, grid

#: Its product with itself is computed state by state; unlike ReLU, tanh takes complex numbers.
GATES = dtn.BrickWall(layers=2, activation="tanh")

CASES = dict(NETWORKS) | {
    "product of states": dtn.network(dtn.Product(terms=(GATES, GATES)), (16, 16)),
    "rms": dtn.network(dtn.BrickWall(layers=4, activation="leaky_relu:0.1"), (16, 32)),
    "tanh": dtn.network(dtn.BrickWall(layers=3, activation="tanh"), (16, 16)),
}


@pytest.fixture(params=["small", "middle", "large"])
def size(request, monkeypatch):
    """Use the real limits ("small": NumPy does the work), or limits so low that every step uses buffers and pieces.

    "middle" keeps everything for the gradient, "large" recomputes it stage by stage.
    """
    if request.param != "small":
        tables.use(monkeypatch, tables.BUFFERED)
    return request.param


def program_of(net: dtn.Network, size: str) -> Program:
    program = net.program("materialize", 1)
    return dataclasses.replace(program, recompute=size == "large")


def tensors(net: dtn.Network, dtype: str = "float64") -> list[torch.Tensor]:
    return [tensor.requires_grad_() for tensor in net.init(seed=3, like="torch", dtype=dtype).values()]


DTYPES = [(name, "float64") for name in CASES] + [
    (name, "complex128") for name, net in CASES.items() if net.is_linear or name == "product of states"
]


@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_values_and_gradients_are_those_of_the_plain_steps(name, dtype, size):
    net = CASES[name]
    program, inputs = program_of(net, size), tensors(net, dtype)
    expected = run_plain(program, inputs)
    grad = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(engine.run(program, inputs), expected, rtol=1e-12, atol=1e-12)
    found = engine.run(program, inputs)
    assert type(found.grad_fn).__name__ == "_ContractionBackward"
    ours = torch.autograd.grad(found, inputs, grad, retain_graph=True)
    again = torch.autograd.grad(found, inputs, grad)
    for mine, second, theirs in zip(ours, again, torch.autograd.grad(expected, inputs, grad)):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-10)
        assert torch.equal(mine, second)


@pytest.mark.parametrize("name", CASES)
def test_numpy_uses_buffers_and_changes_no_input(name, monkeypatch):
    net = CASES[name]
    params = net.init(seed=1, dtype="float64")
    before = {key: array.copy() for key, array in params.items()}
    expected = net.materialize(params)
    tables.use(monkeypatch, tables.BUFFERED)
    first = net.materialize(params)
    second = net.materialize(params)
    assert np.allclose(first, expected, rtol=1e-12, atol=1e-12)
    assert not np.shares_memory(first, second)
    assert all(np.array_equal(before[key], array) for key, array in params.items())


def test_frozen_cores_cost_no_gradient(size):
    net = dtn.network(dtn.BrickWall(layers=3), (16, 16))
    inputs = tensors(net)
    for tensor in inputs[::2]:
        tensor.requires_grad_(False)
    wanted = inputs[1::2]
    program = program_of(net, size)
    theirs = torch.autograd.grad(run_plain(program, inputs).square().sum(), wanted)
    mine = torch.autograd.grad(engine.run(program, inputs).square().sum(), wanted)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(mine, theirs))


@pytest.mark.few(1)
def test_gradcheck_twice(size):
    net = dtn.network(dtn.BrickWall(layers=2, activation="tanh"), (4, 8))
    inputs, program = tensors(net), program_of(net, size)
    assert torch.autograd.gradcheck(lambda *t: engine.run(program, t), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: engine.run(program, t), inputs)


def test_kept_operands_are_written_over_by_the_last_pass_only(size):
    net = CASES["rms"]
    inputs, program = tensors(net), program_of(net, size)
    before = [tensor.detach().clone() for tensor in inputs]
    found = engine.run(program, inputs)
    weight, grad = found.detach().clone(), torch.randn_like(found)
    given = grad.clone()
    first = torch.autograd.grad(found, inputs, grad, retain_graph=True)
    second = torch.autograd.grad(found, inputs, grad, retain_graph=True)
    third = torch.autograd.grad(found, inputs, grad)
    for a, b, c in zip(first, second, third):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert torch.equal(found, weight)
    assert torch.equal(grad, given)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(found, inputs, grad)


def test_tensors_with_offsets_strides_and_expanded_gradients(size):
    net = dtn.network(dtn.BrickWall(layers=2), (16, 32))
    program = program_of(net, size)
    plain = tensors(net)
    odd = []
    for tensor in plain:
        room = torch.zeros((2, *tensor.shape[:-1], 2 * tensor.shape[-1]), dtype=tensor.dtype)
        view = room[1, ..., ::2]
        view.copy_(tensor.detach())
        odd.append(view.requires_grad_())
    theirs = torch.autograd.grad(run_plain(program, plain).sum(), plain)
    ours = torch.autograd.grad(engine.run(program, odd).sum(), odd)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, theirs))


def test_many_gradients_at_a_time(size):
    net = dtn.network(dtn.BrickWall(layers=2), (4, 8))
    inputs, program = tensors(net), program_of(net, size)
    found = engine.run(program, inputs)
    grads = torch.randn((3, *found.shape), dtype=found.dtype)
    many = torch.autograd.grad(found, inputs, grads, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        one = torch.autograd.grad(found, inputs, grads[k], retain_graph=True)
        assert all(torch.allclose(a[k], b, rtol=1e-9, atol=1e-12) for a, b in zip(many, one))


@pytest.mark.parametrize("name", CASES)
def test_autocast_reaches_no_contraction(name, size):
    net = CASES[name]
    inputs, program = tensors(net, "float32"), program_of(net, size)
    expected = engine.run(program, inputs)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = engine.run(program, inputs)
        assert found.dtype == torch.float32
        ours = torch.autograd.grad(found.square().sum(), inputs)
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_a_state_that_is_normalized_and_not_activated(size):
    stages = (
        dtn.Stage((dtn.Node("A", ("s", "t")),), ("s", "t"), None, "rms"),
        dtn.Stage((dtn.Node("C", ("a0_0", "s", "t")),), ("a0_0",)),
    )
    spec = dtn.NetworkSpec((dtn.spec.Leg("a0_0", 2, 0),), stages, (("s", 2), ("t", 2)))
    net = dtn.Network(spec, dtn.Layout((2,), ((2,),)))
    inputs, program = tensors(net), program_of(net, size)
    ours = torch.autograd.grad(engine.run(program, inputs).sum(), inputs)
    theirs = torch.autograd.grad(run_plain(program, inputs).sum(), inputs)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(ours, theirs))


def test_the_default_device_is_not_looked_at(size):
    net = CASES["rms"]
    inputs, program = tensors(net), program_of(net, size)
    expected = engine.run(program, inputs)
    with torch.device("meta"):
        found = engine.run(program, inputs)
        found.sum().backward()
    assert torch.equal(found, expected)


def test_lazily_conjugated_tensors(size):
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (8, 8))
    inputs = [tensor.detach() for tensor in tensors(net, "complex128")]
    program = program_of(net, size)
    lazy = [tensor.conj().requires_grad_() for tensor in inputs]
    found = engine.run(program, lazy)
    assert torch.allclose(found, engine.run(program, inputs).conj(), rtol=1e-10)
    grad = torch.randn_like(found).conj()
    ours = torch.autograd.grad(found, lazy, grad)
    theirs = torch.autograd.grad(run_plain(program, lazy), lazy, grad)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(ours, theirs))


def test_an_activation_that_gives_back_what_it_gets(size):
    dtn.spec.register_activation("as_it_is", as_it_is)
    net = dtn.network(dtn.BrickWall(layers=3, activation="as_it_is", normalize=None), (16, 16))
    inputs, program = tensors(net), program_of(net, size)
    theirs = torch.autograd.grad(run_plain(program, inputs).square().sum(), inputs)
    ours = torch.autograd.grad(engine.run(program, inputs).square().sum(), inputs)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, theirs))


def as_it_is(x):
    return x


def test_inputs_changed_before_the_backward_pass(size):
    """A change to a needed input is noticed; inputs copied into a stack give the gradients of the old values."""
    net = dtn.network(dtn.BrickWall(layers=2), (16, 16))
    inputs, program = tensors(net), program_of(net, size)
    expected = torch.autograd.grad(engine.run(program, inputs).sum(), inputs)
    noticed = 0
    for tensor in inputs:
        found = engine.run(program, inputs)
        with torch.no_grad():
            tensor.mul_(2.0)
        message, grads = "", expected
        try:
            grads = torch.autograd.grad(found.sum(), inputs)
        except RuntimeError as error:
            message = str(error)
            noticed += 1
        assert not message or "modified by an inplace operation" in message
        assert all(torch.equal(a, b) for a, b in zip(grads, expected))
        with torch.no_grad():
            tensor.div_(2.0)
    assert noticed


def test_the_weight_may_be_changed_in_place(size):
    net = dtn.network(dtn.BrickWall(layers=2), (16, 16))
    inputs = tensors(net)
    weight = engine.run(program_of(net, size), inputs)
    weight.mul_(2.0)
    (grad,) = torch.autograd.grad(weight.sum(), inputs[:1])
    (single,) = torch.autograd.grad(engine.run(program_of(net, size), inputs).sum(), inputs[:1])
    assert torch.allclose(grad, 2 * single)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # from torch itself, on its first jvp
def test_transformations_take_the_plain_steps():
    net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    params = net.init(like="torch", dtype="float64")
    tangents = {name: torch.ones_like(tensor) for name, tensor in params.items()}
    forward = torch.func.jvp(net.materialize, (params,), (tangents,))[1]
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(params[name], tangents[name]) for name in params}
        tangent = forward_ad.unpack_dual(net.materialize(dual)).tangent
    assert tangent is not None
    assert torch.allclose(tangent, forward)
    jacobian = torch.func.jacrev(net.materialize)(params)
    summed = sum((jacobian[name] * tangents[name]).flatten(2).sum(-1) for name in params)
    assert torch.allclose(torch.as_tensor(summed), forward)


def test_only_large_states_are_made_again():
    for side, expected in ((64, False), (1024, False), (4096, True)):
        program = dtn.network(dtn.BrickWall(layers=3), (side, side)).program("materialize", 1)
        assert program.recompute is expected
    assert all(table.recompute > table.large for table in (CPU, GPU))


COMPILED = {
    "relu": dtn.BrickWall(layers=2),
    "linear": dtn.BrickWall(layers=2, activation=None),
    "train": dtn.TTMatrix(rank=2),
}


@pytest.mark.few(1)
@grid(name=list(COMPILED), mode=["auto", "materialize", "apply"])
def test_compiled_layers_have_one_graph_for_all_batches(name, mode):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = TNLinear(20, 12, COMPILED[name], mode=mode, batch_hint=64).double()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for shape in ((4, 20), (7, 20), (33, 20), (64, 20)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        ours = torch.autograd.grad(compiled(x).square().sum(), [x, *layer.parameters()])
        theirs = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
        assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(ours, theirs))
    assert counter.frame_count <= 2  # one for the first batch, one for all others


def test_compiled_layers_with_many_gates_are_those_of_eager_mode():
    """With eleven gates in a layer, the names are not in alphabetical order."""
    torch._dynamo.reset()
    layer = TNLinear(64, 64, dtn.BrickWall(layers=2), dtype=torch.float64)
    assert list(layer.cores) != sorted(layer.cores)
    x = torch.randn(3, 64, dtype=torch.float64)
    assert torch.allclose(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")  # from torch itself, inside inductor
@choose("dtype", {"bfloat16": torch.bfloat16, "float32": torch.float32}, ["bfloat16"])
def test_compiled_by_inductor(dtype):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = TNLinear(20, 12, dtn.TTMatrix(rank=2), dtype=dtype, mode="apply")
    x = torch.randn(3, 5, 20, dtype=dtype)
    with torch.no_grad():
        found, expected = torch.compile(layer, fullgraph=True)(x), layer(x)
    assert found.dtype == dtype
    assert torch.allclose(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_operators_pass_torchs_own_checks():
    net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    inputs = tensors(net)
    torch.library.opcheck(contract, (inputs, register(net.program("materialize"), net.spec.owner)))


def test_a_copied_layer_compiles():
    torch._dynamo.reset()
    layer = TNLinear(20, 12, dtn.BrickWall(layers=2))
    twin = pickle.loads(pickle.dumps(layer))
    x = torch.randn(2, 20)
    assert torch.allclose(torch.compile(twin, backend="aot_eager", fullgraph=True)(x), layer(x), atol=1e-6)


@pytest.mark.parametrize("hint", [0, -3, 1.5, "many"])
def test_batch_hint_is_a_positive_number(hint):
    with pytest.raises(dtn.SpecError, match="batch_hint"):
        TNLinear(4, 4, batch_hint=hint)


def test_a_stage_that_is_added_and_read_too():
    """W = X + D relu(C X): X is laid out for the sum, and the product with C reads it from there."""
    layout = dtn.Layout((128, 128), ((16, 8), (8, 16)))
    a, b, c, d = (leg.name for leg in layout.legs)
    stages = (
        dtn.Stage((dtn.Node("A", (a, c, "k")), dtn.Node("B", ("k", b, d))), (a, b, c, d)),
        dtn.Stage((dtn.Node("C", ("x", a)),), ("x", b, c, d), "relu", sources=(0,)),
        dtn.Stage((dtn.Node("D", (a, "x")),), (a, b, c, d), sources=(1,), add=(0,)),
    )
    net = dtn.Network(dtn.NetworkSpec(layout.legs, stages, (("k", 2), ("x", 16))), layout)
    params = net.init(seed=1, dtype="float64")
    expected = reference(net, params)
    assert np.isclose(np.sqrt(np.mean(expected**2)), np.sqrt(2 / 128))
    cores = {name: torch.from_numpy(p).requires_grad_() for name, p in params.items()}
    gradients = []
    for recompute in (False, True):
        program = dataclasses.replace(net.program("materialize"), recompute=recompute)
        for small in (2**20, 0):
            with pytest.MonkeyPatch.context() as patch:
                tables.use(patch, dataclasses.replace(CPU, large=2**10, small=small))
                found = engine.run(program, list(cores.values()))
                with torch.no_grad():
                    assert np.allclose(engine.run(program, list(cores.values())), expected, atol=1e-12)
                assert np.allclose(found.detach(), expected, atol=1e-12)
                gradients.append(torch.autograd.grad(found.sin().sum(), list(cores.values())))
    for some in gradients[1:]:
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(some, gradients[0]))


def test_every_parameter_has_a_gradient_of_its_own():
    layout = dtn.Layout((9,), ((9,),))
    net = dtn.network(dtn.Sum(terms=(dtn.TensorTrain(), dtn.PEPS())), (9,), layout)
    cores = {name: p.requires_grad_() for name, p in net.init(like="torch").items()}
    for _ in range(2):
        net.materialize(cores).sum().backward()
    assert all(torch.equal(core.grad, torch.full_like(core, 2.0)) for core in cores.values())


@choose("dtype", ["float32", "bfloat16", "float64"], ["float32", "bfloat16"])
def test_gradients_of_a_state_of_zeros(dtype, size):
    net = dtn.network(dtn.BrickWall(layers=3), (16, 16))
    arrays = {name: np.abs(core) for name, core in net.init(seed=0).items()}
    arrays["L1_g0"] = -arrays["L1_g0"]  # ReLU sets the whole first state to zero
    params = {
        name: torch.tensor(core, dtype=getattr(torch, dtype), requires_grad=True) for name, core in arrays.items()
    }
    net.materialize(params).float().sum().backward()
    theirs = jax.grad(lambda p: net.materialize(p).sum())({k: jax.numpy.asarray(core) for k, core in arrays.items()})
    for name, core in params.items():
        assert core.grad is not None
        assert np.array_equal(core.grad.float().numpy(), theirs[name])


def test_numbers_that_overflow_do_not_warn(size):
    """The tests turn NumPy's warnings into errors; PyTorch's own products never warn."""
    net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    inputs, program = tensors(net, "float32"), program_of(net, size)
    found = engine.run(program, inputs)
    grads = torch.autograd.grad(found, inputs, torch.full_like(found, math.inf))
    assert any(grad.isnan().any() for grad in grads)
    large = [(tensor.detach() * 1e30).requires_grad_() for tensor in inputs]
    infinite = engine.run(program, large)
    assert not infinite.isfinite().all()
    with torch.no_grad():
        assert not engine.run(program, large).isfinite().all()
    torch.autograd.grad(infinite.sum(), large)
