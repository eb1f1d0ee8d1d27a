"""Test that what is compiled for a network goes when the network does, and that threads and processes agree."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import deeptn_torch
import jax
import numpy as np
import pytest
import torch
from deeptn_torch.engine import operators

import deeptn as dtn
from deeptn.base import CACHE, Cache, owner_of
from deeptn.base.cache import RECENT, Owner
from deeptn.engine import run
from deeptn.files import network_from_dict, network_to_dict
from deeptn.spec import Leg, NetworkSpec, Node, Stage

#: No other test has this slope. Walls on equally many legs have one specification, so networks in the modules of other
#: tests, which live as long as the process, would keep what is compiled for them.
WALL = dtn.BrickWall(layers=2, activation="leaky_relu:0.123")


def forget() -> None:
    """Let everything go that nothing refers to."""
    RECENT.clear()
    gc.collect()


HASHES = """
import pickle, sys
import deeptn as dtn
nets = [dtn.network(t, (12, 20)) for t in ("BrickWall", "TTMatrix", "Tree", "MERA", "LowRank")]
nets.append(dtn.network(dtn.TensorTrain(rank=2), (8, 8), dtn.Layout((8, 8), order="interleaved")))
print([(hash(net), hash(net.spec), hash(net.layout), net.program("materialize").number) for net in nets])
sys.stdout.flush()
pickle.dump(nets, open(sys.argv[1], "wb"))
"""


def test_hashes_are_the_same_in_every_process(tmp_path):
    found = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", HASHES, str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert found[0] == found[1]
    one, other = (pickle.loads((tmp_path / seed).read_bytes()) for seed in ("1", "2"))
    assert one == other
    assert str([(hash(n), hash(n.spec), hash(n.layout), n.program("materialize").number) for n in one]) == found[0][:-1]
    assert len({*one, *other}) == len(one)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32])
def test_equal_specifications_have_equal_hashes(kind):
    def spec(size: Any, sign: float = 1.0) -> NetworkSpec:
        nodes = (
            Node("A", ("a0_0", "b")),
            Node("B", ("b", "a1_0")),
            Node("one", ("b",), constant=[0.0 * sign, 1]),  # type: ignore[arg-type]
        )
        legs = Leg("a0_0", size, size - size), Leg("a1_0", size, size // size)
        return NetworkSpec(legs, (Stage(nodes, ("a0_0", "a1_0")),), {"b": 2})  # type: ignore[arg-type]

    def named(text: Any) -> dtn.Network:
        nodes = (Node(text("A"), (text("a0_0"), text("b"))), Node(text("B"), (text("b"), text("a1_0"))))
        last = Stage((Node(text("C"), (text("a1_0"), text("x"))),), (text("a0_0"), text("x")))
        first = Stage(nodes, (text("a0_0"), text("a1_0")), text("relu"), text("rms"))
        legs = Leg(text("a0_0"), 4, 0), Leg(text("x"), 3, 1)
        made = NetworkSpec(legs, (first, last), {text("b"): 2, text("a1_0"): 3})  # type: ignore[arg-type]
        return made, dtn.Layout((4, 3), ((4,), (3,)), text("interleaved"))  # type: ignore[return-value]

    assert named(str) == named(np.str_)
    assert hash(named(str)) == hash(named(np.str_))
    assert spec(4) == spec(kind(4), -1.0)
    assert hash(spec(4)) == hash(spec(kind(4), -1.0))
    assert spec(4).owner is spec(kind(4), -1.0).owner


@pytest.mark.few(1)
@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_programs_go_with_their_networks(library):
    def use(size: int) -> list[weakref.ref[Any]]:
        net = dtn.network(dtn.TTMatrix(rank=2), (size, 12))
        params = net.init(like=library)
        x = net.materialize(params)
        if library == "jax":
            jax.grad(lambda p: (net.materialize(p) ** 2).sum())(params)
            jax.jit(net.apply)(params, x)
        net.apply(params, x)
        net.gather(params, [0, 1])
        for _ in net.iter_blocks(params, 4096):
            pass
        dtn.decompose(np.eye(size, 12), dtn.TTMatrix(rank=2), net.layout)
        programs = [net.program("materialize"), net.program("apply", batch=16)]
        assert len(CACHE) > before[0] + 3
        return [weakref.ref(one) for one in (*programs, net.spec)]

    forget()
    before = len(CACHE), CACHE.nbytes
    alive = use(15)
    forget()
    assert [one for one in alive if one() is not None] == []
    assert (len(CACHE), CACHE.nbytes) == before


@pytest.mark.slow
def test_equal_networks_share_programs_until_the_last_is_gone():
    first, second = (dtn.network(WALL, (14, 22)) for _ in range(2))
    program = weakref.ref(first.program("materialize"))
    assert second.program("materialize") is program()
    del first
    forget()
    assert program() is not None
    assert second.program("materialize") is program()
    del second
    forget()
    assert program() is None


def test_an_equal_network_that_was_not_used_keeps_programs():
    first, second = (dtn.network(WALL, (14, 26)) for _ in range(2))
    program = weakref.ref(first.program("materialize"))
    del first
    forget()
    assert program() is not None
    assert second.program("materialize") is program()


@pytest.mark.slow
def test_a_loop_over_temporary_networks_compiles_once():
    forget()
    before = CACHE.misses
    for _ in range(5):
        dtn.network(WALL, (14, 30)).program("materialize")
        gc.collect()
    assert CACHE.misses == before + 1


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_programs_are_pickled_and_copied_without_what_belongs_to_a_process(library):
    net = dtn.network(WALL, (10, 14))
    params = net.init(like=library)
    expected, program = net.materialize(params), net.program("materialize")
    for twin in (pickle.loads(pickle.dumps(program)), copy.copy(program), copy.deepcopy(program)):
        assert twin == program
        assert set(vars(twin)) == {"inputs", "constants", "stacks", "steps", "result", "shape", "cost", "recompute"}
        found = run(twin, list(params.values()))
        assert np.allclose(np.asarray(found), np.asarray(expected), atol=1e-6)


def test_layers_are_released():
    forget()
    before, entries = len(operators._PROGRAMS), len(CACHE)
    layers = [deeptn_torch.TNLinear(15 + k, 13, WALL) for k in range(5)]
    for layer in layers:
        layer(torch.ones(2, layer.in_features)).sum().backward()
    assert len(operators._PROGRAMS) == before + 5
    layers.clear()
    layer = None
    forget()
    assert (len(operators._PROGRAMS), len(CACHE)) == (before, entries)


@pytest.mark.few(1)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_keeps_the_programs(copied):
    torch._dynamo.reset()
    twin = copied(deeptn_torch.TNLinear(17, 11, WALL))
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    forget()
    CACHE.clear()
    x = torch.randn(2, 17)
    assert torch.allclose(compiled(x), twin(x), atol=1e-6)
    torch._dynamo.reset()


def test_a_program_that_is_gone_is_named():
    owner = Owner()
    net = dtn.network(WALL, (9, 10))
    number = operators.register(net.program("materialize"), owner)
    tensors = [torch.as_tensor(array) for array in net.init().values()]
    assert operators.contract(tensors, number).shape == (9, 10)
    del owner, net
    forget()
    with pytest.raises(RuntimeError, match="a compiled graph needs the program of a deeptn layer"):
        operators.contract(tensors, number)


def test_equal_programs_of_different_networks_are_one_in_the_registry():
    """One of the networks may go; the program of the other one stays registered."""
    first = dtn.network(WALL, (8, 8))
    data = network_to_dict(first)
    second = network_from_dict(data)
    one, other = Owner(), Owner()
    number = operators.register(copy.copy(first.program("materialize")), one)
    assert operators.register(copy.copy(second.program("materialize")), other) == number
    del one
    forget()
    assert number in operators._PROGRAMS
    del other
    forget()
    assert number not in operators._PROGRAMS or first.spec.owner.pinned


def test_threads_agree_on_numbers():
    """Many threads register the same networks at the same time, in another order each."""
    nets = [dtn.network(dtn.TTMatrix(rank=1 + k % 3), (4 + k, 6)) for k in range(60)]
    expected = [net.materialize(net.init(like="torch")) for net in nets]
    CACHE.clear()
    wrong: list[int] = []
    start = threading.Barrier(4)

    def work(shift: int) -> None:
        start.wait()
        for k in range(len(nets)):
            place = (k * (2 * shift + 1) + 15 * shift) % len(nets)
            net = nets[place]
            number = operators.register(net.program("materialize"), net.spec.owner)
            found = operators.contract(list(net.init(like="torch").values()), number)
            if not torch.equal(found, expected[place]):
                wrong.append(place)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(shift,)) for shift in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong


def test_the_cache_drops_what_was_used_least_recently():
    cache, owner = Cache(most=100_000), Owner()
    for number in range(50):
        cache.get(owner, number, lambda: bytes(4000))
        assert cache.get(owner, 0, lambda: pytest.fail("it was used just before")) == bytes(4000)
        assert cache.nbytes <= cache.most
    assert 5 < len(cache) < 15
    misses = cache.misses
    assert cache.get(owner, 49, lambda: None) is not None
    assert cache.misses == misses
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


@pytest.mark.slow
def test_owners_may_go_while_the_cache_shrinks():
    """The garbage collector may find owners in cycles at any time, also inside the cache."""
    for _ in range(20):
        cache = Cache(most=300_000)
        owners = [Owner() for _ in range(300)]
        for owner in owners:
            cache.get(owner, "a", lambda: bytes(100))
        for owner in owners[:50]:
            owner.pinned["itself"] = owner
        owner = owners.pop()
        del owner, owners[:50]
        for number in range(100):
            cache.get(owners[number], "b", lambda: [bytes(1000) for _ in range(3)])
        gc.collect()
        assert cache.nbytes <= cache.most
        assert all(serial in {owner.serial for owner in owners} for serial in cache._entries)


def test_owners_are_found_by_their_key():
    one = owner_of("a")
    assert copy.deepcopy(one) is one
    assert pickle.loads(pickle.dumps(one)) is one
    known = weakref.ref(one)
    del one
    forget()
    assert known() is None
