"""Laws that every model view must obey, so that `compress`, `fold` and files work with it.

Test your own adapter in two lines::

    def test_models():
        check_model_view(lambda: CuPyModel(make_model()))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..arrays import to_numpy, to_raw
from ..base import Array
from ..errors import DeepTNError, PlanError
from ..files import StoredModel
from ..models import (
    Entry,
    Generated,
    ModelView,
    Weight,
    compress,
    count,
    fold,
    from_stored,
    load_model,
    save_model,
    to_stored,
)
from ..network import network
from ..topologies import LowRank

Make: TypeAlias = Callable[[], ModelView]

FAMILY = LowRank(rank=2)


def check_model_view(make: Make) -> None:
    """Check the laws that every model view must obey.

    Reading changes nothing. Names are unique, and no two weights own the same entry. Shapes and dtypes match what is
    read. When a network replaces a weight, its cores are kept exactly and nothing else changes; after folding back, the
    model looks as before. An array written under one name is read under every name of its tie. A failed operation
    changes nothing. Equal seeds give equal cores, and equal layers get different ones. The report's counts match the
    view's. Files are read exactly, into dense and into generated layers; files that do not fit change nothing.

    Parameters
    ----------
    make : callable
        Returns the view of a new, identical model at every call, with at least one weight that can be generated. The
        richer the model (layers with two names, ties, statistics, layers that cannot be replaced), the more is checked.

    Raises
    ------
    AssertionError
        If a law is broken; the message names it and what was found. Errors of the view itself get it as a note.

    Examples
    --------
    >>> import copy
    >>> from torch import nn
    >>> from deeptn_torch.view import TorchModel
    >>> model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6))
    >>> check_model_view(lambda: TorchModel(copy.deepcopy(model)))
    """
    for name, law in MODEL_LAWS.items():
        where = f"law {name!r} of the model view {type(make()).__name__}"
        try:
            law(make)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        except Exception as error:
            error.add_note(where)
            raise


def _bits(view: ModelView) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return everything that can be stored, as bytes."""
    found = {}
    for name, entry in view.entries().items():
        try:
            raw = to_raw(entry.read())
        except PlanError:
            continue
        found[name] = raw.dtype.name, raw.shape, raw.tobytes()
    return found


def _shown(view: ModelView) -> dict[str, Any]:
    """Return everything that a view shows, except arrays and ties."""
    entries = {f"entry {name}": (e.shape, e.dtype, e.trained, e.refused) for name, e in view.entries().items()}
    return entries | {
        weight.name: replace(weight, read=_free) for weight in view.weights()
    }  # reading is checked separately


def _equal(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())} appeared or disappeared"
    other = [name for name in expected if found[name] != expected[name]]
    assert not other, f"{what}: {other} changed"


def _unchanged(view: ModelView, shown: Mapping[str, Any], bits: Mapping[str, Any], what: str) -> None:
    _equal(_shown(view), shown, what)
    _equal(_bits(view), bits, what)


def _free(view: ModelView) -> list[Weight]:
    found = [weight for weight in view.weights() if weight.network is None and weight.refused is None]
    assert found, "make() returned a model without a weight that can be generated"
    return found


def _close(found: Array, expected: np.ndarray, dtype: str | None) -> bool:
    return np.allclose(to_numpy(found), expected, rtol=1e-4, atol=2e-2 if dtype in ("float16", "bfloat16") else 1e-4)


def _weights(view: ModelView) -> dict[str, Weight]:
    return {weight.name: weight for weight in view.weights()}


def _ties(entries: Mapping[str, Entry]) -> dict[Hashable, list[str]]:
    found: dict[Hashable, list[str]] = {}
    for name, entry in entries.items():
        if entry.refused is None:
            found.setdefault(entry.tie, []).append(name)
    return found


def _check_look(make: Make) -> None:
    view = make()
    shown, bits = _shown(view), _bits(view)
    for weight in _free(view):
        weight.read()
    _unchanged(view, shown, bits, "after reading")


def _check_names(make: Make) -> None:
    view = make()
    names = [name for weight in view.weights() for name in weight.names]
    assert len(set(names)) == len(names), f"two weights have the same name: {names}"
    owned = [name for weight in view.weights() for name in weight.owned]
    assert len(set(owned)) == len(owned), f"two weights own the same entry: {sorted(owned)}"
    lost = set(owned) - view.entries().keys()
    assert not lost, f"weights own {sorted(lost)}, which are not entries"


def _check_shapes(make: Make) -> None:
    view = make()
    for name, entry in view.entries().items():
        if entry.refused is None:
            raw = to_raw(entry.read())
            assert raw.shape == entry.shape, f"{name!r} of shape {raw.shape} is shown as {entry.shape}"
            assert entry.dtype in (None, raw.dtype.name), f"{name!r} of {raw.dtype} is shown as {entry.dtype}"
    for weight in _free(view):
        shape = tuple(weight.read().shape)
        assert shape == weight.shape, f"the weight of {weight.name!r}, of shape {shape}, is shown as {weight.shape}"


def _check_replace(make: Make) -> None:
    for number, weight in enumerate(_free(make())):
        view = make()
        before = _bits(view)
        net = network(FAMILY, weight.shape)
        cores = net.init(number, dtype="float32")
        view.replace({weight.name: Generated(net, cores)})
        made, after = _weights(view)[weight.name], _bits(view)
        assert made.network == net, f"{weight.name!r} shows {made.network!r} instead of {net!r}"
        kept = (weight.names, weight.kind, weight.shape, weight.bias)
        found = (made.names, made.kind, made.shape, made.bias)
        assert found == kept, f"{weight.name!r} is {found} instead of {kept}"
        entries = view.entries()
        for core, name in made.cores.items():
            expected = cores[core].astype(weight.dtype or "float32")
            assert np.array_equal(to_raw(entries[name].read()), expected), f"{name!r} has different entries"
        weights = net.materialize({core: to_numpy(entries[name].read()) for core, name in made.cores.items()})
        assert _close(made.read(), weights, weight.dtype), f"{weight.name!r} reads as a different weight"
        own = {weight.entry(weight.own, name) for name in weight.names}
        cores_of = made.owned - weight.owned
        rest = {name: found for name, found in after.items() if name not in cores_of}
        _equal(rest, {name: found for name, found in before.items() if name not in own}, f"apart from {weight.name!r}")


def _check_back(make: Make) -> None:
    for weight in _free(make()):
        view = make()
        shown, dense = _shown(view), to_numpy(_weights(view)[weight.name].read())
        compress(view, {weight.name: LowRank(rank=max(weight.shape))})
        fold(view, [weight.name])
        _equal(_shown(view), shown, f"{weight.name!r}, compressed and folded again")
        found = _weights(view)[weight.name].read()
        assert _close(found, dense, weight.dtype), f"{weight.name!r} comes back as a different weight"


def _check_write(make: Make) -> None:
    view = make()
    shown, bits = _shown(view), _bits(view)
    names = [name for name, entry in view.entries().items() if entry.refused is None and name in bits]
    view.write({name: to_raw(view.entries()[name].read()) for name in names})
    _unchanged(view, shown, bits, "after writing what was read")


def _check_ties(make: Make) -> None:
    view = make()
    for names in _ties(view.entries()).values():
        before = _bits(view)
        new = np.ones_like(to_raw(view.entries()[names[0]].read()))
        view.write({names[0]: new})
        after = _bits(view)
        for name in names:
            assert after[name][2] == new.tobytes(), f"{name!r} differs from what was written to {names[0]!r}"
        rest = {name: found for name, found in before.items() if name not in names}
        _equal({name: after[name] for name in after if name not in names}, rest, f"apart from {names}")


def _check_failure(make: Make) -> None:
    """Check two replacements, the second with cores of wrong shapes."""
    view = make()
    shown, bits = _shown(view), _bits(view)
    first, last = (_free(view) * 2)[0], _free(view)[-1]
    nets = {weight.name: network(FAMILY, weight.shape) for weight in (first, last)}
    changes = {name: Generated(net, net.init(dtype="float32")) for name, net in nets.items()}
    wrong = {core: np.ones((1, 1, 1), "float32") for core in changes[last.name].params}
    try:
        view.replace(changes | {last.name: Generated(nets[last.name], wrong)})
    except DeepTNError:
        _unchanged(view, shown, bits, "after refusing cores of wrong shapes")
    else:
        raise AssertionError(f"cores of wrong shapes were accepted for {last.name!r}")


def _check_seed(make: Make) -> None:
    def drawn(seed: int) -> dict[str, Any]:
        view = make()
        compress(view, {weight.name: FAMILY for weight in _free(view)}, fit=None, seed=seed)
        bits, made = _bits(view), [weight for weight in view.weights() if weight.network is not None]
        return {weight.name: [bits[name] for name in weight.cores.values()] for weight in made}

    cores, again, other = drawn(5), drawn(5), drawn(6)
    _equal(again, cores, "cores from the same seed")
    for name, own in cores.items():
        assert other[name] != own, f"another seed gives {name!r} the same cores"
        same = [twin for twin in cores if twin != name and cores[twin] == own]
        assert not same, f"{name!r} and {same} have equal cores"


def _check_count(make: Make) -> None:
    view = make()
    report = compress(view, {weight.name: FAMILY for weight in _free(view)}, fit=None)[1]
    gone = report.model_before - report.model_after
    expected = report.params_before - report.params_after
    assert gone == expected, f"the model lost {gone} parameters, its weights {expected}"
    assert report.model_after == count(view), f"the model has {count(view)} parameters, the report {report.model_after}"


def _check_files(make: Make) -> None:
    written = make()
    compress(written, {weight.name: FAMILY for weight in _free(written)}, fit=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(written, path)
        stored, mine = to_stored(written).state().keys(), set(written.entries())
        assert stored == mine, f"the file lacks {sorted(mine - stored)}"
        for what, seed in (("dense", None), ("already generated", 9)):
            view = make()
            if seed is not None:
                compress(view, {weight.name: FAMILY for weight in _free(view)}, fit=None, seed=seed)
            load_model(view, path)
            _unchanged(view, _shown(written), _bits(written), f"read into a model that is {what}")


def _check_misfits(make: Make) -> None:
    written, view = make(), make()
    compress(written, {_free(written)[0].name: FAMILY}, fit=None)
    stored, shown, bits = to_stored(written), _shown(view), _bits(view)
    for what, source in _misfits(stored, view.entries()).items():
        try:
            from_stored(view, source)
        except DeepTNError:
            _unchanged(view, shown, bits, f"after refusing a file with {what}")
        else:
            raise AssertionError(f"a file with {what} was accepted")


def _misfits(stored: StoredModel, entries: Mapping[str, Entry]) -> dict[str, StoredModel]:
    name, layer = next(iter(stored.layers.items()))
    flipped = layer._replace(bias=np.ones(layer.network.shape[0], "float32") if layer.bias is None else None)
    found = {
        "an extra tensor": stored._replace(tensors={**stored.tensors, "nose": np.ones(2, "float32")}),
        "an extra layer": stored._replace(layers=stored.layers | {"nose": layer}),
        "a layer of a different kind": stored._replace(layers=stored.layers | {name: layer._replace(kind="exec")}),
        "an extra or missing bias": stored._replace(layers=dict.fromkeys(stored.layers, flipped)),
    }
    alone = [names[0] for names in _ties(entries).values() if len(names) == 1 and names[0] in stored.tensors]
    if alone:
        array = stored.tensors[alone[-1]]
        rest = {name: tensor for name, tensor in stored.tensors.items() if name != alone[-1]}
        found["a missing tensor"] = stored._replace(tensors=rest)
        found["a tensor of a different shape"] = stored._replace(tensors=rest | {alone[-1]: array[None, None]})
        found["a tensor of a different dtype"] = stored._replace(tensors=rest | {alone[-1]: array * 1j})
    return found


#: The laws that `check_model_view` checks, by name, in this order.
MODEL_LAWS: dict[str, Callable[[Make], None]] = {
    "look": _check_look,
    "names": _check_names,
    "shapes": _check_shapes,
    "replace": _check_replace,
    "back": _check_back,
    "write": _check_write,
    "ties": _check_ties,
    "failure": _check_failure,
    "seed": _check_seed,
    "count": _check_count,
    "files": _check_files,
    "misfits": _check_misfits,
}
