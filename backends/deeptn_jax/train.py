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
from deeptn.models import Batch, Data, Rows, carry_out, check_loss, check_recipe
from deeptn.network import Network
from deeptn.recipe import Recipe

from .fit import optax_dtypes
from .objective import Objective
from .view import is_array, is_key


class Trained(NamedTuple):
    """Result of `train`: the parameters (of isometric nodes, before the map), the networks, and the last loss.

    Networks that the recipe let grow are larger.

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
    check_recipe(recipe, teacher, seed)
    optax = optional("optax", "jax")
    if recipe.patience is not None:
        raise SpecError("Recipe.patience needs a score, which this function has not; train a model of Equinox or NNX")
    objective = Objective(recipe, "cross_entropy", taught=bool(recipe.distill))

    def logits_of(nets: Mapping[str, Network], params: Any, x: Any) -> jax.Array:
        return forward(weights(nets, params, isometric), x)

    def loss_of(nets: Mapping[str, Network], params: Any, state: Any, batch: Batch, key: Any) -> Any:
        (x,) = batch.args
        wanted = jax.lax.stop_gradient(teacher(x)) if recipe.distill and teacher is not None else None
        return objective(logits_of(nets, params, x), batch.target, wanted), state

    given, networks, x, y = jax.tree.map(jnp.asarray, dict(params)), dict(nets), np.asarray(x), np.asarray(y)
    _check_networks(given, networks, recipe, isometric)
    _check_rows(partial(logits_of, networks, given), x, y, recipe)
    trainer = JaxTrainer(optax.scale_by_adam, loss_of, given, networks, Rows((x, y), recipe.batch), recipe, seed)
    history = carry_out(recipe, trainer, seed, on_step, checkpoint, isometric=isometric, rows=len(x))
    return Trained(trainer.params, trainer.networks, history.loss)


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
class JaxTrainer:
    """The `deeptn.models.Trainer` for JAX.

    Attributes
    ----------
    adam : callable
        `optax.scale_by_adam`.
    loss_of : callable
        Takes networks, parameters, a state that a call may change, a `Batch` and a key; returns the loss and the state.
    params : dict of str to pytree
    networks : dict of str to Network
        ``params[name]`` are the cores of ``networks[name]``.
    data : deeptn.models.Data
    recipe : Recipe
    seed : int
    held : object
        The state.
    fixed : object
        Arrays that no step changes, as those of a teacher; the last argument of `loss_of`, if not None.
    check : callable, optional
        Called with every batch before the step.
    scored : callable, optional
        Returns the score of parameters and state.
    """

    adam: Any
    loss_of: Callable[..., Any]
    params: dict[str, Any]
    networks: dict[str, Network]
    data: Data
    recipe: Recipe
    seed: int
    held: Any = None
    fixed: Any = None
    check: Callable[[Batch], None] | None = None
    scored: Callable[[Any, Any], float] | None = None

    def __post_init__(self):
        self.steps, self.state = len(self.data), {}
        self.taken = 0
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

    def batches(self, epoch: int) -> Iterable[Any]:
        self.taken = epoch * self.steps
        count = self.data.count
        return self.data.batches(
            None if count is None else np.random.default_rng([self.seed, epoch]).permutation(count)
        )

    def step(self, batch: Any, share: float, beta: float) -> float:
        given = Batch.of(as_arrays(batch))
        if self.check is not None:
            self.check(given)
        key = jax.random.fold_in(jax.random.key(self.seed % 2**32), self.taken)
        found = self.compiled(self.params, self.state, self.held, self.fixed, given, key, share, beta)
        check_loss(float(found[-1]), self.recipe)  # before the parameters change
        self.params, self.state, self.held, loss = found
        self.taken += 1
        return float(loss)

    def score(self) -> float | None:
        return None if self.scored is None else self.scored(self.params, self.held)

    def tensors(self) -> dict[str, jax.Array]:
        leaves = [leaf for leaf in jax.tree.leaves((self.params, self.state, self.held)) if is_array(leaf)]
        return {f"leaf{k}": _plain(leaf) for k, leaf in enumerate(leaves)}

    def undoing(self) -> Callable[[], None]:
        return lambda: None  # the user's model gets its parameters at the end

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        leaves, form = jax.tree.flatten((self.params, self.state, self.held))
        places = [k for k, leaf in enumerate(leaves) if is_array(leaf)]
        old = self.tensors()
        if old.keys() != tensors.keys():
            raise FormatError("its tensors have other names")
        for (name, own), place in zip(old.items(), places):
            new = tensors[name]
            if own.shape != new.shape or own.dtype != new.dtype:
                raise FormatError("its tensors have different shapes or dtypes")
            leaves[place] = _like(new, leaves[place])
        self.params, self.state, self.held = jax.tree.unflatten(form, leaves)

    def model_tensors(self) -> dict[str, jax.Array]:
        leaves = [leaf for leaf in jax.tree.leaves((self.params, self.held)) if is_array(leaf)]
        return {f"leaf{k}": _plain(leaf) for k, leaf in enumerate(leaves)}

    def restore_model(self, tensors: Mapping[str, np.ndarray]) -> None:
        leaves, form = jax.tree.flatten((self.params, self.held))
        for number, place in enumerate(k for k, leaf in enumerate(leaves) if is_array(leaf)):
            leaves[place] = _like(tensors[f"leaf{number}"], leaves[place])
        self.params, self.held = jax.tree.unflatten(form, leaves)

    def _compile(self) -> Callable[..., Any]:
        """Return a jitted training step for the current networks."""
        adam, recipe, nets = self.adam, self.recipe, self.networks.copy()
        core_lr, lr = recipe.rates
        powers = {name: weight_exponents(net.spec) for name, net in nets.items()} if recipe.decay else {}

        @jax.jit
        def step(params: Any, state: Any, held: Any, fixed: Any, batch: Any, key: Any, share: Any, beta: Any) -> Any:
            more = () if fixed is None else (fixed,)
            run = jax.value_and_grad(partial(self.loss_of, nets), has_aux=True)
            (loss, held), gradient = run(params, held, batch, key, *more)
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
            return new, after, held, loss

        return step


def as_arrays(batch: Any) -> Any:
    """Return a batch with arrays that JAX takes: those of other libraries as NumPy's."""
    if isinstance(batch, Mapping):
        return {name: as_arrays(value) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [as_arrays(value) for value in batch]
    return np.asarray(batch) if hasattr(batch, "shape") and not isinstance(batch, jax.Array) else batch


def _plain(leaf: Any) -> Any:
    """Return an array as files store it: keys of `jax.random` as numbers."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _like(new: np.ndarray, old: Any) -> Any:
    array = jnp.asarray(new)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(old)) if is_key(old) else array


def _wide(tree: Any) -> Any:
    """Convert half precision to float32."""
    return jax.tree.map(lambda a: a.astype("float32") if a.dtype.itemsize < 4 else a, tree)
