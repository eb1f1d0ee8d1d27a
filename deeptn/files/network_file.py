"""Files: tensors in the safetensors format, the specification as versioned JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays import DTYPES, convert, dtype_of, target
from ..base import Params, ParamsLike, PathLike, is_list, is_object
from ..errors import FormatError, SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout, NetworkSpec
from ..topologies import topology_from_dict, topology_names, topology_to_dict
from .tensors import read_tensors, write_tensors

NETWORK = "deeptn.network"


def network_to_dict(net: Network) -> dict[str, Any]:
    """Plain data for JSON: layout, spec, and the topology if it is a registered one."""
    known = net.topology is not None and type(net.topology).__name__ in topology_names()
    return {
        "layout": net.layout.to_dict(),
        "spec": net.spec.to_dict(),
        "topology": topology_to_dict(net.topology) if known and net.topology is not None else None,
    }


def network_from_dict(data: Any) -> Network:
    """Inverse of `network_to_dict`.

    The spec is what counts. The topology is kept where it is registered here and still builds that spec.

    Raises
    ------
    FormatError
        For data of another form.
    """
    if not is_object(data) or set(data) != {"layout", "spec", "topology"}:
        raise FormatError(f"a network needs the keys 'layout', 'spec' and 'topology', got {data!r:.80}")
    layout, spec = Layout.from_dict(data["layout"]), NetworkSpec.from_dict(data["spec"])
    family = data["topology"]
    topology = None
    if is_object(family) and family.get("name") in topology_names():
        topology = topology_from_dict(family)
        try:
            # Building takes time in proportion to the size, which nothing in a hostile file limits.
            plausible = all(size <= max(4096, spec.num_params) for size in _numbers(family))
            topology = topology if plausible and topology.build(layout.legs) == spec else None
        except SpecError:
            topology = None
    try:
        return Network(spec, layout, topology)
    except SpecError as error:
        raise FormatError(f"bad network: {error}") from error


def fingerprint(net: Network) -> str:
    """A short text that is the same for equal networks (SHA-256 of their JSON).

    Examples
    --------
    >>> import deeptn as dtn
    >>> wall = dtn.network("BrickWall", (8, 8))
    >>> fingerprint(wall) == fingerprint(dtn.network("BrickWall", (8, 8))) != fingerprint(dtn.network("Tree", (8, 8)))
    True
    """
    text = json.dumps(network_to_dict(replace(net, topology=None)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _numbers(data: Any) -> Iterator[int]:
    """All integers in plain data."""
    if is_object(data):
        data = list(data.values())
    if is_list(data):
        for value in data:
            yield from _numbers(value)
    elif isinstance(data, int):
        yield data


def save(path: PathLike, net: Network, params: ParamsLike) -> None:
    """Write a network and its parameters to one safetensors file.

    Parameters
    ----------
    path : path
        Replaced as a whole, or not at all.
    net : Network
    params : mapping of str to array
        Of any library. Stored bit by bit in their own dtype, complex entries as pairs.

    Raises
    ------
    SpecError
        If the parameters are not those of the network.

    Examples
    --------
    >>> import deeptn as dtn, tempfile, os
    >>> net = dtn.network(dtn.BrickWall(layers=1), (16, 16))
    >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
    >>> dtn.save(path, net, net.init(seed=1))
    >>> again, params = dtn.load(path)
    >>> again == net, params["L1_g0"].dtype.name
    (True, 'float32')
    """
    check_floats(net, params)
    write_tensors(path, {"format": NETWORK} | network_to_dict(net), params)


def load(path: PathLike, like: Any = "numpy", device: Any = None) -> tuple[Network, Params]:
    """Read a network and its parameters.

    Parameters
    ----------
    path : path
        A file written by `save`.
    like : {"numpy", "torch", "jax"} or array
        Library of the parameters; the dtype is the one that was saved (NumPy: float32 for bfloat16, exactly).
    device : optional
        As the library writes it.

    Returns
    -------
    net : Network
    params : dict of str to array

    Raises
    ------
    FormatError
        If the file is truncated, of another format, or inconsistent. Nothing in it is executed.

    Examples
    --------
    >>> import deeptn as dtn, tempfile, os
    >>> net = dtn.network(dtn.LowRank(rank=1), (4, 4))
    >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
    >>> dtn.save(path, net, net.init(like="torch", dtype="bfloat16"))
    >>> dtn.load(path, like="torch")[1]["U"].dtype
    torch.bfloat16
    """
    header, tensors = read_tensors(path, NETWORK)
    net = network_from_dict({key: header.get(key) for key in ("layout", "spec", "topology")})
    dtypes = header.get("dtypes")
    if not is_object(dtypes) or dtypes.keys() != tensors.keys() or not set(dtypes.values()) <= set(DTYPES):
        raise FormatError("the header's dtypes do not name the parameters of the network one by one")
    library = target(like, "float32", device)[0]
    params: Params = {}
    for name, array in cores_of(net, tensors, "").items():
        dtype = dtypes[name] if dtypes[name] in library.dtypes else "float32"
        params[name] = convert(array, library.name, dtype, device)
    return net, params


def check_floats(net: Network, params: ParamsLike) -> None:
    """Raise `SpecError` unless these are the parameters of the network, each in a dtype of `DTYPES`."""
    check_params(net.spec, params)
    for name in net.spec.param_shapes:
        if dtype_of(params[name]) not in DTYPES:
            raise SpecError(f"parameter {name!r} has the dtype {dtype_of(params[name])}; expected floats")


def cores_of(net: Network, tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The parameters of a network among the tensors of a file."""
    shapes = net.spec.param_shapes
    found = {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
    if found.keys() != shapes.keys():
        whose = f"layer {prefix.removesuffix('.cores.')!r}" if prefix else "the network"
        raise FormatError(f"the tensors of the file are not the parameters of {whose} in its header")
    for name, shape in shapes.items():
        if found[name].shape != shape or found[name].dtype.name not in DTYPES:
            came = f"{found[name].dtype} {found[name].shape}"
            raise FormatError(f"parameter {name!r}: expected floats of shape {shape}, got {came}")
    return {name: found[name] for name in shapes}
