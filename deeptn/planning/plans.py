"""A plan says what every layer of a model becomes. It is a YAML file that one can read, edit, compare and run again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from ..base import Part, PathLike, Shape, converted, is_object, shortened, text_table, write_atomically
from ..errors import DeepTNError, FormatError, PlanError, near_match
from ..files import renamed
from ..network import Network, network
from ..spec import ALL_NODES, AXES, LEGS, Layout, Size, limited_nodes
from ..topologies import Topology, describe, topology_from_dict, topology_to_dict
from .curves import Candidate, Sensitivity
from .pareto import SHARES, Pareto, pareto
from .texts import LARGEST, from_yaml

#: Format and version of such a file.
FORMAT, VERSION = "deeptn.plan", 1

#: Keys of the file, and of a layer in it.
KEYS = ("format", "version", "budget", "params_before", "params_after", "names", "layers")
LAYER_KEYS = ("shape", "topology", "layout", "params", "error", "dense")


@dataclass(frozen=True)
class LayerPlan:
    """What one layer becomes.

    Attributes
    ----------
    shape : tuple of int
        Shape of its weight.
    network : Network or None
        None: the layer stays dense.
    error : float
        ``‖W - W'‖ / ‖W‖`` that the plan expects; `compress` may find a smaller one.
    why : str
        Why the layer stays dense.

    Examples
    --------
    >>> LayerPlan((4, 6), None, 0.0, "it is small").params
    24
    """

    shape: Shape
    network: Network | None
    error: float = 0.0
    why: str = ""

    @property
    def params(self) -> int:
        """Parameters of the weight in the compressed model."""
        return math.prod(self.shape) if self.network is None else self.network.num_params


@dataclass(frozen=True)
class Plan:
    """What the layers of a model become; pass it to `compress` in place of rules.

    Attributes
    ----------
    layers : dict of str to LayerPlan
    budget : dict
        The limit that the plan keeps, as it was given to `plan`.
    params_before, params_after : int
        All parameters of the model.
    names : dict of str to str
        Names of modules in another model that differ from those in the plan: ``{"layers.0": "0"}``.
    curves : dict of str to list of Candidate
        What every layer could become. Files do not store it.
    sensitivities : dict of str to Sensitivity
        What the error of each layer counts. Files do not store it.

    Examples
    --------
    >>> import deeptn as dtn
    >>> layer = LayerPlan((4, 6), dtn.network(dtn.LowRank(rank=1), (4, 6)), error=0.5)
    >>> example = Plan({"fc": layer}, {"params": 20}, 28, 14)
    >>> example.targets["fc"].num_params
    10
    >>> Plan.from_yaml(example.to_yaml()) == example
    True
    """

    layers: Mapping[str, LayerPlan]
    budget: Mapping[str, Any]
    params_before: int
    params_after: int
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    curves: Mapping[str, list[Candidate]] = field(default_factory=dict[str, list[Candidate]], repr=False, compare=False)
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=dict[str, Sensitivity], repr=False, compare=False)

    @property
    def targets(self) -> dict[str, Network]:
        """The networks, by the names of the layers that become generated."""
        layers = {renamed(name, self.names): layer.network for name, layer in self.layers.items()}
        return {name: net for name, net in layers.items() if net is not None}

    def pareto(self, shares: Sequence[float] = SHARES) -> Pareto:
        """Return the smallest errors for other numbers of parameters, as a table that can be plotted.

        Parameters
        ----------
        shares : sequence of float
            Parameters of the compressed model, in parts of those before.

        Raises
        ------
        PlanError
            For a plan from a file, which does not have the curves.

        Examples
        --------
        >>> import deeptn as dtn, numpy as np
        >>> weights = {"fc.weight": np.diag(0.5 ** np.arange(16.0))}
        >>> print(dtn.plan(dtn.files.StoredModel({}, weights), {"params": "50%"}).pareto([0.25, 0.5]))
        parameters  of all  error  dB    same share for every layer  dense layers
        64          25.0%   0.250  12.0  0.250                       0 of 1
        128         50.0%   0.062  24.1  0.062                       0 of 1
        """
        if not self.curves:
            raise PlanError("a plan from a file has no curves; call deeptn.plan to measure them")
        return pareto(self.curves, self.sensitivities, self.params_before, shares)

    def to_dict(self) -> dict[str, Any]:
        """Return what the file contains, as plain data."""
        data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        data["budget"] = {key: _plain(value) for key, value in self.budget.items()}
        data |= {"params_before": self.params_before, "params_after": self.params_after}
        data |= {"names": dict(self.names)} if self.names else {}
        data["layers"] = {name: _layer_to_dict(layer) for name, layer in self.layers.items()}
        return data

    def to_yaml(self) -> str:
        """Return the text of the file."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)

    def save(self, path: PathLike) -> None:
        """Write the plan to a YAML file. An existing file is replaced completely or not at all."""
        data = self.to_dict()
        try:
            _from_dict(data)
        except FormatError as error:
            raise PlanError(f"the plan could not be read from a file: {error}") from error
        text = self.to_yaml()
        if len(text) > LARGEST:
            raise PlanError(f"the plan would have {len(text):,} characters; a file has at most {LARGEST:,}")
        write_atomically(path, lambda file: Path(file).write_text(text, encoding="utf-8"))

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """Read the text of a file.

        Raises
        ------
        FormatError
            If it is not a plan; the message names the layer and the key.
        """
        data: Any = from_yaml(text, "the plan")
        if not is_object(data) or data.get("format") != FORMAT:
            raise FormatError(f"a plan starts with 'format: {FORMAT}'; got {shortened(data)}")
        if data.get("version") != VERSION:
            raise FormatError(
                f"a plan of version {shortened(data.get('version'))}; this version of deeptn reads {VERSION}"
            )
        return _from_dict(data)

    @classmethod
    def load(cls, path: PathLike) -> Plan:
        """Read a YAML file; see `from_yaml`."""
        try:
            with Path(path).open(encoding="utf-8") as file:
                return cls.from_yaml(file.read(LARGEST + 1))
        except FileNotFoundError:
            raise FileNotFoundError(f"no file {str(path)!r}") from None
        except UnicodeDecodeError as error:
            raise FormatError(f"{str(path)!r} is not a text file: {error}") from error
        except FormatError as error:
            error.args = (f"{str(path)!r}: {error}",)
            raise

    def __str__(self) -> str:
        rows = [("layer", "weight", "becomes", "parameters", "before", "error")]
        for name, layer in self.layers.items():
            becomes = f"dense: {layer.why}" if layer.network is None else describe(layer.network.topology)
            before = math.prod(layer.shape)
            shape = " × ".join(map(str, layer.shape))
            rows.append((name, shape, becomes, f"{layer.params:,}", f"{before:,}", f"{layer.error:.3f}"))
        share = self.params_after / max(1, self.params_before)
        return f"{text_table(rows)}\nall parameters: {self.params_before:,} -> {self.params_after:,} ({share:.1%})"


def _from_dict(data: dict[str, Any]) -> Plan:
    """Return a plan from what its file contains; raise `FormatError` if that is malformed, or too much."""
    _check_keys(data, KEYS, "the plan")
    found = converted(data, PlanData, "the plan")
    known: dict[bytes, Network] = {}
    with limited_nodes(ALL_NODES):
        made = {name: _layer_from_dict(name, layer, known) for name, layer in found.layers.items()}
    return Plan(made, found.budget, found.params_before, found.params_after, found.names)


def _layer_to_dict(layer: LayerPlan) -> dict[str, Any]:
    if layer.network is None:
        return {"shape": list(layer.shape), "dense": layer.why}
    net, layout = layer.network, layer.network.layout.to_dict()
    if net.topology is None:
        raise PlanError("a plan names families; this network has none (dtn.save stores any network)")
    return {
        "shape": list(layer.shape),
        "topology": _short(net.topology),
        "layout": {key: layout[key] for key in ("factors", "order")},
        "params": net.num_params,
        "error": float(f"{layer.error:.6g}"),
    }


def _short(topology: Topology) -> dict[str, Any]:
    """Return plain data without the fields that have their default."""
    data = topology_to_dict(topology)
    same = {
        f.name for f in fields(topology) if f.name != topology.size_field and getattr(topology, f.name) == f.default
    }
    return {key: _lists(value) for key, value in data.items() if key not in same}


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _lists(value: Any) -> Any:
    """Turn tuples into lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _layer_from_dict(name: str, data: dict[str, Any], known: dict[bytes, Network]) -> LayerPlan:
    """Return a layer; `known` has the networks of layers before it, by their descriptions."""
    where = f"layer {name!r} of the plan"
    _check_keys(data, LAYER_KEYS, where)
    layer = converted(data, LayerData, where)
    try:
        if len(layer.shape) > AXES:
            raise FormatError(f"a weight has at most {AXES} axes")
        shape, error = Layout.single(layer.shape).shape, float(layer.error)  # YAML takes 1e-3 for a word
        if layer.topology is None:
            return LayerPlan(shape, None, 0.0, str(layer.dense))
        chosen = None if layer.layout is None else Layout.from_dict({"shape": shape, **layer.layout})
        text = msgspec.json.encode((shape, layer.topology, layer.layout))
        if text not in known:
            with limited_nodes():
                family = topology_from_dict(layer.topology)
                layout = chosen or family.default_layout(shape)
                if len(layout.leg_sizes) > LEGS:
                    raise FormatError(f"a network of a file has at most {LEGS:,} legs")
                known[text] = network(family, shape, layout)
    except (DeepTNError, RecursionError, ValueError) as problem:
        raise FormatError(f"{where}: {problem!s:.500}") from problem
    return LayerPlan(shape, known[text], error)


#: Numbers of which Python prints all digits.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class LayerData(Part, frozen=True):
    """A layer in a plan's file."""

    shape: tuple[Size, ...]
    topology: dict[str, Any] | None = None
    layout: dict[str, Any] | None = None
    params: Count | None = None
    error: float | str = math.nan
    dense: str | bool | int | float | None = ""


class PlanData(Part, frozen=True):
    """The file of a plan."""

    format: str
    version: int
    budget: dict[str, Count | float | str]
    params_before: Count
    params_after: Count
    layers: dict[str, dict[str, Any]]
    names: dict[str, str] = msgspec.field(default_factory=dict[str, str])


def _check_keys(data: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in data:
        if key not in known:
            raise FormatError(f"{what} has the key {key!r:.40}; {near_match(str(key), known)}")
