"""Network files: tensors as safetensors, with the specification as versioned JSON in the header. No pickle."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np

from ..arrays import DTYPES, convert, dtype_of, target, to_raw
from ..base import Params, ParamsLike, PathLike, is_list, is_object, path_of
from ..errors import FormatError, SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout, NetworkSpec, count_nodes, limited_nodes
from ..topologies import Topology, topology_from_dict, topology_names, topology_to_dict
from .tensors import check_keys, compact, read_tensors, write_tensors

NETWORK = "deeptn.network"


#: In bytes: largest inflated size of a description, and the length from which it is deflated.
INFLATED, LONG = 2**26, 512


def network_to_dict(net: Network) -> dict[str, Any]:
    """Return plain data for JSON, as short as possible.

    If a family that ships with deeptn builds exactly this specification, only its fields, the layout and a fingerprint
    are stored. For any other network, the specification is stored. Long descriptions are deflated.
    """
    data: dict[str, Any] = {"layout": net.layout.to_dict()}
    topology = net.topology
    if topology is not None and type(topology).__name__ in topology_names():
        data["topology"] = topology_to_dict(topology)
    if topology is not None and _comes_with_deeptn(topology) and topology.build(net.layout.legs) == net.spec:
        data["digest"] = fingerprint(net)
    else:
        data["spec"] = net.spec.to_dict()
        count_nodes(len(net.spec.nodes))
    text = compact(data)
    if len(text) < LONG:
        return data
    return {"deflate": base64.b64encode(zlib.compress(text.encode(), 9)).decode()}


def network_from_dict(data: Any, entries: int = 0) -> Network:
    """Build a network from the data of `network_to_dict`, or from what older versions wrote.

    A specification in the data takes precedence; the topology is kept only if it is registered here and still builds
    that specification.

    Parameters
    ----------
    data : object
    entries : int
        How many numbers the file has for the network. Build time is proportional to the size, and nothing else in a
        hostile file limits the size.

    Raises
    ------
    FormatError
        If the data is malformed, or its family is unknown here or builds a different network than it used to.
    """
    with limited_nodes():
        return _network(data, entries)


def _network(data: Any, entries: int) -> Network:
    if is_object(data) and data.keys() == {"deflate"}:
        data = _inflated(data["deflate"])
    if not is_object(data) or "layout" not in data or not {"spec", "digest"} & data.keys():
        raise FormatError(f"a network needs a 'layout' and a 'spec' or a 'digest', got {data!r:.80}")
    check_keys(data, ("layout", "topology", "spec", "digest"), "a network of the file")
    layout, family = Layout.from_dict(data["layout"]), data.get("topology")
    spec = NetworkSpec.from_dict(data["spec"]) if "spec" in data else None
    limit = max(4096, entries)
    topology = built = None
    if is_object(family) and _is_known(family, limit):
        topology = topology_from_dict(family)
        with suppress(SpecError):
            built = topology.build(layout.legs)
    if spec is None and (built is None or topology is None):
        raise FormatError(f"this version of deeptn cannot build the network {family!r:.200} for shape {layout.shape}")
    try:
        net = Network(spec or built, layout, topology if spec in (None, built) else None)  # type: ignore[arg-type]
    except SpecError as error:
        raise FormatError(f"bad network: {error}") from error
    if spec is None and fingerprint(net) != data["digest"]:
        raise FormatError(f"this version of deeptn builds a different network from {family!r:.200} than the writer")
    return net


def fingerprint(net: Network) -> str:
    """Return a short text that is the same for equal networks (SHA-256 of the JSON of layout and specification).

    Examples
    --------
    >>> import deeptn as dtn
    >>> wall = dtn.network("BrickWall", (8, 8))
    >>> fingerprint(wall) == fingerprint(dtn.network("BrickWall", (8, 8))) != fingerprint(dtn.network("Tree", (8, 8)))
    True
    """
    text = json.dumps([net.layout.to_dict(), net.spec.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _comes_with_deeptn(topology: Topology) -> bool:
    """Return whether a family and its components ship with deeptn, so that every installation has them."""
    parts = [value for field in fields(topology) if is_list(value := getattr(topology, field.name))]
    inner = [part for value in parts for part in value if isinstance(part, Topology)]
    known = type(topology).__module__.startswith(f"{Topology.__module__.rpartition('.')[0]}.")
    return known and type(topology).__name__ in topology_names() and all(map(_comes_with_deeptn, inner))


def _inflated(text: Any) -> Any:
    try:
        engine = zlib.decompressobj()
        found = engine.decompress(base64.b64decode(text, validate=True), INFLATED)
        if not engine.eof:
            raise FormatError(f"the description of a network is cut off, or larger than {INFLATED} bytes")
        return json.loads(found)
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        raise FormatError(f"the description of a network cannot be read: {error}") from error


def _is_known(family: dict[str, Any], limit: int) -> bool:
    """Return whether all topologies in plain data are registered here, and no integer exceeds `limit`."""
    parts: list[Any] = [family]
    for part in parts:
        parts += part.values() if is_object(part) else part if is_list(part) else ()
    names, known = [part.get("name") for part in parts if is_object(part)], topology_names()
    return all(name in known for name in names) and all(part <= limit for part in parts if isinstance(part, int))


def save(path: PathLike, net: Network, params: ParamsLike) -> None:
    """Write a network and its parameters to one safetensors file.

    Parameters
    ----------
    path : path
        File to write. An existing file is replaced completely or not at all.
    net : Network
    params : mapping of str to array
        Arrays of any library. Stored exactly, in their own dtype; complex entries as pairs.

    Raises
    ------
    SpecError
        If the parameters do not match the network.

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
    if not isinstance(net, Network):
        raise SpecError(f"net must be a deeptn.Network, got {type(net).__name__}; write deeptn.save(path, net, params)")
    check_floats(net, params)
    tensors = {f"cores.{name}": to_raw(params[name]) for name in net.spec.param_shapes}
    with limited_nodes():  # so that the file can be read
        header = {"format": NETWORK, "network": network_to_dict(net)}
    write_tensors(path, header, packed({"": net}, tensors, {}))


def load(path: PathLike, like: Any = "numpy", device: Any = None) -> tuple[Network, Params]:
    """Read a network and its parameters.

    Parameters
    ----------
    path : path
        A file written by `save`.
    like : {"numpy", "torch", "jax"} or array
        Library of the parameters. The dtype is as saved, except that NumPy gets float32 for bfloat16 (same values).
    device : optional
        Device, in the library's notation.

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
    entries = sum(array.size for array in tensors.values())
    if header["version"] < 3:
        net = network_from_dict({key: header.get(key) for key in ("layout", "spec", "topology")}, entries)
        tensors = {f"cores.{name}": array for name, array in tensors.items()}
    else:
        check_keys(header, ("format", "version", "network", "dtypes"), "the header")
        net = network_from_dict(header.get("network"), entries)
        unpack({"": net}, tensors)
    library = target(like, "float32", device)[0]
    params: Params = {}
    for name, array in cores_of(net, tensors, "").items():
        dtype = array.dtype.name if array.dtype.name in library.dtypes else "float32"
        params[name] = convert(array, library.name, dtype, device)
    return net, params


def check_floats(net: Network, params: ParamsLike) -> None:
    """Raise `SpecError` unless the parameters match the network and have dtypes in `DTYPES`."""
    check_params(net.spec, params)
    for name in net.spec.param_shapes:
        if dtype_of(params[name]) not in DTYPES:
            raise SpecError(f"parameter {name!r} has the dtype {dtype_of(params[name])}; expected floats")


def packed(
    networks: Mapping[str, Network], tensors: Mapping[str, np.ndarray], aliases: dict[str, str]
) -> dict[str, np.ndarray]:
    """Return the tensors of a file: the cores of each layer as one flat tensor, in the order of the specification.

    Cores that are aliases, or have another dtype than the first core, are not packed. If all cores of a layer are those
    of another layer, one entry of `aliases` replaces many.
    """
    stored = dict(tensors)
    for layer, net in networks.items():
        names = [path_of(layer, "cores", core) for core in net.spec.param_shapes]
        own = [name for name in names if name in stored]
        own = [name for name in own if stored[name].dtype == stored[own[0]].dtype]
        if own:
            stored[path_of(layer, "cores")] = np.concatenate([stored.pop(name).reshape(-1) for name in own])
        sources = {aliases.get(name, "")[: -len(core)] for name, core in zip(names, net.spec.param_shapes)}
        source = sources.pop().removesuffix(".") if len(sources) == 1 else ""
        if source in stored and stored[source].size == net.num_params:
            for name in names:
                del aliases[name]
            aliases[path_of(layer, "cores")] = source
    return stored


def unpack(networks: Mapping[str, Network], tensors: dict[str, np.ndarray], aliases: Container[str] = ()) -> None:
    """Undo `packed` in place: cores that are neither separate tensors nor aliases become views of the packed one."""
    for layer, net in networks.items():
        whole = tensors.pop(path_of(layer, "cores"), None)
        shapes = {path_of(layer, "cores", core): shape for core, shape in net.spec.param_shapes.items()}
        missing = {name: n for name, n in shapes.items() if name not in tensors and name not in aliases}
        if whole is None:
            continue
        ends = list(itertools.accumulate(math.prod(shape) for shape in missing.values()))
        if not missing or whole.shape != (ends[-1],):
            raise FormatError(f"the cores of {_whose(layer)} have the shape {whole.shape}, expected {tuple(ends[-1:])}")
        for (name, shape), part in zip(missing.items(), np.split(whole, ends[:-1])):
            tensors[name] = part.reshape(shape)


def cores_of(net: Network, tensors: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """Pick the parameters of a network from the tensors of a file."""
    shapes, prefix = net.spec.param_shapes, path_of(layer, "cores") + "."
    found = {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
    if found.keys() != shapes.keys():
        raise FormatError(f"the tensors of the file do not match the parameters of {_whose(layer)} in its header")
    for name, shape in shapes.items():
        if found[name].shape != shape or found[name].dtype.name not in DTYPES:
            came = f"{found[name].dtype} {found[name].shape}"
            raise FormatError(f"parameter {name!r}: expected floats of shape {shape}, got {came}")
    return {name: found[name] for name in shapes}


def _whose(layer: str) -> str:
    return f"layer {layer!r}" if layer else "the network"
