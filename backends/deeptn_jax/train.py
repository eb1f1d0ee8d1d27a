"""Train a classifier by a recipe, with optax; your own loop works just as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.base import PathLike, optional
from deeptn.constraints import isometrize
from deeptn.errors import FormatError, SpecError
from deeptn.fitting import grow
from deeptn.init import weight_exponents
from deeptn.models import carry_out, check_teacher
from deeptn.network import Network
from deeptn.recipe import Recipe

from .fit import optax_dtypes


class Trained(NamedTuple):
    """Result of `train`: the parameters (of isometric nodes, before the map), the networks, and the last loss.

    Networks that the recipe let grow are larger; the loss is nan if a checkpoint left nothing to do.

    Examples
    --------
    >>> Trained({}, {}, 0.5).loss
    0.5
    """

    params: dict[str, Any]
    nets: dict[str, Network]
    loss: float


def weights(nets: Mapping[str, Network], params: Mapping[str, Any], isometric: bool = False) -> dict[str, Any]:
    """Return the parameters, with the cores ``params[name]`` replaced by the weight of ``nets[name]``.

    With `isometric`, nodes that are marked as isometric first go through `deeptn.isometrize`.

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> net = dtn.network("BrickWall", (8, 16))
    >>> params = {"fc": net.init(like="jax"), "bias": jax.numpy.zeros(8)}
    >>> {name: array.shape for name, array in weights({"fc": net}, params).items()}
    {'fc': (8, 16), 'bias': (8,)}
    """
    mapped = {name for name, net in nets.items() if isometric and any(node.isometric for node in net.spec.nodes)}
    cores = {name: isometrize(net, params[name]) if name in mapped else params[name] for name, net in nets.items()}
    return {**params, **{name: net.materialize(cores[name]) for name, net in nets.items()}}


def train(
    forward: Callable[[dict[str, Any], jax.Array], jax.Array],
    params: Mapping[str, Any],
    nets: Mapping[str, Network],
    x: Any,
    y: Any,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[], object] | None = None,
    *,
    isometric: bool = False,
    teacher: Callable[[jax.Array], jax.Array] | None = None,
    checkpoint: PathLike | None = None,
) -> Trained:
    """Train a classifier with Adam and cross entropy, in jitted steps.

    Parameters
    ----------
    forward : callable
        ``forward(weights(nets, params), x)`` returns logits, of shape (rows, classes).
    params : mapping
        Real arrays and nested dictionaries of them. Adam keeps its averages of half-precision arrays in float32.
    nets : mapping of str to deeptn.Network
        ``params[name]`` are the cores of ``nets[name]``; all of them train with ``recipe.core_lr``.
    x, y : arrays of shape (N, ...) and (N,)
        Inputs, and class numbers: integers from 0.
    recipe, seed, on_step, checkpoint
        As for `deeptn.models.carry_out`; the seed determines the order of the rows.
    isometric : bool
        Keep nodes isometric, up to a factor, if they are marked as such; see `deeptn.isometrize`.
    teacher : callable, optional
        Returns logits for a batch, for ``recipe.distill``.

    Raises
    ------
    deeptn.DeepTNError
        As for `deeptn.models.carry_out`; also if optax, or a teacher that the recipe needs, is missing. `SpecError` if
        the arguments do not fit each other, or a weight cannot decay, grow or be isometric as requested.

    Examples
    --------
    >>> import jax, numpy as np, deeptn as dtn
    >>> x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    >>> y = (x[:, 0] > 0).astype(int)
    >>> net = dtn.network("BrickWall", (2, 16))
    >>> found = train(lambda p, x: x @ p["fc"].T, {"fc": net.init(like="jax")}, {"fc": net}, x, y,
    ...               dtn.recipe.Recipe(epochs=20, batch=16, core_lr=0.02), seed=0)
    >>> found.loss < 0.6
    True
    """
    check_teacher(recipe, teacher)
    optax = optional("optax", "jax")

    def logits_of(nets: Mapping[str, Network], params: Any, x: Any) -> jax.Array:
        return forward(weights(nets, params, isometric), x)

    def loss_of(nets: Mapping[str, Network], params: Any, x: Any, y: Any) -> jax.Array:
        logits = logits_of(nets, params, x)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()
        if not recipe.distill:
            return loss
        assert teacher is not None  # as check_teacher made sure
        wanted, found = (jax.nn.log_softmax(z / recipe.temperature) for z in (teacher(x), logits))
        divergence = optax.losses.kl_divergence_with_log_targets(found, jax.lax.stop_gradient(wanted)).mean()
        return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence

    given, networks, x, y = jax.tree.map(jnp.asarray, dict(params)), dict(nets), np.asarray(x), np.asarray(y)
    _check_networks(given, networks, recipe, isometric)
    _check_rows(partial(logits_of, networks, given), x, y, recipe)
    trainer = _Trainer(optax.scale_by_adam, loss_of, given, networks, x, y, recipe, seed)
    loss = carry_out(recipe, trainer, seed, on_step, checkpoint, isometric=isometric)
    return Trained(trainer.params, trainer.networks, loss)


def _check_networks(params: Mapping[str, Any], nets: Mapping[str, Network], recipe: Recipe, isometric: bool) -> None:
    """Raise before the first step if a later one would fail."""
    for name, net in nets.items():
        if name not in params:
            raise SpecError(f"params has no cores for {name!r} of nets; it has {sorted(params)[:5]}")
        if recipe.decay:
            weight_exponents(net.spec)
        for _, size in recipe.grow:
            grow(net, params[name], size)
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)):
        raise SpecError("params has complex entries, which this loop cannot train; write your own loop")
    if isometric and not any(node.isometric for net in nets.values() for node in net.spec.nodes):
        raise SpecError("isometric=True, but no node of any network is marked as isometric")
    if isometric and recipe.grow:
        raise SpecError("isometries cannot grow: added entries are not isometric; omit isometric or Recipe.grow")


def _check_rows(logits_of: Callable[[Any], jax.Array], x: np.ndarray, y: np.ndarray, recipe: Recipe) -> None:
    """Raise `SpecError` if inputs, class numbers and the shape of the first logits do not fit together."""
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or not len(y):
        raise SpecError(f"y has shape {y.shape} and dtype {y.dtype}; expected integers of shape ({len(x)},)")
    rows, logits = min(recipe.batch, len(x)), jax.eval_shape(logits_of, x[: recipe.batch]).shape
    if logits != (rows, logits[-1]):
        raise SpecError(f"forward returned shape {logits} for {rows} rows; expected (rows, classes)")
    if y.min() < 0 or y.max() >= logits[-1]:
        raise SpecError(f"y ranges from {y.min()} to {y.max()}; the logits have classes 0 to {logits[-1] - 1}")


@dataclass
class _Trainer:
    """The `deeptn.models.Trainer` for JAX."""

    adam: Any
    loss_of: Callable[..., jax.Array]
    params: dict[str, Any]
    networks: dict[str, Network]
    x: np.ndarray
    y: np.ndarray
    recipe: Recipe
    seed: int

    def __post_init__(self):
        self.rows, self.state = len(self.x), {}
        self._begin(self.params)

    def _begin(self, names: Iterable[str]) -> None:
        """Initialize Adam's averages for these parameters, and compile the step."""
        self.state |= {name: self.adam().init(_wide(self.params[name])) for name in names}
        self.compiled = self._compile()

    def grow(self, size: int, epoch: int) -> None:
        before = self.networks.copy()
        for number, (name, net) in enumerate(before.items()):
            grown = grow(net, self.params[name], size, seed=self.seed + 1000 * epoch + number)
            if grown.net != net:
                self.networks[name], self.params[name] = grown.net, dict(grown.params)
        if larger := [name for name, net in before.items() if net is not self.networks[name]]:
            self._begin(larger)

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def step(self, chosen: np.ndarray, share: float, beta: float) -> float:
        batch = self.x[chosen], self.y[chosen]
        self.params, self.state, loss = self.compiled(self.params, self.state, *batch, share, beta)
        return float(loss)

    def tensors(self) -> dict[str, jax.Array]:
        return {f"leaf{k}": leaf for k, leaf in enumerate(jax.tree.leaves((self.params, self.state)))}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        leaves, form = jax.tree.flatten((self.params, self.state))
        found = [tensors[name] for name in self.tensors()]
        if any(old.shape != new.shape or old.dtype != new.dtype for old, new in zip(leaves, found)):
            raise FormatError("its tensors have different shapes or dtypes")
        self.params, self.state = jax.tree.unflatten(form, map(jnp.asarray, found))

    def _compile(self) -> Callable[..., Any]:
        """Return a jitted training step for the current networks."""
        adam, recipe, nets = self.adam, self.recipe, self.networks.copy()
        core_lr, lr = recipe.rates
        powers = {name: weight_exponents(net.spec) for name, net in nets.items()} if recipe.decay else {}

        @jax.jit
        def step(params: Any, state: Any, x: Any, y: Any, share: Any, beta: Any) -> Any:
            loss, gradient = jax.value_and_grad(partial(self.loss_of, nets))(params, x, y)
            if (clip := recipe.clip) is not None:
                gradient = _wide(gradient)
                norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
                gradient = jax.tree.map(lambda g: g * jnp.minimum(clip / (norm + 1e-6), 1.0), gradient)
            new, after = {}, {}
            for name, value in params.items():
                with optax_dtypes():
                    update, after[name] = adam(b1=beta).update(_wide(gradient[name]), state[name])
                rate = (core_lr if name in nets else lr) * share
                new[name] = jax.tree.map(lambda p, u, rate=rate: (_wide(p) - rate * u).astype(p.dtype), value, update)
            for name, exponents in powers.items():
                factor = 1.0 - core_lr * share * recipe.decay
                new[name] |= {core: new[name][core] * factor**power for core, power in exponents.items()}
            return new, after, loss

        return step


def _wide(tree: Any) -> Any:
    """Convert half precision to float32."""
    return jax.tree.map(lambda a: a.astype("float32") if a.dtype.itemsize < 4 else a, tree)
