"""Parameters: plain dictionaries of arrays, checked against a spec."""

from __future__ import annotations

from .arrays import DTYPES, dtype_of
from .base import ParamsLike
from .errors import SpecError, near_match
from .spec import NetworkSpec, activations


def check_params(spec: NetworkSpec, params: ParamsLike) -> None:
    """Raise `SpecError` unless `params` contains exactly the tensors of `spec`, with their shapes."""
    shapes = spec.param_shapes
    if not hasattr(params, "keys"):
        raise SpecError(f"params must be a dict of arrays by name, got {type(params).__name__}")
    if params.keys() != shapes.keys():
        missing = [name for name in shapes if name not in params]
        surplus = [name for name in params if name not in shapes]
        raise SpecError(
            "params of another network: "
            + (f"missing {missing[:3]}, " if missing else "")
            + (f"surplus {surplus[:3]}, " if surplus else "")
            + f"expected the {len(shapes)} names of net.spec.param_shapes"
        )
    for name, shape in shapes.items():
        found = getattr(params[name], "shape", None)
        if found is None or tuple(found) != shape:
            came = "no array" if found is None else f"shape {tuple(found)}"
            raise SpecError(f"parameter {name!r}: expected an array of shape {shape}, got {came}")
    first = next(iter(shapes))
    dtype = dtype_of(params[first])
    if dtype not in DTYPES:
        raise SpecError(f"parameter {first!r} has the dtype {dtype}; {near_match('', DTYPES)}")


def check_runs(spec: NetworkSpec, params: ParamsLike) -> None:
    """Run `check_params`, and check that the activations are defined for the dtype of the entries."""
    check_params(spec, params)
    if any(stage.activation for stage in spec.stages):
        for array in {params[name].dtype: params[name] for name in spec.param_shapes}.values():  # one of each dtype
            check_activations(spec, dtype_of(array))


def check_activations(spec: NetworkSpec, dtype: str) -> None:
    """Raise `SpecError` if the entries are complex and an activation is not defined for complex numbers."""
    for number, stage in enumerate(spec.stages if dtype.startswith("complex") else ()):
        if stage.activation is not None and activations.is_real_only(stage.activation):
            raise SpecError(
                f"stage {number} has the activation {stage.activation!r}, which has no meaning for {dtype}; use a real "
                "dtype, or an activation such as 'tanh'"
            )
