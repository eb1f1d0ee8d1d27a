"""Laws that every view of models keeps, so that `compress`, `fold` and files work on it.

The test of an adapter of your own is two lines::

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
    """Check what holds for every view of models.

    Looking changes nothing. Names are unique, and every weight owns its entries. Shapes and dtypes are those of what is
    read. A network that takes the place of a weight holds its cores bit by bit and touches nothing else; back again,
    the model shows what it did before. What is written under one name is read under every name of its tie. What fails
    changes nothing. A seed is a seed, and equal layers get other cores. The report counts as the view does. Files are
    read bit by bit, into dense layers and into generated ones; those that do not fit change nothing.

    Parameters
    ----------
    make : callable
        Returns the view of a new model, the same at every call, with a weight at least that can be generated. The more
        there is in it (layers of two names, ties, statistics, layers that cannot be replaced), the more is checked.

    Raises
    ------
    AssertionError
        With the name of the law and what was found. Errors of the view itself pass through with that as a note.

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
    """What can be stored, bit by bit."""
    found = {}
    for name, entry in view.entries().items():
        try:
            raw = to_raw(entry.read())
        except PlanError:
            continue
        found[name] = raw.dtype.name, raw.shape, raw.tobytes()
    return found


def _shown(view: ModelView) -> dict[str, Any]:
    """What a view says, arrays and ties left out."""
    entries = {f"entry {name}": (e.shape, e.dtype, e.trained, e.refused) for name, e in view.entries().items()}
    return entries | {
        weight.name: replace(weight, read=_free) for weight in view.weights()
    }  # reading is looked at apart


def _equal(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())} came or went"
    other = [name for name in expected if found[name] != expected[name]]
    assert not other, f"{what}: {other} changed"


def _unchanged(view: ModelView, shown: Mapping[str, Any], bits: Mapping[str, Any], what: str) -> None:
    _equal(_shown(view), shown, what)
    _equal(_bits(view), bits, what)


def _free(view: ModelView) -> list[Weight]:
    found = [weight for weight in view.weights() if weight.network is None and weight.refused is None]
    assert found, "make() returns a model without a weight that can be generated"
    return found


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
    _unchanged(view, shown, bits, "after a look")


def _check_names(make: Make) -> None:
    view = make()
    names = [name for weight in view.weights() for name in weight.names]
    assert len(set(names)) == len(names), f"two weights of one name: {names}"
    owned = [name for weight in view.weights() for name in weight.owned]
    assert len(set(owned)) == len(owned), f"two weights own one entry: {sorted(owned)}"
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
            assert np.array_equal(to_raw(entries[name].read()), expected), f"{name!r} has other entries"
        weights = net.materialize({core: to_numpy(entries[name].read()) for core, name in made.cores.items()})
        assert np.allclose(to_numpy(made.read()), weights, rtol=1e-4, atol=1e-5), (
            f"{weight.name!r} reads another weight"
        )
        own = {weight.entry(weight.own, name) for name in weight.names}
        cores_of = made.owned - weight.owned
        rest = {name: found for name, found in after.items() if name not in cores_of}
        _equal(rest, {name: found for name, found in before.items() if name not in own}, f"beside {weight.name!r}")


def _check_back(make: Make) -> None:
    for weight in _free(make()):
        view = make()
        shown, dense = _shown(view), to_numpy(_weights(view)[weight.name].read())
        compress(view, {weight.name: LowRank(rank=max(weight.shape))})
        fold(view, [weight.name])
        _equal(_shown(view), shown, f"{weight.name!r} there and back")
        found = to_numpy(_weights(view)[weight.name].read())
        assert np.allclose(found, dense, atol=1e-4), f"{weight.name!r} comes back as another weight"


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
            assert after[name][2] == new.tobytes(), f"{name!r} is not what was written as {names[0]!r}"
        rest = {name: found for name, found in before.items() if name not in names}
        _equal({name: after[name] for name in after if name not in names}, rest, f"beside {names}")


def _check_failure(make: Make) -> None:
    """The second of two replacements has cores of other shapes."""
    view = make()
    shown, bits = _shown(view), _bits(view)
    first, last = (_free(view) * 2)[0], _free(view)[-1]
    nets = {weight.name: network(FAMILY, weight.shape) for weight in (first, last)}
    changes = {name: Generated(net, net.init(dtype="float32")) for name, net in nets.items()}
    wrong = {core: np.ones((1, 1, 1), "float32") for core in changes[last.name].params}
    try:
        view.replace(changes | {last.name: Generated(nets[last.name], wrong)})
    except DeepTNError:
        _unchanged(view, shown, bits, "cores of wrong shapes were refused")
    else:
        raise AssertionError(f"cores of wrong shapes were taken for {last.name!r}")


def _check_seed(make: Make) -> None:
    def drawn(seed: int) -> dict[str, Any]:
        view = make()
        compress(view, {weight.name: FAMILY for weight in _free(view)}, fit=None, seed=seed)
        bits, made = _bits(view), [weight for weight in view.weights() if weight.network is not None]
        return {weight.name: [bits[name] for name in weight.cores.values()] for weight in made}

    cores, again, other = drawn(5), drawn(5), drawn(6)
    _equal(again, cores, "the same seed")
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
        for what, seed in (("dense", None), ("generated already", 9)):
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
            _unchanged(view, shown, bits, f"a file with {what} was refused")
        else:
            raise AssertionError(f"a file with {what} was taken")


def _misfits(stored: StoredModel, entries: Mapping[str, Entry]) -> dict[str, StoredModel]:
    name, layer = next(iter(stored.layers.items()))
    flipped = layer._replace(bias=np.ones(layer.network.shape[0], "float32") if layer.bias is None else None)
    found = {
        "a tensor more": stored._replace(tensors=stored.tensors | {"nose": np.ones(2, "float32")}),
        "a layer more": stored._replace(layers=stored.layers | {"nose": layer}),
        "a layer of another kind": stored._replace(layers=stored.layers | {name: layer._replace(kind="exec")}),
        "a bias more or less": stored._replace(layers=dict.fromkeys(stored.layers, flipped)),
    }
    alone = [names[0] for names in _ties(entries).values() if len(names) == 1 and names[0] in stored.tensors]
    if alone:
        array = stored.tensors[alone[-1]]
        rest = {name: tensor for name, tensor in stored.tensors.items() if name != alone[-1]}
        found["a tensor less"] = stored._replace(tensors=rest)
        found["a tensor of another shape"] = stored._replace(tensors=rest | {alone[-1]: array[None, None]})
        found["a tensor of another dtype"] = stored._replace(tensors=rest | {alone[-1]: array * 1j})
    return found


#: What `check_model_view` checks, by name, in this order.
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
