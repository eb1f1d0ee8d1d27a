"""What users pass as data: arrays, from which batches are drawn, or batches; and the kind of loss they imply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..base import Array
from ..errors import SpecError

#: The key of a mapping that has the labels; all others are arguments of the model.
LABELS = "labels"


class Batch(NamedTuple):
    """A batch: arguments of the model, and what its outputs should be; None if nobody says.

    Examples
    --------
    >>> Batch.of(["x", "labels"]), Batch.of({"ids": 1, "labels": 2})
    (Batch(args=('x',), kwargs={}, target='labels'), Batch(args=(), kwargs={'ids': 1}, target=2))
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any

    @classmethod
    def of(cls, batch: Any) -> Batch:
        """Split a batch.

        In a list or tuple, the last of several entries is the target; in a mapping, it is ``"labels"``. Anything else
        is the only argument.
        """
        if isinstance(batch, Mapping):
            named = dict(batch)
            target = named.pop(LABELS, None)
            return cls((), named, target)
        if isinstance(batch, (list, tuple)) and not hasattr(batch, "batch_sizes"):  # PyTorch's PackedSequence
            if not batch:
                raise SpecError("a batch is empty")
            return cls(tuple(batch[:-1]), {}, batch[-1]) if len(batch) > 1 else cls(tuple(batch), {}, None)
        return cls((batch,), {}, None)


class Rows:
    """Arrays with equally many rows, from which batches are drawn.

    Parameters
    ----------
    arrays : array, tuple or mapping
        As the batches: see `Batch.of`.
    size : int
        Rows of a batch; the last one of an epoch may be smaller.

    Examples
    --------
    >>> import numpy as np
    >>> rows = Rows((np.arange(3.0), np.arange(3)), 2)
    >>> len(rows), rows.count, [batch[1].tolist() for batch in rows.batches(np.array([2, 0, 1]))]
    (2, 3, [[2, 0], [1]])
    """

    def __init__(self, arrays: Any, size: int):
        self.arrays, self.size = arrays, size
        counts = {name: len(array) for name, array in _named(arrays)}
        if len(set(counts.values())) != 1:
            raise SpecError(f"the arrays of the data have different numbers of rows: {counts}")
        (self.count,) = set(counts.values())
        if not self.count:
            raise SpecError("the data has no rows")

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def batches(self, order: Array) -> Iterator[Any]:
        """Yield the batches of an epoch, with the rows in this order."""
        for start in range(0, self.count, self.size):
            chosen = order[start : start + self.size]
            if isinstance(self.arrays, Mapping):
                yield {name: array[chosen] for name, array in self.arrays.items()}
            elif isinstance(self.arrays, tuple):
                yield tuple(array[chosen] for array in self.arrays)
            else:
                yield self.arrays[chosen]


class Batches:
    """Batches of the user's own, in their order: every iteration is an epoch.

    Examples
    --------
    >>> len(Batches([1, 2, 3])), Batches([1]).count
    (3, None)
    """

    count = None

    def __init__(self, items: Iterable[Any]):
        if iter(items) is items:
            raise SpecError(
                "the data can be iterated only once, but every epoch needs it; pass list(data) or a DataLoader"
            )
        self.items = items
        known = length_of(items)
        self._length = sum(1 for _ in items) if known is None else known
        if not self._length:
            raise SpecError("the data has no batches")

    def __len__(self) -> int:
        return self._length

    def batches(self, order: Any = None) -> Iterator[Any]:
        """Yield the batches."""
        return iter(self.items)


Data: TypeAlias = Rows | Batches


def as_data(given: Any, size: int) -> Data:
    """Return what users pass as data.

    Parameters
    ----------
    given : object
        With ``train_x`` and ``train_y``; an array, or a tuple or mapping of arrays, with one row per example; or any
        iterable of batches, such as a `DataLoader` or a list.
    size : int
        Rows of a batch, unless the batches are given.

    Examples
    --------
    >>> import numpy as np
    >>> len(as_data((np.ones((5, 2)), np.ones(5)), 2)), len(as_data([np.ones((5, 2))], 2))
    (3, 1)
    """
    if hasattr(given, "train_x") and hasattr(given, "train_y"):
        return Rows((given.train_x, given.train_y), size)
    if hasattr(given, "shape"):
        return Rows(given, size)
    if isinstance(given, (tuple, Mapping)):
        if not given or not all(hasattr(array, "shape") for _, array in _named(given)):
            raise SpecError("a tuple or mapping as data has arrays with one row per example; pass batches as a list")
        return Rows(given, size)
    if hasattr(given, "__getitem__") and not hasattr(given, "__iter__"):
        raise SpecError(
            f"a {type(given).__name__} yields single examples; write DataLoader(data, batch_size={size}, shuffle=True)"
        )
    if not isinstance(given, Iterable):
        came = type(given).__name__
        raise SpecError(f"data must be arrays (x, y) with one row per example, or an iterable of batches; got {came}")
    return Batches(given)


def one_pass(given: Any, size: int = 128) -> Iterator[Any]:
    """Yield the batches of what users pass as data, once: see `as_data`; a generator is fine, too.

    Examples
    --------
    >>> import numpy as np
    >>> [batch.shape for batch in one_pass(np.ones((5, 2)), 3)], list(one_pass(iter(["a"])))
    ([(3, 2), (2, 2)], ['a'])
    """
    if isinstance(given, Iterator) or (isinstance(given, Iterable) and not _is_rows(given)):
        return iter(given)
    data = as_data(given, size)
    return data.batches(None if data.count is None else np.arange(data.count))


def _is_rows(given: Any) -> bool:
    return hasattr(given, "train_x") or hasattr(given, "shape") or isinstance(given, (tuple, Mapping))


def length_of(items: Any) -> int | None:
    """Return the number of items; None if it is unknown, as for a `DataLoader` of an `IterableDataset`.

    Examples
    --------
    >>> length_of([1, 2]), length_of(iter([1]))
    (2, None)
    """
    try:
        return len(items)
    except TypeError:
        return None


def _named(arrays: Any) -> list[tuple[Any, Any]]:
    if isinstance(arrays, Mapping):
        return list(arrays.items())
    return list(enumerate(arrays)) if isinstance(arrays, tuple) else [(0, arrays)]


#: The losses by name: of class numbers, along the last axis of the outputs, and of numbers.
LOSSES = ("cross_entropy", "mse")


def loss_for(name: Any, outputs: Any, target: Any, integer: bool) -> str:
    """Return the loss that fits outputs and a target, or check the one that the user named.

    Parameters
    ----------
    name : str or None
        One of `LOSSES`; None chooses by the dtype of the target.
    outputs, target : array
    integer : bool
        Whether the target has integers.

    Raises
    ------
    SpecError
        If the shapes do not fit, so that broadcasting would compute something else.

    Examples
    --------
    >>> import numpy as np
    >>> loss_for(None, np.ones((4, 3)), np.ones(4, int), True), loss_for(None, np.ones((4, 1)), np.ones((4, 1)), False)
    ('cross_entropy', 'mse')
    >>> loss_for(None, np.ones((4, 1)), np.ones(4), False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    deeptn.errors.SpecError: mse: the outputs have shape (4, 1), but the labels (4,); expected the same ...
    """
    if name is not None and name not in LOSSES:
        raise SpecError(f"loss = {name!r}; expected {' or '.join(map(repr, LOSSES))}, or a function (outputs, labels)")
    shapes = tuple(outputs.shape), tuple(target.shape)
    chosen = name or ("cross_entropy" if integer else "mse")
    if chosen == "cross_entropy":
        if not integer:
            raise SpecError(
                f"cross_entropy: the labels must be class numbers, got {target.dtype}; convert them to integers, or "
                "write loss='mse'"
            )
        if shapes[0][:-1] != shapes[1]:
            advice = _advice(shapes[0][:-1], shapes[1])
            if shapes[0] == shapes[1] and shapes[0][-1:] != (1,):
                advice = "; write labels.argmax(-1) if they are one-hot, loss='mse' if they are numbers"
            raise SpecError(
                f"cross_entropy: the outputs have shape {shapes[0]}, but the labels {shapes[1]}; expected "
                f"(…, classes) and (…){advice}"
            )
    elif shapes[0] != shapes[1]:
        raise SpecError(
            f"mse: the outputs have shape {shapes[0]}, but the labels {shapes[1]}; expected the same shape"
            + _advice(*shapes)
        )
    return chosen


def _advice(wanted: tuple[int, ...], given: tuple[int, ...]) -> str:
    """Say how to convert labels, if they lack or have an axis of size 1."""
    if wanted == (*given, 1):
        return "; write labels[..., None]"
    return "; write labels[..., 0]" if given == (*wanted, 1) else ""


def check_labels(lowest: int, highest: int, classes: int, ignored: int | None = None) -> None:
    """Raise `SpecError` if class numbers are out of range.

    Examples
    --------
    >>> check_labels(0, 10, 10)
    Traceback (most recent call last):
    deeptn.errors.SpecError: the labels range from 0 to 10, but the outputs have classes 0 to 9
    """
    if highest >= classes or (lowest < 0 and lowest != ignored):
        advice = (
            "; for numbers, not classes, write loss='mse', and labels of the outputs' shape" if classes == 1 else ""
        )
        raise SpecError(
            f"the labels range from {lowest} to {highest}, but the outputs have classes 0 to {classes - 1}{advice}"
        )


def rows_of(batch: Any) -> int:
    """Return the number of rows of a batch: of its first array.

    Examples
    --------
    >>> import numpy as np
    >>> rows_of({"x": np.ones((3, 2))}), rows_of([np.ones(4), np.ones(4)])
    (3, 4)
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else [batch]
    return next((len(part) for part in parts if getattr(part, "shape", ())), 1)
