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
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np

from ..arrays import DTYPES, convert, dtype_of, target, to_raw
from ..base import Params, ParamsLike, Part, PathLike, decoded, is_list, is_object, path_of, shortened
from ..errors import FormatError, SpecError
from ..network import Network
from ..params import check_params
from ..spec import ALL_NODES, Layout, LayoutData, NetworkSpec, SpecData, count_nodes, limited_nodes
from ..topologies import Topology, topology_from_dict, topology_names, topology_to_dict
from .stream import in_memory
from .tensors import Header, OldHeader, compact, map_tensors, write_tensors

NETWORK = "deeptn.network"

#: What a field has that is missing.
NOTHING = msgspec.Raw(b"null")

#: In bytes: largest size of a description of a network and of a family, and the length from which it is deflated.
DESCRIPTION, FAMILY, LONG = 2**21, 2**18, 512


class NetworkData(Part, frozen=True):
    """A network in a file: its layout, and a specification or the family that builds it; or all of that, deflated."""

    layout: LayoutData | None = None
    topology: msgspec.Raw = NOTHING
    spec: SpecData | None = None
    digest: str | None = None
    deflate: str | None = None


class NetworkHeader(Header, frozen=True):
    """The header of a network file."""

    network: msgspec.Raw = NOTHING


class OldNetworkHeader(OldHeader, frozen=True):
    """The header of a network file of version 1 or 2."""

    layout: msgspec.Raw = NOTHING
    spec: msgspec.Raw = NOTHING
    topology: msgspec.Raw = NOTHING


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


def described(networks: Iterable[Network]) -> list[dict[str, Any]]:
    """Return the data of all networks of a file; raise `FormatError` if files may not ask for so much."""
    given = list(networks)
    found = [network_to_dict(net) for net in given]
    with limited_nodes(ALL_NODES):
        for data in found:
            network_from_json(compact(data).encode())
    return found


def network_from_dict(data: Any) -> Network:
    """Build a network from the data of `network_to_dict`, or from what older versions wrote.

    A specification in the data takes precedence; the topology is kept only if it is registered here and still builds
    that specification.

    Raises
    ------
    FormatError
        If the data is malformed, or its family is unknown here or builds a different network than it used to.
    """
    try:
        text = msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"a network of the file is not JSON: {error}") from error
    return network_from_json(text)


def network_from_json(text: bytes | msgspec.Raw) -> Network:
    """Build a network from JSON; see `network_from_dict`."""
    with limited_nodes():
        return _network(_decoded(text))


def _decoded(text: bytes | msgspec.Raw) -> NetworkData:
    if len(bytes(text)) > DESCRIPTION:
        raise FormatError(f"the description of a network has more than {DESCRIPTION:,} bytes")
    data = decoded(text, NetworkData, "a network of the file")
    return data if data.deflate is None else decoded(_inflated(data.deflate), NetworkData, "a network of the file")


def _network(data: NetworkData) -> Network:
    if data.layout is None or data.deflate is not None or (data.spec is None and data.digest is None):
        raise FormatError("a network of the file needs a 'layout', and a 'spec' or a 'digest'")
    layout, family = Layout.of(data.layout), _family(data.topology)
    spec = None if data.spec is None else NetworkSpec.of(data.spec)
    topology = built = None
    if is_object(family) and _is_known(family):
        topology = topology_from_dict(family)
        with suppress(SpecError):
            built = topology.build(layout.legs)
    if spec is None and (built is None or topology is None):
        raise FormatError(f"this version of deeptn cannot build the network {family!r:.200} for shape {layout.shape}")
    try:
        net = Network(spec or built, layout, topology if spec in (None, built) else None)  # type: ignore[arg-type]
    except SpecError as error:
        raise FormatError(f"bad network: {error!s:.500}") from error
    if spec is None and fingerprint(net) != data.digest:
        raise FormatError(f"this version of deeptn builds a different network from {family!r:.200} than the writer")
    return net


def old_network(layout: msgspec.Raw, spec: msgspec.Raw, topology: msgspec.Raw) -> Network:
    """Build the network in a file of version 1 or 2."""
    parts = zip((b"layout", b"spec", b"topology"), (layout, spec, topology))
    return network_from_json(b"{" + b",".join(b'"%s":%s' % (key, bytes(part)) for key, part in parts) + b"}")


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


def _family(text: msgspec.Raw) -> dict[str, Any] | None:
    """Return the fields of a family; other families than those of deeptn may have any JSON."""
    if bytes(text) == b"null":
        return None
    if len(bytes(text)) > FAMILY:
        raise FormatError(f"the family of a network of the file has more than {FAMILY:,} bytes")
    return decoded(text, dict[str, Any], "the family of a network of the file")


def _inflated(text: str) -> bytes:
    try:
        engine = zlib.decompressobj()
        found = engine.decompress(base64.b64decode(text, validate=True), DESCRIPTION)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"the description of a network cannot be read: {error}") from error
    count_nodes(len(found) // 128)
    if not engine.eof:
        raise FormatError(f"the description of a network is cut off, or larger than {DESCRIPTION:,} bytes")
    return found


def _is_known(family: dict[str, Any]) -> bool:
    """Return whether all topologies in plain data are registered here."""
    parts: list[Any] = [family]
    for part in parts:
        parts += part.values() if is_object(part) else part if is_list(part) else ()
    names, known = [part.get("name") for part in parts if is_object(part)], topology_names()
    return all(name in known for name in names)


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
    header = {"format": NETWORK, "network": described([net])[0]}
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
    header, checked = map_tensors(path, NETWORK, NetworkHeader, OldNetworkHeader)
    tensors = checked.unread()
    if isinstance(header, NetworkHeader):
        net = network_from_json(header.network)
        unpack({"": net}, tensors)
    else:
        net = old_network(header.layout, header.spec, header.topology)
        tensors = {f"cores.{name}": array for name, array in tensors.items()}
    cores = cores_of(net, tensors, "")
    no_more_cores(tensors, ("",))
    checked.check(checked)
    library = target(like, "float32", device)[0]
    params: Params = {}
    for name, array in cores.items():
        dtype = array.dtype.name if array.dtype.name in library.dtypes else "float32"
        params[name] = convert(in_memory(array), library.name, dtype, device)
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
            expected = shortened(tuple(ends[-1:]))
            raise FormatError(f"the cores of {_whose(layer)} have the shape {whole.shape}, expected {expected}")
        for (name, shape), part in zip(missing.items(), np.split(whole, ends[:-1])):
            tensors[name] = part.reshape(shape)


def cores_of(net: Network, tensors: dict[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """Take the parameters of a network out of the tensors of a file."""
    found: dict[str, np.ndarray] = {}
    for name, shape in net.spec.param_shapes.items():
        array = tensors.pop(path_of(layer, "cores", name), None)
        if array is None:
            raise _other_cores(layer)
        if array.shape != shape or array.dtype.name not in DTYPES:
            raise FormatError(f"parameter {name!r}: expected floats of shape {shape}, got {array.dtype} {array.shape}")
        found[name] = array
    return found


def no_more_cores(tensors: Iterable[str], layers: Container[str]) -> None:
    """Raise `FormatError` if there are further tensors with names of parameters."""
    for name in tensors:
        layer, dot, _ = f".{name}".rpartition(".cores.")
        if dot and layer[1:] in layers:
            raise _other_cores(layer[1:])


def _other_cores(layer: str) -> FormatError:
    return FormatError(f"the tensors of the file do not match the parameters of {_whose(layer)} in its header")


def _whose(layer: str) -> str:
    return f"layer {layer!r}" if layer else "the network"
