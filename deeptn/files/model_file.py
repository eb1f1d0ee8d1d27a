"""Model files: generated layers with their networks, and all other tensors, in one safetensors file."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from ..arrays import DTYPES, to_raw
from ..base import Array, Params, Part, PathLike, path_of
from ..errors import FormatError, PlanError, SpecError
from ..network import Network
from ..spec import ALL_NODES, limited_nodes
from .network_file import (
    NOTHING,
    check_floats,
    cores_of,
    described,
    network_from_json,
    no_more_cores,
    old_network,
    packed,
    unpack,
)
from .rounding import Cores, check_cores, restore, restored, rounded
from .stream import Checked
from .tensors import Header, OldHeader, map_tensors, size_of_tensors, write_tensors

#: Format of such a file, as named in its header.
MODEL = "deeptn.model"

#: Kind of a weight that does not belong to a layer.
LONE = "weight"


class StoredLayer(NamedTuple):
    """A generated layer of a stored model.

    Attributes
    ----------
    kind : str
        Kind of the layer that it replaces, in PyTorch's conventions: ``"linear"``, ``"conv2d"``, ``"embedding"``, …
    network : Network
    params : dict of str to array
        Cores of the network.
    bias : array or None

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (4, 6))
    >>> layer = StoredLayer("linear", net, net.init(), None)
    >>> layer.network.materialize(layer.params).shape
    (4, 6)
    """

    kind: str
    network: Network
    params: Params
    bias: Array | None

    def entry(self, name: str) -> str:
        """Return the name of the dense weight in a ``state_dict``, if the layer has this name."""
        return name if self.kind == LONE else path_of(name, "weight")


class StoredModel(NamedTuple):
    """Contents of a model file.

    Attributes
    ----------
    layers : dict of str to StoredLayer
        Generated layers, by their names in the model.
    tensors : mapping of str to array
        All other tensors.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (4, 6))
    >>> model = StoredModel({"0": StoredLayer("linear", net, net.init(), None)}, {})
    >>> list(model.state()), list(model.renamed({"0": "fc"}).layers)
    (['0.cores.U', '0.cores.V'], ['fc'])
    """

    layers: dict[str, StoredLayer]
    tensors: Mapping[str, Any]

    def state(self) -> dict[str, Any]:
        """Return all arrays by their names in the file, which are those of a ``state_dict``."""
        state = dict(self.tensors)
        for name, layer in self.layers.items():
            state |= {f"{name}.cores.{core}": array for core, array in layer.params.items()}
            state |= {} if layer.bias is None else {f"{name}.bias": layer.bias}
        return state

    def renamed(self, names: Mapping[str, str]) -> StoredModel:
        """Return the model with its modules renamed, for a model that is built differently: ``{"0": "layers.0"}``.

        An empty name removes a prefix, ``{"_orig_mod": ""}``, or adds one, ``{"": "module"}``.
        """
        layers = {renamed(name, names): layer for name, layer in self.layers.items()}
        if isinstance(self.tensors, Checked):
            return StoredModel(layers, self.tensors.renamed(lambda name: renamed(name, names)))
        return StoredModel(layers, {renamed(name, names): tensor for name, tensor in self.tensors.items()})


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Replace the longest prefix of a name that `names` contains.

    Examples
    --------
    >>> renamed("0.weight", {"0": "layers.0"}), renamed("_orig_mod.fc.weight", {"_orig_mod": ""})
    ('layers.0.weight', 'fc.weight')
    """
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        start = ".".join(parts[:length])
        if start in names:
            return path_of(names[start], *parts[length:])
    return name


def save_model(model: StoredModel, path: PathLike, cores: Cores | None = None) -> None:
    """Write a model with generated layers to one safetensors file, from arrays of any library.

    The names are those of a ``state_dict``: ``"fc1.cores.L1_g0"``, ``"fc1.bias"``. Use this to build your own
    front-end; those for PyTorch and JAX have a ``save_model`` that takes the model itself.

    Parameters
    ----------
    model : StoredModel
        Arrays that share memory are stored once.
    path : path
        File to write. An existing file is replaced completely or not at all.
    cores : {"float16", "bfloat16", "int8"}, optional
        Store the cores in fewer bytes, int8 with a scale for each core. `load_model` returns them in their own dtype,
        rounded; `rounded_model` does the same without a file.

    Raises
    ------
    PlanError
        If the model has no generated layer, or one without a name.
    SpecError
        If parameters do not match their network, or `model` is not a `StoredModel`.

    Examples
    --------
    >>> import deeptn as dtn, tempfile, os
    >>> net = dtn.network(dtn.BrickWall(layers=1), (10, 64))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> dtn.save_model(dtn.files.StoredModel({"fc": dtn.files.StoredLayer("linear", net, net.init(), None)}, {}), path)
    >>> dtn.load_model(path).layers["fc"].network == net
    True
    """
    if not isinstance(model, StoredModel):
        raise SpecError(
            f"save_model(model, path): the model must be a deeptn.files.StoredModel, got {type(model).__name__}; "
            "for a PyTorch or JAX model, use its front-end's save_model"
        )
    if not model.layers:
        raise PlanError("the model has no generated layer; compress it first, or save its tensors with safetensors")
    if "" in model.layers:
        raise PlanError("the model is a single generated layer; write deeptn.save(path, layer.network, layer.params)")
    write_tensors(path, *_contents(model, cores))


def rounded_model(model: StoredModel, cores: Cores) -> StoredModel:
    """Return a model as `load_model` reads it from a file with rounded cores.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (4, 6))
    >>> model = StoredModel({"0": StoredLayer("linear", net, net.init(), None)}, {})
    >>> found = rounded_model(model, "int8").layers["0"].params["U"]
    >>> found.dtype.name, bool(abs(found - model.layers["0"].params["U"]).max() < 0.01)
    ('float32', True)
    """
    check_cores(cores)
    done: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}  # with the arrays, which keep their places

    def once(name: str, core: Array) -> np.ndarray:
        raw = to_raw(core)
        key = place_of(name, raw)
        if key not in done:
            stored, scale = rounded(raw, cores)
            done[key] = raw, restored(stored, scale, raw.dtype.name)
        return done[key][1]

    layers = {
        name: layer._replace(params={core: once(f"{name}.{core}", array) for core, array in layer.params.items()})
        for name, layer in model.layers.items()
    }
    return StoredModel(layers, model.tensors)


def size_of_model(model: StoredModel, cores: Cores | None = None) -> int:
    """Return the bytes of the file that `save_model` would write; without generated layers too.

    Examples
    --------
    >>> import deeptn as dtn, os, tempfile
    >>> net = dtn.network(dtn.BrickWall(layers=1), (10, 64))
    >>> model, path = StoredModel({"fc": StoredLayer("linear", net, net.init(), None)}, {}), tempfile.mktemp()
    >>> save_model(model, path)
    >>> size_of_model(model) == os.path.getsize(path)
    True
    """
    return size_of_tensors(*_contents(model, cores))


def _contents(model: StoredModel, cores: Cores | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a file."""
    for layer in model.layers.values():
        check_floats(layer.network, layer.params)
    _check_names(model)
    model, before = (model, dict[str, str]()) if cores is None else _narrow(model, cores)
    tensors: dict[str, np.ndarray] = {}
    aliases: dict[str, str] = {}
    places: dict[Hashable, str] = {}
    for name, array in model.state().items():
        raw = to_raw(array)
        first = places.setdefault(place_of(name, raw), name)
        if first == name:
            tensors[name] = raw
        else:
            aliases[name] = first
    found = sorted((layer.network for layer in model.layers.values()), key=lambda net: net.topology is None)
    networks = list(dict.fromkeys(found))  # equal networks once, with the topology if one of them has it
    layers = {
        name: {"kind": layer.kind, "network": networks.index(layer.network)}
        | ({"rounded": before[name]} if name in before else {})
        for name, layer in model.layers.items()
    }
    stored = packed({name: layer.network for name, layer in model.layers.items()}, tensors, aliases)
    header = {"format": MODEL, "networks": described(networks), "layers": layers}
    return header | ({"aliases": aliases} if aliases else {}), stored


def _check_names(model: StoredModel) -> None:
    """Raise `SpecError` if a further tensor has a name that belongs to a generated layer."""
    for name in model.tensors:
        layer = name.removesuffix(".bias") if name.endswith(".bias") else f"{name}.".rpartition(".cores.")[0]
        if layer in model.layers:
            raise SpecError(f"the tensor {name!r} has a name that belongs to the generated layer {layer!r}; rename it")


def _narrow(model: StoredModel, dtype: Cores) -> tuple[StoredModel, dict[str, str]]:
    """Return a model with rounded cores, and with their scales as further tensors; and the dtypes before."""
    check_cores(dtype)
    done: dict[Hashable, tuple[np.ndarray, np.ndarray, float]] = {}  # with the arrays, which keep their places
    scales: dict[Any, np.ndarray] = {}
    layers, tensors, before = dict[str, StoredLayer](), dict(model.tensors), dict[str, str]()
    for name, layer in model.layers.items():
        found: dict[str, np.ndarray] = {}
        keys: list[Hashable] = []
        for core in layer.network.spec.param_shapes:
            raw = to_raw(layer.params[core])
            key = place_of(f"{name}.{core}", raw)
            done[key] = done.get(key) or (raw, *rounded(raw, dtype))
            found[core] = done[key][1]
            keys.append(key)
            before[name] = raw.dtype.name
        if dtype == "int8":
            own = scales.setdefault(tuple(keys), np.array([done[key][2] for key in keys], "float32"))
            if f"{name}.scales" in tensors:
                raise SpecError(f"the model has a tensor {name + '.scales'!r}, the name of the scales; rename it")
            tensors[f"{name}.scales"] = own
        layers[name] = layer._replace(params=found)
    return StoredModel(layers, tensors), before


def place_of(name: str, array: np.ndarray) -> Hashable:
    """Return what is equal for two arrays with the same entries in the same memory; for an empty array, its name.

    Examples
    --------
    >>> array = np.ones((2, 3))
    >>> place_of("a", array) == place_of("b", array), place_of("a", array) == place_of("b", array.T)
    (True, False)
    """
    return (array.ctypes.data, array.shape, array.strides, array.dtype) if array.size else name


def _is_bias(array: np.ndarray, net: Network, kind: str) -> bool:
    """Check for one float per output; transposed convolutions have outputs / groups on the weight's second axis."""
    if array.ndim != 1 or array.dtype.name not in DTYPES or len(net.shape) < 1 + kind.startswith("conv_transpose"):
        return False
    return array.size % net.shape[1] == 0 if kind.startswith("conv_transpose") else array.size == net.shape[0]


def load_model(path: PathLike) -> StoredModel:
    """Read a model that any front-end wrote, as NumPy arrays.

    Parameters
    ----------
    path : path

    Returns
    -------
    StoredModel
        Dtypes are as saved; bfloat16, which NumPy supports poorly, is the dtype of the package ml_dtypes.

    Raises
    ------
    FormatError
        If the file is truncated, of another format, or inconsistent. Nothing in it is executed.

    Examples
    --------
    >>> import deeptn as dtn, numpy as np, tempfile, os
    >>> net = dtn.network(dtn.TTMatrix(rank=2), (10, 64))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> layer = dtn.files.StoredLayer("linear", net, net.init(), np.zeros(10))
    >>> dtn.save_model(dtn.files.StoredModel({"fc": layer}, {"head.weight": np.eye(10)}), path)
    >>> fc = dtn.load_model(path).layers["fc"]
    >>> (fc.network.apply(fc.params, np.ones((5, 64), "float32")) + fc.bias).shape
    (5, 10)
    """
    return read_model(path)


class LayerData(Part, frozen=True):
    """A generated layer in a file: its kind, the number of its network, and the dtype of its cores if rounded."""

    kind: str
    network: int
    rounded: Literal["float16", "bfloat16", "float32", "float64"] | None = None


class ModelHeader(Header, frozen=True):
    """The header of a model file."""

    networks: list[msgspec.Raw] = msgspec.field(default_factory=list[msgspec.Raw])
    layers: dict[str, LayerData] = msgspec.field(default_factory=dict[str, LayerData])
    aliases: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class OldLayerData(msgspec.Struct, frozen=True):
    """A generated layer in a file of version 1 or 2."""

    kind: str
    layout: msgspec.Raw = NOTHING
    spec: msgspec.Raw = NOTHING
    topology: msgspec.Raw = NOTHING
    rounded: None = None


class OldModelHeader(OldHeader, frozen=True):
    """The header of a model file of version 1 or 2."""

    layers: dict[str, OldLayerData] = msgspec.field(default_factory=dict[str, OldLayerData])
    aliases: dict[str, str] = msgspec.field(default_factory=dict[str, str])


def read_model(path: PathLike, lazy: bool = False) -> StoredModel:
    """Read a model; if `lazy`, its arrays are mapped, and tensors that are in no layer are not read at all."""
    header, checked = map_tensors(path, MODEL, ModelHeader, OldModelHeader)
    with limited_nodes(ALL_NODES):
        networks = _networks(header)
    if not lazy:
        _assembled(header, networks, checked.unread())  # finds what does not fit before anything is read
        return _assembled(header, networks, checked.read())
    model = _assembled(header, networks, checked.unread())
    rest = dict(model.tensors)
    checked.check(name for name in checked if name not in rest)
    checked.check(source for name, source in header.aliases.items() if name not in rest and source in checked)
    return model._replace(tensors=checked.only(rest, header.aliases))


def _assembled(
    header: ModelHeader | OldModelHeader, networks: dict[str, Network], tensors: dict[str, np.ndarray]
) -> StoredModel:
    """Return the model that a header describes; its tensors become cores and biases of layers, or stay alone."""
    aliases, whole = header.aliases, {f"{name}.cores" for name in networks}
    _share(tensors, {name: source for name, source in aliases.items() if name in whole})
    unpack(networks, tensors, aliases)
    _share(tensors, {name: source for name, source in aliases.items() if name not in whole})
    done: dict[Any, Any] = {}
    for name, net in networks.items():
        if (dtype := header.layers[name].rounded) is not None:
            names = [f"{name}.cores.{core}" for core in net.spec.param_shapes]
            restore(name, dtype, names, tensors, done)
    layers: dict[str, StoredLayer] = {}
    for name, net in networks.items():
        kind = header.layers[name].kind
        cores, bias = cores_of(net, tensors, name), tensors.pop(f"{name}.bias", None)
        if bias is not None and not _is_bias(bias, net, kind):
            raise FormatError(f"layer {name!r}: a bias of {bias.dtype} {bias.shape} for a weight of shape {net.shape}")
        layers[name] = StoredLayer(kind, net, cores, bias)
    no_more_cores(tensors, networks)
    return StoredModel(layers, tensors)


def _networks(header: ModelHeader | OldModelHeader) -> dict[str, Network]:
    """Return the network of each layer, by layer name; older files store one in every layer."""
    if isinstance(header, OldModelHeader):
        made: dict[tuple[bytes, ...], Network] = {}
        found: dict[str, Network] = {}
        for name, layer in header.layers.items():
            key = bytes(layer.layout), bytes(layer.spec), bytes(layer.topology)
            if key not in made:
                made[key] = old_network(layer.layout, layer.spec, layer.topology)
            found[name] = made[key]
        return found
    networks = [network_from_json(text) for text in header.networks]
    for name, layer in header.layers.items():
        if not 0 <= layer.network < len(networks):
            raise FormatError(f"layer {name!r} names network {layer.network} of {len(networks)} (counted from 0)")
    return {name: networks[layer.network] for name, layer in header.layers.items()}


def _share(tensors: dict[str, np.ndarray], aliases: Mapping[str, str]) -> None:
    """Add tensors under their aliases."""
    for name, source in aliases.items():
        if source in aliases:
            raise FormatError(f"the tensor {name!r} is an alias of {source!r:.60}, which is one itself")
        if source not in tensors:
            raise FormatError(f"the tensor {name!r} is an alias of {source!r:.60}, which the file does not contain")
        tensors[name] = tensors[source]
