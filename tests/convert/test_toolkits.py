"""Test what quimb, cotengra, NumPy and TensorNetwork can write: deeptn generates what their own contraction gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cotengra
import numpy as np
import pytest
import quimb.tensor
import scipy.sparse
import tensornetwork
from autoray import lazy

import deeptn as dtn
from deeptn.arrays import dtype_of, from_raw, library_of
from deeptn.testing import check_laws

from ..conftest import check_error

qtn: Any = quimb.tensor


def circuit(qubits: int, depth: int, seed: int) -> Any:
    """Return a random circuit of gates on neighbors and on distant pairs."""
    rng, found = np.random.default_rng(seed), qtn.Circuit(qubits)
    for layer in range(depth):
        for k in range(qubits):
            found.u3(*rng.uniform(0, 6, 3), k)
        for k in range(layer % 2, qubits - 1, 2):
            found.cz(k, k + 1)
        found.cnot(*rng.choice(qubits, 2, replace=False))
    return found


def loose(seed: int, dtype: str = "float64") -> tuple[Any, list[str]]:
    """Return a network with repeated, lone, shared and open indices, sizes of 1, and tensors without indices."""
    rng = np.random.default_rng(seed)
    letters = "abcdefg"
    sizes = dict(zip(letters, rng.integers(1, 4, len(letters))))
    tensors = []
    for _ in range(int(rng.integers(1, 6))):
        indices = rng.choice(list(letters), int(rng.integers(0, 5)))
        data = rng.standard_normal([sizes[ix] for ix in indices])
        if dtype.startswith("complex"):
            data = data + 1j * rng.standard_normal(data.shape)
        tensors.append(qtn.Tensor(np.asarray(3 * data).astype(dtype), indices))
    held = sorted({ix for tensor in tensors for ix in tensor.inds})
    return qtn.TensorNetwork(tensors), [str(ix) for ix in rng.permutation(held)[: int(rng.integers(0, 4))]]


def quimb_cases() -> dict[str, Callable[[], Any]]:
    cases: dict[str, Callable[[], Any]] = {}
    for seed in range(8):
        nodes, degree = (10, 12, 14, 8)[seed % 4], (3, 3, 4, 5)[seed % 4]
        cases[f"regular {seed}"] = lambda s=seed, n=nodes, d=degree: qtn.TN_rand_reg(
            n, d, 2, phys_dim=2 if s % 2 else None, seed=s
        )
        cases[f"tree {seed}"] = lambda s=seed: qtn.TN_rand_tree(6 + s, 3, phys_dim=2 if s % 4 else None, seed=s)
        cases[f"MPS {seed}"] = lambda s=seed: qtn.MPS_rand_state(11, 3, cyclic=s % 2 == 1, seed=s, dtype=kind(s))
        cases[f"norm {seed}"] = lambda s=seed: (lambda psi: psi.H & psi)(qtn.MPS_rand_state(8, 3, seed=s))
        cases[f"circuit {seed}"] = lambda s=seed: circuit(6 + s, 3, s).psi
        cases[f"PEPS {seed}"] = lambda s=seed: qtn.PEPS.rand(2 + s % 2, 3, 2, seed=s, dtype=kind(s))
        cases[f"2D {seed}"] = lambda s=seed: qtn.TN2D_rand(3, 4, 2, seed=s, cyclic=s % 2 == 1)
    for seed in range(4):
        cases[f"MPO {seed}"] = lambda s=seed: qtn.MPO_rand(4, 3, cyclic=s % 2 == 1, seed=s)
        cases[f"PEPO {seed}"] = lambda s=seed: qtn.PEPO.rand(2, 2, 2, seed=s)
        cases[f"MERA {seed}"] = lambda s=seed: qtn.MERA.rand(8, 2 + s % 2, dtype=kind(s), seed=s)
        cases[f"unitary {seed}"] = lambda s=seed: circuit(4, 2, s).get_uni()
        cases[f"simplified {seed}"] = lambda s=seed: circuit(6, 3, s).get_psi_simplified()
        cases[f"ising {seed}"] = lambda s=seed: qtn.HTN2D_classical_ising_partition_function(2 + s, 3, beta=0.3)
        cases[f"3D {seed}"] = lambda s=seed: qtn.PEPS3D.rand(2, 2, 2, 2, seed=s)
    for seed in range(12):
        cases[f"hyper {seed}"] = lambda s=seed: hyper(s)
        cases[f"satisfiability {seed}"] = lambda s=seed: qtn.HTN_random_ksat(3, 8, alpha=2.0, seed=s)
    for seed in range(40):
        cases[f"loose {seed}"] = lambda s=seed: loose(s, ("float64", "complex128", "int64", "bool")[s % 4])
    return cases


def kind(seed: int) -> str:
    return "complex128" if seed % 3 == 0 else "float64"


def hyper(seed: int) -> tuple[Any, list[str]]:
    """Return a network with hyper-indices, some of them open."""
    network = qtn.HTN_rand(9, 3, n_out=2, n_hyper_in=2, n_hyper_out=1, seed=seed)
    return network, [ix for ix in network.ind_map if ix.startswith("k") and ix[1:].isdigit()]


QUIMB = quimb_cases()


@pytest.mark.few(12)
@pytest.mark.parametrize("name", QUIMB)
def test_quimb(name):
    made = QUIMB[name]()
    network, output = made if isinstance(made, tuple) else (made, None)
    net, params = dtn.from_quimb(network, output)
    order = getattr(network, "site_inds", network.outer_inds()) if output is None else output
    if any(tensor.dtype == "bool" for tensor in network.tensors):
        network = network.astype("float64")  # quimb's sums of booleans are booleans
    expected = network.contract(output_inds=order, optimize="greedy", preserve_tensor=True).data
    assert near(net.materialize(params), expected)
    (again,) = dtn.to_quimb(net, params)
    legs = [leg.name for leg in net.layout.legs]
    assert near(again.contract(output_inds=legs, optimize="greedy", preserve_tensor=True).data, expected)


def near(found: Any, expected: Any) -> bool:
    """Compare with the largest entry: a relative error of 1e-12."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max() <= 1e-12 * max(np.abs(expected).max(), 1e-300))


def random_equation(seed: int) -> tuple[str, list[np.ndarray]]:
    """Return one of cotengra's equations, with hyper-indices, and arrays for it."""
    options = {"n_out": seed % 4, "n_hyper_in": seed % 3, "n_hyper_out": seed % 2}
    inputs, output, shapes, _ = cotengra.utils.rand_equation(6 + seed % 7, 3, d_max=3, seed=seed, **options)
    rng = np.random.default_rng(seed)
    return cotengra.utils.inputs_output_to_eq(inputs, output), [rng.standard_normal(shape) for shape in shapes]


def many_symbols(seed: int) -> tuple[str, list[np.ndarray]]:
    """Return a ring of tensors with more indices than there are letters."""
    rng, count = np.random.default_rng(seed), 60 + 10 * seed
    symbols = [cotengra.get_symbol(k) for k in range(count + 2)]
    words = ["".join((symbols[k], symbols[(k + 1) % count])) for k in range(count)]
    words[0], words[-1] = words[0] + symbols[count], symbols[count + 1] + words[-1]
    arrays = [rng.standard_normal((2,) * len(word)) for word in words]
    return f"{','.join(words)}->{symbols[count + 1]}{symbols[count]}", arrays


EQUATIONS = (
    *("ab,bc->ac", "ab,bc", "ba", "ab,ba->", "ab,bc->a", "aab->b", "aab->ab", "ii", "ii->i", "iii->", "aabb,bbcc->ca"),
    *(
        "ab,ab->ab",
        "abc,abd,abe->a",
        " ab , bc -> ac ",
        "AB,Bc->cA",
        "a,b->ba",
        ",ab,->b",
        "->",
        ",->",
        "ab->",
        "a,a,a->a",
    ),
    *(
        "λμ,μν->νλ",
        "abcabc->cb",
        "aa,ab,bb,bc,cc->ac",
        "zyx,xwv->",
        "aab,bcc,cdd->",
        "ab,cd->da",
        "a1,1b->ab",
        "ba,ab,ab->b",
    ),
)


def fixed_equation(equation: str) -> tuple[str, list[np.ndarray]]:
    rng = np.random.default_rng(len(equation))
    sizes = {ix: 2 + ord(ix) % 3 for ix in equation}
    words = "".join(equation.split()).partition("->")[0].split(",")
    return equation, [np.asarray(rng.standard_normal([sizes[ix] for ix in word])) for word in words]


EINSUM: dict[str, Callable[[], tuple[str, list[np.ndarray]]]] = {
    **{f"cotengra {seed}": lambda s=seed: random_equation(s) for seed in range(36)},
    **{f"symbols {seed}": lambda s=seed: many_symbols(s) for seed in range(3)},
    **{equation: lambda e=equation: fixed_equation(e) for equation in EQUATIONS},
}


@pytest.mark.parametrize("name", EINSUM)
def test_einsum(name):
    equation, arrays = EINSUM[name]()
    plain = np.einsum if equation.isascii() and not equation.count("1") else cotengra.einsum
    options: Any = "greedy" if len(arrays) > 2 or plain is cotengra.einsum else False  # "auto" would start processes
    expected = plain("".join(equation.split()), *arrays, optimize=options)
    net, params = dtn.from_einsum(equation, *arrays)
    assert all(params[f"T{k}"] is array for k, array in enumerate(arrays))
    assert near(net.materialize(params), expected)
    graph = dtn.Graph.from_einsum(equation)
    assert dtn.network(graph, net.shape, net.layout).num_params
    ((again, operands),) = dtn.to_einsum(net, params)
    net, params = dtn.from_einsum(again, *operands)
    assert near(net.materialize(params), expected)


def test_any_character_can_be_an_index():
    space = chr(0x2003)  # one of cotengra's symbols, for which str.isspace is true
    assert space in {cotengra.get_symbol(k) for k in range(10_000)}
    assert dtn.Graph.from_einsum(f"a{space},{space}b->ba") == dtn.Graph(
        nodes={"A": f"a{space}", "B": f"{space}b"}, output="ba"
    )


def nodes_at_random(seed: int) -> tuple[list[Any], list[Any]]:
    """Return connected nodes, some with traces, and copy nodes with up to three dangling edges."""
    rng = np.random.default_rng(seed)
    ends: list[Any] = []
    nodes: list[Any] = []
    for k in range(int(rng.integers(1, 7))):
        data = rng.standard_normal((3,) * int(rng.integers(0, 4)))
        nodes.append(tensornetwork.Node(data if seed % 5 else np.rint(3 * data).astype(int), name=f"node{k}"))
    for k in range(int(rng.integers(0, 4))):
        nodes.append(tensornetwork.CopyNode(int(rng.integers(1, 5)), 3, name=f"copy{k}"))
    ends = [(node, axis) for node in nodes for axis in range(len(node.edges))]
    ends = [ends[k] for k in rng.permutation(len(ends))]
    dangling = min(len(ends), int(rng.integers(0, 5)))
    dangling += (len(ends) - dangling) % 2
    for one, other in zip(ends[dangling::2], ends[dangling + 1 :: 2]):
        tensornetwork.connect(one[0][one[1]], other[0][other[1]])
    return nodes, [node[axis] for node, axis in ends[:dangling]]


def contracted(nodes: list[Any], edges: list[Any]) -> np.ndarray:
    """Contract nodes in TensorNetwork itself, pair by pair; the nodes are used up."""

    result = nodes[0]
    for node in nodes[1:]:
        result = tensornetwork.contract_between(result, node, allow_outer_product=True)
    loops = [edge for edge in result.edges if not edge.is_dangling()]
    result = tensornetwork.contract_trace_edges(result) if loops else result
    return result.reorder_edges(edges).tensor


@pytest.mark.parametrize("seed", range(60))
def test_tensornetwork(seed):
    net, params = dtn.from_tensornetwork(*nodes_at_random(seed))
    expected = contracted(*nodes_at_random(seed))
    assert near(net.materialize(params), expected)
    ((again, legs),) = dtn.to_tensornetwork(net, params)
    assert near(contracted(again, legs), expected)


def test_the_legs_of_a_state_are_in_the_order_of_its_sites():
    made = circuit(12, 2, 0)
    simplified, dense = made.get_psi_simplified(), made.to_dense(optimize="greedy").reshape(-1)
    assert tuple(simplified.outer_inds()) != tuple(made.psi.site_inds)
    for psi in (made.psi, simplified):
        net, params = dtn.from_quimb(psi, shape=(2**6, 2**6))
        assert near(net.materialize(params).reshape(-1), dense)


def test_a_copy_node_with_two_open_legs_is_a_diagonal():
    node, copy = tensornetwork.Node(np.array([2, 3, 5])), tensornetwork.CopyNode(3, 3)
    tensornetwork.connect(node[0], copy[1])
    net, params = dtn.from_tensornetwork([node, copy], [copy[2], copy[0]])
    assert net.num_params == 3
    assert near(net.materialize(params), np.diag([2.0, 3.0, 5.0]))


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (("int64", "uint8"), "float64"),
        (("bool", "float32"), "float32"),
        (("float16", "float32"), "float32"),
        (("float32", "complex64"), "complex64"),
        (("float64", "complex64"), "complex128"),
        (("float16", "float16"), "float16"),
    ],
)
def test_arrays_get_one_dtype(given, dtype):
    arrays = [np.arange(6).reshape(2, 3).astype(name) for name in given]
    net, params = dtn.from_einsum("ab,cb->ac", *arrays)
    assert {array.dtype.name for array in params.values()} == {dtype}
    assert near(net.materialize(params), np.matmul(*(x.astype("complex128") for x in (arrays[0], arrays[1].T))))


def test_integers_of_other_libraries(torch, jax):
    for whole, library, wide in ((torch.arange(6), "torch", "float64"), (jax.numpy.arange(6), "jax", "float32")):
        net, params = dtn.from_einsum("ab->", whole.reshape(2, 3))
        assert {dtype_of(array) for array in params.values()} == {wide}
        assert library_of(params["T0"]).name == library
        assert float(net.materialize(params)) == 15.0
        net, params = dtn.from_einsum("ab,c->", whole.reshape(2, 3), from_raw(np.ones(2, "float32"), library))
        assert {dtype_of(array) for array in params.values()} == {"float32"}


def test_numbers_lists_and_arrays_that_are_computed_later():
    net, params = dtn.from_einsum(",ab,b->a", 2, [[1, 2], [3, 4]], np.float64(1) * np.ones(2))
    assert near(net.materialize(params), np.array([6.0, 14.0]))
    matrix = np.arange(4.0).reshape(2, 2)
    later = lazy.array(matrix) @ lazy.array(matrix)
    made = qtn.PTensor(lambda x: np.outer(x, x), np.arange(2.0), inds="bc")
    net, params = dtn.from_quimb(qtn.TensorNetwork([qtn.Tensor(later, "ab"), made]))
    assert near(net.materialize(params), matrix @ matrix @ np.diag([0.0, 1.0]))
    net, params = dtn.from_quimb(qtn.Tensor(matrix, "ab"), ["b", "a"])
    assert near(net.materialize(params), matrix.T)


@pytest.mark.parametrize("equation", ["xxa,by->ab", "aab->ab", "aaa->", "ab,bc->a", "->", "aab,bc,cc->ac"])
def test_laws(equation):
    graph = dtn.Graph.from_einsum(equation, rank=3)
    net = check_laws(graph, range(2, 2 + len(graph.output[0])), libraries=("numpy", "torch"))
    assert graph.einsum or equation == "->"
    if net.shape:
        params = net.init(dtype="float64")
        assert near(net.gather(params, [1]), net.materialize(params)[[1]])
        assert near(net.materialize(params, rows=slice(0, 1)), net.materialize(params)[:1])


def test_a_sum_of_closed_networks():
    one, other = (qtn.TensorNetwork([qtn.Tensor(x * np.ones((2, 2)), "aa")]) for x in (1.0, 2.0))
    net, params = dtn.from_quimb([one, other])
    assert (net.shape, float(net.materialize(params))) == ((), 6.0)
    with pytest.raises(dtn.SpecError, match="tn is an empty sequence; expected a quimb TensorNetwork"):
        dtn.from_quimb([])


SCALAR = dtn.network(dtn.Graph.from_einsum("ab,ba->"), ())


@pytest.mark.parametrize(
    "use",
    [
        lambda params: SCALAR.apply(params, np.ones(1, "float32")),
        lambda params: SCALAR.gather(params, [0]),
        lambda params: SCALAR.materialize(params, rows=slice(0, 1)),
        lambda params: SCALAR.iter_blocks(params, 10**6),
        lambda params: SCALAR.cost("apply"),
        lambda params: SCALAR.cost("gather"),
        lambda params: SCALAR.choose(1),
    ],
)
def test_a_scalar_has_no_rows(use):
    with pytest.raises(dtn.LayoutError, match=r"generates a scalar, of shape \(\), which has no rows; use materialize"):
        use(SCALAR.init())


def test_families_need_an_axis():
    for family in ("BrickWall", "TTMatrix", "LowRank"):
        with pytest.raises(dtn.DeepTNError, match=r"at least one axis|needs row legs"):
            dtn.network(family, ())
    with pytest.raises(dtn.LayoutError, match=r"legs of sizes \(2,\) do not make up the shape \(\)"):
        dtn.Layout.grouped((), (2,))


ONES = np.ones((2, 3))


def tensors(*arrays: Any, indices: Any = ("ab", "bc"), tags: Any = ("A", "B")) -> Any:
    return qtn.TensorNetwork([qtn.Tensor(x, ix, tags=[tag]) for x, ix, tag in zip(arrays, indices, tags)])


def nodes() -> tuple[Any, Any]:
    one, other = tensornetwork.Node(ONES, name="one"), tensornetwork.Node(ONES.T, name="other")
    tensornetwork.connect(one[1], other[0])
    return one, other


ONE, OTHER = nodes()
STATE: Any = tensornetwork.FiniteMPS.random([2, 2], [2], np.float64)
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "ellipsis": (
        lambda: dtn.from_einsum("a...,ab->b", ONES, ONES),
        "write for example 'abx,bcy->acxy', without an ell",
    ),
    "output twice": (
        lambda: dtn.from_einsum("ab->aa", ONES),
        "'ab->aa': the output repeats the index 'a'; name it once",
    ),
    "output": (lambda: dtn.from_einsum("ab->c", ONES), "the output has the index 'c', but no operand has it"),
    "axes": (lambda: dtn.from_einsum("aab->b", ONES), "operand 0 is 'aab', but its array has shape"),
    "diagonal": (lambda: dtn.from_einsum("aa->", ONES), "tensor 0: the index 'a' has size 3 here and 2 elsewhere"),
    "no size": (lambda: dtn.from_einsum("ab->a", np.ones((2, 0))), "tensor 0: the index 'b' has size 0"),
    "dtype": (lambda: dtn.from_quimb(tensors(ONES.astype(object))), r"tensor 0 \('A'\) has the dtype object; expected"),
    "size": (lambda: dtn.from_quimb(tensors(ONES, ONES)), r"tensor 1 \('B'\): the index 'b' has size 2 here and 3"),
    "circuit": (lambda: dtn.from_quimb(qtn.Circuit(2)), "got Circuit; write circuit.psi"),
    "no tensors": (lambda: dtn.from_quimb(qtn.TensorNetwork([])), "the network has no tensors"),
    "quimb output": (
        lambda: dtn.from_quimb(tensors(ONES), ["a", "q"]),
        "the open index 'q' belongs to no tensor of the",
    ),
    "quimb repeats": (lambda: dtn.from_quimb(tensors(ONES), "aa"), "output repeats the index 'a'"),
    "term": (lambda: dtn.from_quimb([tensors(ONES), tensors(ONES, indices=["ac"])], "ac"), "no tensor of network 0"),
    "state": (
        lambda: dtn.from_quimb([tensors(ONES), tensors(ONES[:, :2], ONES, indices=["aa", "ab"], tags=["STATE", ""])]),
        r"network 1 has a STATE tensor that repeats an index, \('a', 'a'\); take its diagonal",
    ),
    "dangles": (
        lambda: dtn.from_tensornetwork([ONE, OTHER], [ONE[0]]),
        r"node 1 \('other'\): the edge of axis 1 dangles",
    ),
    "unordered": (lambda: dtn.from_tensornetwork([ONE, OTHER]), "output is missing; the nodes have 2 dangling edges"),
    "leads out": (
        lambda: dtn.from_tensornetwork([ONE], [ONE[0]]),
        "axis 1 leads to the node 'other', which is not among",
    ),
    "edge twice": (
        lambda: dtn.from_tensornetwork([ONE, OTHER], [ONE[0]] * 2),
        "repeats the edge of axis 0 of the node 'on",
    ),
    "bond as output": (
        lambda: dtn.from_tensornetwork([ONE, OTHER], [ONE[0], OTHER[1], ONE[1]]),
        r"output\[2\] is not a dangling edge of one of the nodes",
    ),
    "one edge": (
        lambda: dtn.from_tensornetwork([ONE, OTHER], ONE[0]),
        r"list of edges .*, got Edge; write for example",
    ),
    "no edge": (lambda: dtn.from_tensornetwork([ONE, OTHER], [ONE[0], 3]), "list of edges of tensornetwork, got int"),
    "a state": (
        lambda: dtn.from_tensornetwork(STATE),
        r"nodes must be tensornetwork nodes, in a list, got FiniteMPS; write for example \[a, b\]",
    ),
    "masked": (
        lambda: dtn.from_einsum("ab,bc->ac", ONES.T, np.ma.masked_array(ONES, ONES == 1)),
        r"tensor 1 is a masked array, .* write for example array\.filled\(0\)",
    ),
    "sparse": (
        lambda: dtn.from_einsum("ab->ab", scipy.sparse.csr_array(ONES)),
        r"tensor 0 is a sparse array, a csr_array; write array\.toarray\(\)",
    ),
    "copies only": (lambda: dtn.from_tensornetwork([tensornetwork.CopyNode(1, 2)]), "the network has no tensors"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_what_the_user_wrote(call, message):
    check_error(call, dtn.SpecError, message)


def test_sparse_arrays_of_other_libraries(torch, jax):
    from jax.experimental.sparse import BCOO

    for array, method in (
        (torch.eye(2).to_sparse(), "to_dense"),
        (BCOO.fromdense(jax.numpy.eye(2)), "todense"),
    ):
        with pytest.raises(dtn.SpecError, match=rf"tensor 0 is a sparse array, .* write array\.{method}\(\)"):
            dtn.from_einsum("ab->ab", array)


def test_one_library(torch):
    with pytest.raises(
        dtn.SpecError, match=r"tensor 1 \('B'\) is an array of torch, but tensor 0 \('A'\) is one of numpy"
    ):
        dtn.from_quimb(tensors(ONES, torch.ones(3, 2)))
