"""Training a classifier by a recipe, with optax; a loop of one's own is as good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.base import write_atomically
from deeptn.constraints import isometrize
from deeptn.errors import DeepTNError, FormatError, MissingBackendError, SpecError
from deeptn.files import fingerprint
from deeptn.fitting import grow
from deeptn.init import weight_exponents
from deeptn.network import Network
from deeptn.recipe import Recipe

#: From the parameters, in which W stands in the place of the cores, and a batch to logits.
Forward = Callable[[Mapping[str, Any], jax.Array], jax.Array]


class Trained(NamedTuple):
    """Outcome of `train`.

    Attributes
    ----------
    params : dict
        As they came, trained; the cores of isometric nodes before the map.
    nets : dict of str to Network
        Larger than before where the recipe let them grow.
    loss : float
        Of the last step; nan if a checkpoint left nothing to do.

    Examples
    --------
    >>> Trained({}, {}, 0.5).loss
    0.5
    """

    params: dict[str, Any]
    nets: dict[str, Network]
    loss: float


def weights(nets: Mapping[str, Network], params: Mapping[str, Any], isometric: bool = False) -> dict[str, Any]:
    """The parameters with every network's weight in the place of its cores.

    Parameters
    ----------
    nets : mapping of str to deeptn.Network
        By the keys of `params` under which their cores are.
    params : mapping
    isometric : bool
        Whether the nodes that are marked go through `deeptn.isometrize`.

    Returns
    -------
    dict

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> net = dtn.network("BrickWall", (8, 16))
    >>> params = {"fc": net.init(like="jax"), "bias": jax.numpy.zeros(8)}
    >>> {name: array.shape for name, array in weights({"fc": net}, params).items()}
    {'fc': (8, 16), 'bias': (8,)}
    """
    made = dict(params)
    for name, net in nets.items():
        cores = params[name]
        if isometric and any(node.isometric for node in net.spec.nodes):
            cores = isometrize(net, cores)
        made[name] = net.materialize(cores)
    return made


def train(
    forward: Forward,
    params: Mapping[str, Any],
    nets: Mapping[str, Network],
    x: Any,
    y: Any,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
    *,
    isometric: bool = False,
    teacher: Callable[[jax.Array], jax.Array] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Trained:
    """Train a classifier: Adam, cross entropy, one jitted step.

    Parameters
    ----------
    forward : callable
        ``forward(weights, x)`` returns logits. It is written as for dense weights: ``weights`` are the parameters with
        every W in the place of its cores.
    params : mapping
        A dictionary of real arrays and of nested dictionaries; ``params[name]`` are the cores of ``nets[name]``. Adam's
        averages of half-precision ones are in float32.
    nets : mapping of str to deeptn.Network
    x : array of shape (N, ...)
    y : integer array of shape (N,)
        Class numbers from 0.
    recipe : deeptn.Recipe
        ``core_lr`` is for the cores of all `nets`.
    seed : int
        Of the order of the rows (NumPy's generator).
    on_step : callable
        Called after every step.
    isometric : bool
        Keep the nodes that are marked isometric, up to a factor: `deeptn.isometrize`.
    teacher : callable, optional
        From a batch to logits, for ``recipe.distill``.
    checkpoint : path, optional
        Written after every epoch (NumPy's ``npz``); training goes on from there if the file exists.

    Returns
    -------
    Trained

    Raises
    ------
    deeptn.DeepTNError
        If the loss is no longer finite, or a teacher is missing.
    deeptn.SpecError
        If `params` lacks the cores of a network or has complex entries, `x`, `y` and the logits do not fit, or a weight
        cannot decay, grow or be isometric as asked.
    deeptn.FormatError
        If the checkpoint is none of this recipe, seed and model.
    deeptn.MissingBackendError
        Without optax.

    Examples
    --------
    >>> import jax, numpy as np, deeptn as dtn
    >>> x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    >>> y = (x[:, 0] > 0).astype(int)
    >>> net = dtn.network("BrickWall", (2, 16))
    >>> found = train(lambda p, x: x @ p["fc"].T, {"fc": net.init(like="jax")}, {"fc": net}, x, y,
    ...               dtn.Recipe(epochs=20, batch=16, core_lr=0.02), seed=0)
    >>> found.loss < 0.6
    True
    """
    try:
        import optax
    except ImportError as error:
        raise MissingBackendError("optax", "jax") from error
    if recipe.distill and teacher is None:
        raise DeepTNError(f"Recipe.distill = {recipe.distill} compares with a teacher; pass teacher=")
    x, y = np.asarray(x), np.asarray(y)
    now: dict[str, Any] = jax.tree.map(jnp.asarray, dict(params))
    kept = dict(nets)
    _check(forward, now, kept, x, y, recipe, isometric)
    adam = optax.scale_by_adam
    state = {name: adam().init(_wide(value)) for name, value in now.items()}
    step = _step(adam, forward, teacher, kept, recipe, isometric)
    rows, first, loss = len(x), 0, float("nan")
    networks = {name: fingerprint(net) for name, net in nets.items()}
    about = {"recipe": repr(recipe), "seed": seed, "rows": rows, "isometric": isometric, "networks": networks}
    file = None if checkpoint is None else Path(checkpoint)
    saved = _read(file, about) if file is not None and file.exists() else None
    first = 0 if saved is None else int(saved["epoch"])
    for epoch in range(recipe.epochs):
        if epoch == first and saved is not None:
            (now, state), saved = _restore(file, saved, (now, state)), None
        sizes = [size for when, size in recipe.grow if when == epoch]
        if sizes:
            for number, (name, net) in enumerate(kept.items()):
                grown = grow(net, now[name], max(sizes), seed=seed + 1000 * epoch + number)
                if grown.net != net:  # what Adam knows of the old cores is forgotten
                    kept[name], now[name] = grown.net, dict(grown.params)
                    state[name] = adam().init(_wide(now[name]))
            step = _step(adam, forward, teacher, kept, recipe, isometric)
        if epoch < first:
            continue
        total, per_epoch = recipe.steps(rows), recipe.steps(rows) // recipe.epochs
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        for number in range(per_epoch):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            share, beta = recipe.at(epoch * per_epoch + number, total)
            now, state, found = step(now, state, x[chosen], y[chosen], share, beta)
            loss = float(found)
            if not np.isfinite(loss):
                raise DeepTNError(f"the training loss became {loss}; lower the learning rate {recipe.lr}")
            on_step()
        if file is not None:
            _write(file, about | {"epoch": epoch + 1}, (now, state))
    if saved is not None:
        now, state = _restore(file, saved, (now, state))
    return Trained(now, kept, loss)


def _wide(tree: Any) -> Any:
    """Half precision as float32."""
    return jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), tree)


def _check(
    forward: Forward,
    params: Mapping[str, Any],
    nets: Mapping[str, Network],
    x: np.ndarray,
    y: np.ndarray,
    recipe: Recipe,
    isometric: bool,
) -> None:
    """Find out before the first step what could not be done later."""
    for name, net in nets.items():
        if name not in params:
            raise SpecError(f"nets names {name!r}; params has {sorted(params)[:5]}")
        if recipe.decay:
            weight_exponents(net.spec)
        for _, size in recipe.grow:
            grow(net, params[name], size)
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)):
        raise SpecError("params has complex entries, for which this loop makes no steps; write one of your own")
    if isometric and not any(node.isometric for net in nets.values() for node in net.spec.nodes):
        raise SpecError("isometric=True, but no node of any network is marked as isometric")
    if isometric and recipe.grow:
        raise SpecError("isometries cannot grow: what is added to them is none; leave isometric or Recipe.grow out")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or len(x) != len(y) or not len(y):
        raise SpecError(
            f"y has shape {y.shape} and dtype {y.dtype}; expected integers of shape ({len(x)},), one at least"
        )
    logits = jax.eval_shape(lambda p, x: forward(weights(nets, p, isometric), x), params, x[: recipe.batch])
    if logits.shape != (min(recipe.batch, len(x)), logits.shape[-1]):
        raise SpecError(
            f"forward returned shape {logits.shape} for {min(recipe.batch, len(x))} rows; expected (rows, classes)"
        )
    if y.min() < 0 or y.max() >= logits.shape[-1]:
        raise SpecError(
            f"y goes from {y.min()} to {y.max()}, the logits are of the classes 0 to {logits.shape[-1] - 1}"
        )


def _step(
    adam: Any, forward: Forward, teacher: Any, nets: Mapping[str, Network], recipe: Recipe, isometric: bool
) -> Callable[..., Any]:
    """One step of training, compiled."""
    rates = {name: recipe.lr if recipe.core_lr is None else recipe.core_lr for name in nets}
    powers = {name: weight_exponents(net.spec) for name, net in nets.items()} if recipe.decay else {}

    def loss_of(params: Any, x: Any, y: Any) -> jax.Array:
        logits = forward(weights(nets, params, isometric), x)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()
        if teacher is None or not recipe.distill:
            return loss
        wanted = jax.nn.log_softmax(jax.lax.stop_gradient(teacher(x)) / recipe.temperature)
        found = jax.nn.log_softmax(logits / recipe.temperature)
        divergence = (jnp.exp(wanted) * (wanted - found)).sum(1).mean()
        return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any, share: Any, beta: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(params, x, y)
        if (clip := recipe.clip) is not None:
            norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(_wide(gradient))))
            gradient = jax.tree.map(lambda g: g * jnp.minimum(clip / (norm + 1e-6), 1.0), gradient)
        new, after = {}, {}
        for name, value in params.items():
            update, after[name] = adam(b1=beta).update(_wide(gradient[name]), state[name])
            rate = rates.get(name, recipe.lr) * share
            new[name] = jax.tree.map(lambda p, u, rate=rate: (p - rate * u).astype(p.dtype), value, update)
        for name, exponents in powers.items():
            factor = 1.0 - rates[name] * share * recipe.decay
            shrunk = {core: new[name][core] * factor**power for core, power in exponents.items()}
            new[name] = new[name] | shrunk
        return new, after, loss

    return step


def _write(path: Path, about: dict[str, Any], tree: Any) -> None:
    leaves = {f"leaf{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(jax.tree.map(_storable, tree)))}

    def write(file: Path) -> None:
        with file.open("wb") as stream:
            np.savez(stream, about=np.asarray(json.dumps(about)), **leaves)  # type: ignore[arg-type]

    write_atomically(path, write)


def _storable(leaf: Any) -> Any:
    """NumPy's files know no bfloat16."""
    return _wide(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _read(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            leaves = {name: stored[name] for name in stored.files if name != "about"}
            found = json.loads(str(stored["about"]))
        epoch = found.pop("epoch")
    except OSError:
        raise
    except Exception as error:  # whatever NumPy makes of a damaged file
        raise FormatError(f"{path}: no checkpoint of training ({type(error).__name__})") from error
    if found != about:
        differ = next(key for key in about if found.get(key) != about[key])
        raise FormatError(
            f"{path}: a checkpoint of another {differ}: {found.get(differ)}, expected {about[differ]}; "
            "name another file"
        )
    return {"epoch": epoch, "leaves": [leaves[f"leaf{k}"] for k in range(len(leaves))]}


def _restore(path: Path | None, saved: dict[str, Any], tree: Any) -> Any:
    """The stored numbers in a tree of the same form."""
    leaves, form = jax.tree.flatten(tree)
    if [np.shape(leaf) for leaf in leaves] != [leaf.shape for leaf in saved["leaves"]]:
        raise FormatError(f"{path}: a checkpoint of another model")
    return jax.tree.unflatten(form, [jnp.asarray(new, old.dtype) for old, new in zip(leaves, saved["leaves"])])
