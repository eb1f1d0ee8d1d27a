"""Rules that map layers to networks. They need no framework: a layer is a name and the shape of its weight."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from ..base import Shape
from ..errors import DeepTNError, PlanError, SpecError, near_match
from ..network import Network, network
from ..spec import Layout
from ..topologies import Topology

#: The target of a rule: a family, its name, or a finished network for exactly this shape.
Target: TypeAlias = Topology | Network | str


class Planned(Protocol):
    """Something that knows the network of each layer, as `deeptn.Plan` does."""

    @property
    def targets(self) -> Mapping[str, Network]: ...


#: What `compress` takes as its targets: a target for each pattern, or a plan.
Rules: TypeAlias = Mapping[str, Target] | Planned


def matches(pattern: str, name: str) -> bool:
    r"""Return whether a pattern selects a layer: exact name, glob (``"classifier.*"``) or ``"re:…"`` (full match).

    Examples
    --------
    >>> [matches(p, "classifier.0") for p in ("classifier.0", "classifier.*", r"re:classifier\.\d+", "classifier")]
    [True, True, True, False]
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return pattern == name or fnmatch.fnmatchcase(name, pattern)


def select(
    patterns: Iterable[str], names: Sequence[str], what: str, generated: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return the names that each pattern selects.

    Parameters
    ----------
    patterns : iterable of str
    names : sequence of str
    what : str
        Name of the argument with the patterns, for error messages.
    generated : sequence of str
        Names of layers that are already generated, for the error message.

    Raises
    ------
    PlanError
        If a pattern is not a string, not a valid regular expression, or selects nothing.

    Examples
    --------
    >>> select(["fc*", "head"], ["fc1", "fc2", "head"], "targets")
    {'fc*': ['fc1', 'fc2'], 'head': ['head']}
    """
    if isinstance(patterns, str):
        raise PlanError(f"{what} must be a list of patterns, got the string {patterns!r}; write [{patterns!r}]")
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise PlanError(f"{what}: a rule is a layer name, a glob or 're:…', got {pattern!r:.60}")
        try:
            found[pattern] = [pattern] if pattern in names else [name for name in names if matches(pattern, name)]
        except re.error as error:
            raise PlanError(f"{what}: {pattern!r} is not a valid regular expression: {error}") from error
        done = [name for name in generated if matches(pattern, name)]
        if done and not found[pattern]:
            raise PlanError(
                f"{what}: {pattern!r} selects {done[0]!r}, which is already generated; fold it first, or drop the rule"
            )
        if not found[pattern]:
            raise PlanError(
                f"{what}: {pattern!r} matches none of the {len(names)} layers; {near_match(pattern, names)}"
            )
    return found


def resolve(
    shapes: Mapping[str, tuple[int, ...]],
    targets: Rules,
    ignore: Iterable[str] = (),
    generated: Sequence[str] = (),
) -> dict[str, Network]:
    """Turn rules into one network for each selected layer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Weight shape of every layer that can be compressed.
    targets : mapping of str to topology, network or name; or Plan
        Target of each pattern (see `matches`). If several select a layer, an exact name wins, then the first.
    ignore : iterable of str
        Patterns of layers to leave alone.
    generated : sequence of str
        Names of layers that are already generated. A rule that selects only these raises an error that says so.

    Returns
    -------
    dict of str to Network
        In the order of `shapes`.

    Raises
    ------
    PlanError
        If a pattern selects nothing, or everything selected is ignored.

    Examples
    --------
    >>> import deeptn as dtn
    >>> networks = resolve({"fc1": (120, 400), "fc2": (84, 120)}, {"fc*": "BrickWall", "fc2": dtn.LowRank(rank=2)})
    >>> {name: net.num_params for name, net in networks.items()}
    {'fc1': 384, 'fc2': 408}
    """
    rules: object = getattr(targets, "targets", targets)  # those of a plan
    if not isinstance(rules, Mapping) or not rules:
        raise PlanError(
            f"targets must map patterns to topologies, e.g. {{'fc*': BrickWall(layers=2)}}; got {rules!r:.60}"
        )
    if not shapes and not generated:
        raise PlanError("the model has no layer that can be compressed")
    names = list(shapes)
    ignored = {name for found in select(ignore, [*names, *generated], "ignore").values() for name in found}
    chosen: dict[str, Target] = {}
    where = "targets" if rules is targets else "the plan"
    for pattern, found in select(rules, names, where, generated).items():
        for name in found:
            if name not in ignored and (name not in chosen or pattern == name):
                chosen[name] = rules[pattern]
    if not chosen:
        raise PlanError("every layer that targets selects is also in ignore")
    networks = {}
    for name in names:
        if name in chosen:
            wanted = chosen[name]
            if isinstance(wanted, Network) and wanted.shape != tuple(shapes[name]):
                raise PlanError(
                    f"layer {name!r} has a weight of shape {shapes[name]}, but its network makes {wanted.shape}"
                )
            try:
                networks[name] = wanted if isinstance(wanted, Network) else network(wanted, shapes[name])
            except DeepTNError as error:
                raise PlanError(f"layer {name!r}: {error}") from error
    return networks


def as_network(topology: Target, shape: Shape, layout: Layout | None) -> Network:
    """Return the network of a topology, or the given network if it makes weights of this shape."""
    if not isinstance(topology, Network):
        return network(topology, shape, layout)
    if topology.shape != shape or layout is not None:
        raise SpecError(f"the network makes weights of shape {topology.shape}; the layer needs {shape}, and no layout=")
    return topology
