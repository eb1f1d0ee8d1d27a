"""The view through which deeptn reads and changes PyTorch models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from deeptn.arrays import dtype_of, from_raw
from deeptn.models import Entry, Generated, Kind, Weight, expect_model, kind_of, naming, path_of, refuse, tied

from .fit import draw_seed, fit
from .kinds import KINDS, SINGLE, hooks, replaceable
from .layers import TNLayer, TNWeight
from .layers.weight import generated_inside, register, unregister, weights_of
from .outputs import outputs_of

META = "is on the meta device and has no data; call model.to_empty(device='cpu') first"
LAZY = "is lazy and has no data yet; call the model once first"
SHARDED = "is sharded; gather it first with torch.distributed.checkpoint.state_dict"
CONSTRAINED = "is constrained, but files store no constraints; load into an unconstrained model, then call constrain()"


class Place(NamedTuple):
    """Where a weight is: its module, the names of the module, its own name there, and the kind of the layer."""

    module: Any
    owners: tuple[str, ...]
    key: str
    kind: Kind

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path_of(owner, self.key) for owner in self.owners) if self.kind is SINGLE else self.owners

    @property
    def made(self) -> Any:
        """The generated layer, or None if the weight is dense."""
        if isinstance(self.module, TNLayer):
            return self.module
        return self.module.parametrizations[self.key][0] if self.key in generated_inside(self.module) else None

    def filled(self, weight: np.ndarray) -> tuple[str, np.ndarray]:
        """Return the name of the dense parameter in the model, and a weight in its order of axes."""
        axes = range(weight.ndim) if self.kind.axes is None else np.argsort(self.kind.axes)
        return path_of(self.owners[0], self.key), weight.transpose(axes)

    def generate(self, change: Generated) -> TNLayer:
        """Create a generated layer for this place with given cores."""
        old = self.module._parameters[self.key]
        params = change.arrays("torch")
        if self.kind.make is not None:
            return self.kind.make(self.module, change.network, params)
        made = TNWeight(change.network.shape, change.network, "meta", old.dtype, axes=self.kind.axes)
        return made.filled(self.module, old, params)


class TorchModel:
    """A PyTorch model as a `deeptn.models.ModelView`, changed in place.

    Examples
    --------
    >>> [weight.name for weight in TorchModel(nn.Sequential(nn.Linear(6, 4), nn.LSTM(4, 4))).weights()]
    ['0', '1.weight_ih_l0', '1.weight_hh_l0']
    """

    fit = staticmethod(fit)

    def __init__(self, model: nn.Module):
        expect_model(model, "a torch.nn.Module", isinstance(model, nn.Module))
        self.model = model

    def seed(self, given: int | torch.Generator | None) -> int:
        return given if isinstance(given, int) else draw_seed(given)

    def _places(self) -> dict[str, Place]:
        owners: dict[Any, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            if ".parametrizations." not in f".{name}":
                owners.setdefault(module, []).append(name)
        found: list[Place] = []
        for module, names in owners.items():
            keys = dict.fromkeys((*weights_of(module), *generated_inside(module)), SINGLE)
            kind = Kind(module.kind) if isinstance(module, TNLayer) else kind_of(KINDS, module)
            weight: Any = module._parameters.get("weight")
            if kind is not None and not is_lazy(weight):
                keys["weight"] = kind
            found += [Place(module, tuple(names), key, kind) for key, kind in keys.items()]
        return {place.names[0]: place for place in found}

    def weights(self) -> list[Weight]:
        users: dict[Any, list[tuple[nn.Module, str, str]]] = {}
        for name, module in self.model.named_modules():
            for key, tensor in module._parameters.items():
                users.setdefault(tensor, []).append((module, key, path_of(name, key)))
        return [self._weight(place, users) for place in self._places().values()]

    def _weight(self, place: Place, users: Mapping[Any, Iterable[tuple[nn.Module, str, str]]]) -> Weight:
        module, _, key, kind = place
        names, layer = place.names, place.made
        own, bias = ("", False) if kind is SINGLE else (key, getattr(module, "bias", None) is not None)
        if layer is not None:
            refused = hooks(layer)
            if module is layer and isinstance(layer, TNWeight):
                refused = "is a TNWeight in your own module, where no dense weight can replace it"
            elif module is not layer and key not in vars(type(module)):  # where PyTorch looks it up
                refused = "is in a module whose class was changed later (fully_shard does that); fold it before"
            dtype, net = _dtype(next(iter(layer.cores.values()))), layer.network
            read = lambda: layer.weight.detach()  # noqa: E731
            return Weight(names, kind.name(net.shape), net.shape, dtype, read, own, bias, net, refused)
        weight = getattr(module, key).detach()
        weight = weight if kind.axes is None else weight.permute(kind.axes)
        refused = META if weight.is_meta else replaceable(module, kind) if kind.base else None
        if parametrize.is_parametrized(module, None if kind.base else key):
            refused = "has a parametrization, which would be lost; remove it first"
        for what in ("weight", "bias") if kind.base else (key,):
            for user, name, path in users[module._parameters[what]] if module._parameters.get(what) is not None else ():
                if user is not module or name != what:
                    refused = tied(what, path)
        shape = tuple(weight.shape)
        return Weight(names, kind.name(shape), shape, _dtype(weight), lambda: weight, own, bias, None, refused)

    def _slots(self) -> dict[str, tuple[str, Any, bool]]:
        """Map names of entries to names in the ``state_dict``, tensors, and whether the tensors are constrained."""
        gone: list[str] = []
        cores: dict[str, tuple[str, Any, bool]] = {}
        for place in self._places().values():
            if (layer := place.made) is None:
                continue
            used = {core: layer.cores[core] for core in layer.network.spec.param_shapes}
            constrained = parametrize.is_parametrized(layer.cores)
            for owner, name in zip(place.owners, place.names):
                inside = "" if layer is place.module else path_of("parametrizations", place.key)
                gone.append(path_of(owner, inside or "cores") + ".")
                where = path_of(owner, inside, "0" if inside else "", "cores")
                cores |= {path_of(name, "cores", c): (path_of(where, c), t, constrained) for c, t in used.items()}
        state = self.model.state_dict(keep_vars=True)
        return {k: (k, value, False) for k, value in state.items() if not k.startswith(tuple(gone))} | cores

    def entries(self) -> dict[str, Entry]:
        params = {id(param) for param in self.model.parameters()}
        found = {}
        for name, (_, value, constrained) in self._slots().items():
            if not isinstance(value, Tensor) or is_lazy(value):
                why = LAZY if isinstance(value, Tensor) else f"is a {type(value).__name__}, not a tensor"
                found[name] = Entry((0,), None, name, partial(refuse, name, why), False, why)
                continue
            whole = hasattr(value, "full_tensor")
            place = id(value) if whole else value.data_ptr() or name
            tie = (value.device, place, value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg())
            why = META if value.is_meta else SHARDED if whole else None
            read = partial(refuse, name, why) if why else value.detach
            shape, trained = tuple(value.shape), constrained or id(value) in params
            found[name] = Entry(shape, _dtype(value), tie, read, trained, CONSTRAINED if constrained else why)
        return found

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        places = self._places()
        made, swaps, restored = {}, {}, []
        for name, change in changes.items():
            place = places[name]
            with naming(name):
                if change is not None:
                    made[name] = place.generate(change)
                elif place.made is place.module:
                    swaps[place.module] = place.module.to_dense()
                else:
                    restored.append(place)
        swaps |= {places[name].module: layer for name, layer in made.items() if not isinstance(layer, TNWeight)}
        for name, layer in made.items():
            if isinstance(layer, TNWeight):
                register(places[name].module, places[name].key, layer)
        for place in restored:
            unregister(place.module, place.key)
        for parent in list(self.model.modules()):
            for name, child in list(parent._modules.items()):
                if child in swaps:
                    setattr(parent, name, swaps[child])

    def outputs(self, inputs: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        places = self._places()
        return outputs_of(self.model, inputs, dict(places[name].filled(array) for name, array in weights.items()))

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        slots = self._slots()
        self.model.load_state_dict({slots[name][0]: from_raw(a, "torch") for name, a in arrays.items()}, strict=False)


def _dtype(tensor: Tensor) -> str | None:
    name = dtype_of(tensor)
    return None if name.startswith("float8") else name  # None: `load_state_dict` does the rounding
