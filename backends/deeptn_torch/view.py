"""The view through which deeptn reads and changes PyTorch models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from deeptn.arrays import dtype_of, from_raw
from deeptn.models import Entry, Generated, Receive, Weight, expect_model, naming, path_of, refuse, tied

from .fit import draw_seed, fit
from .kinds import SINGLE, hooks, lost_when_dense, replaceable
from .layers import TNWeight
from .layers.cores import are_computed
from .layers.inside import needs_rows, register, unregister
from .outputs import outputs_of
from .places import Place, lone_place, places_of
from .watch import watched

META = "is on the meta device and has no data; call model.to_empty(device='cpu') first"
LAZY = "is lazy and has no data yet; call the model once first"
SHARDED = "is sharded; gather it first with torch.distributed.checkpoint.state_dict"
CONSTRAINED = (
    "is constrained or pruned, of which files store nothing; load into a model without, then constrain or prune it"
)


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

    def weights(self) -> list[Weight]:
        return self._described(places_of(self.model).values())

    def lone_weight(self, name: str) -> Weight | None:
        """Return a parameter that `weights` does not list, but that a network can generate; None if there is none."""
        place = lone_place(self.model, name)
        return None if place is None else self._described([place])[0]

    def _described(self, places: Iterable[Place]) -> list[Weight]:
        users: dict[Any, list[tuple[nn.Module, str, str]]] = {}
        for name, module in self.model.named_modules():
            for key, tensor in module._parameters.items():
                users.setdefault(tensor, []).append((module, key, path_of(name, key)))
        return [self._weight(place, users) for place in places]

    def _weight(self, place: Place, users: Mapping[Any, Iterable[tuple[nn.Module, str, str]]]) -> Weight:
        module, _, key, kind = place
        names, layer = place.names, place.made
        has_bias = any(held.get("bias") is not None for held in (module._parameters, module._buffers))
        own, bias = ("", False) if kind is SINGLE else (key, has_bias)
        if layer is not None:
            refused = hooks(layer) or lost_when_dense(module, key)
            dtype, net = _dtype(next(iter(layer.cores.values()))), layer.network
            read = lambda: layer.weight.detach()  # noqa: E731
            return Weight(names, kind.name(net.shape), net.shape, dtype, read, own, bias, net, refused)
        weight = getattr(module, key).detach()
        weight = weight if kind.axes is None else weight.permute(kind.axes)
        refused = META if weight.is_meta else replaceable(module, kind) if kind.base else needs_rows(module)
        if key not in module._parameters:
            refused = "has a weight that is not a parameter; make it one first"
        if parametrize.is_parametrized(module, None if kind.base else key):
            refused = "has a parametrization, which would be lost; remove it first"
        for what in ("weight", "bias") if kind.base else (key,):
            for user, name, path in users[module._parameters[what]] if module._parameters.get(what) is not None else ():
                if user is not module or name != what:
                    refused = tied(what, path)
        shape = tuple(weight.shape)
        affine = bias and kind.adds_bias(module)
        return Weight(names, kind.name(shape), shape, _dtype(weight), lambda: weight, own, bias, None, refused, affine)

    def _slots(self) -> dict[str, tuple[str, Any, bool]]:
        """Map names of entries to names in the ``state_dict``, tensors, and whether the tensors are constrained."""
        gone: list[str] = []
        cores: dict[str, tuple[str, Any, bool]] = {}
        for place in places_of(self.model).values():
            if (layer := place.made) is None:
                continue
            used = {core: layer.cores[core] for core in layer.network.spec.param_shapes}
            constrained = are_computed(layer.cores)
            for owner, name in zip(place.owners, place.names):
                inside = "" if layer is place.module else path_of("parametrizations", place.key)
                where = path_of(owner, inside, "0" if inside else "", "cores")
                gone.append(where + ".")
                cores |= {path_of(name, "cores", c): (path_of(where, c), t, constrained) for c, t in used.items()}
        state = self.model.state_dict(keep_vars=True)
        return {k: (k, value, False) for k, value in state.items() if not k.startswith(tuple(gone))} | cores

    def entries(self) -> dict[str, Entry]:
        params = {id(param) for param in self.model.parameters()}
        found = {}
        for place in places_of(self.model).values():
            for part in place.on_top:
                name, kind = place.names[0], type(part).__name__
                if not part.state_dict():  # nothing in the file would tell that it is there
                    why = f"has a {kind} on top, which files do not store; remove it first"
                    found[path_of(name, kind)] = Entry((0,), None, kind, partial(refuse, name, why), False, why)
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
        known = places_of(self.model)
        places = {name: cast("Place", known.get(name) or lone_place(self.model, name)) for name in changes}
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
        places = places_of(self.model)
        return outputs_of(self.model, inputs, dict(places[name].filled(array) for name, array in weights.items()))

    def watched(
        self, names: Iterable[str], receive: Receive
    ) -> AbstractContextManager[tuple[nn.Module, Callable[[Any], object]]]:
        return watched(self.model, names, receive)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        slots = self._slots()
        self.model.load_state_dict({slots[name][0]: from_raw(a, "torch") for name, a in arrays.items()}, strict=False)


def _dtype(tensor: Tensor) -> str | None:
    name = dtype_of(tensor)
    return None if name.startswith("float8") else name  # None: `load_state_dict` does the rounding
