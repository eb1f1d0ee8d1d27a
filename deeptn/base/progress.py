"""Progress of long loops: a bar in a terminal, lines elsewhere if they are wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

#: Loops that end within this time, in seconds, show nothing.
PATIENCE = 2.0

#: Time between two lines, in seconds.
PAUSE = 10.0

#: What loops show: "bar" in a terminal, and "lines" elsewhere.
_wanted: ContextVar[tuple[str, ...]] = ContextVar("_wanted", default=("bar",))

#: Rich's progress display, while one is shown, for the loops inside the one that started it.
_shown: list[Any] = []


@contextmanager
def showing(*what: str) -> Iterator[None]:
    """Choose what loops show: ``"bar"`` in a terminal, ``"lines"`` elsewhere, both or nothing.

    Examples
    --------
    >>> with showing():  # nothing
    ...     list(track([1, 2], "numbers"))
    [1, 2]
    """
    token = _wanted.set(what)
    try:
        yield
    finally:
        _wanted.reset(token)


def track(items: Iterable[T], what: str | Callable[[T], str], total: int | None = None) -> Iterator[T]:
    """Iterate over items; after two seconds, show a bar on stderr if that is a terminal.

    Inside such a loop, another one adds a line of its own. The bars disappear at the end. Where `showing` asks for
    lines and stderr is not a terminal, a loop writes one every ten seconds, with the time left.

    Parameters
    ----------
    items : iterable
    what : str or callable
        Label of the bar, or a function from the current item to it.
    total : int, optional
        Number of items, if they are not a sequence.

    Examples
    --------
    >>> list(track([1, 2], "numbers"))
    [1, 2]
    """
    started = time.monotonic()
    if total is None and isinstance(items, Sequence):
        total = len(items)
    shown = task = lines = None
    starts = False
    try:
        for number, item in enumerate(items):
            if lines is None and "lines" in _wanted.get() and not sys.stderr.isatty():
                lines = _Lines(started, total)
            if lines is not None:
                lines.show(number, what if isinstance(what, str) else what(item))
            late = time.monotonic() - started > PATIENCE
            if task is None and late and "bar" in _wanted.get() and sys.stderr.isatty():
                starts = not _shown
                shown = _start() if starts else _shown[0]
                task = shown.add_task("", total=total)
            if shown is not None:
                shown.update(task, completed=number, description=what if isinstance(what, str) else what(item))
            yield item
    finally:
        if shown is not None:
            shown.remove_task(task)
        if starts and shown is not None:
            shown.stop()
            _shown.clear()


class _Lines:
    """Lines in a log."""

    def __init__(self, started: float, total: int | None):
        self.started, self.last, self.total = started, started, total

    def show(self, number: int, label: str) -> None:
        now = time.monotonic()
        if not number or now - self.last < PAUSE:
            return
        self.last = now
        left = "" if self.total is None else f", {_time((now - self.started) / number * (self.total - number))} left"
        of = "" if self.total is None else f" of {self.total}"
        print(f"{label}: {number}{of} done{left}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.7 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _start() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    label = TextColumn("{task.description}", markup=False)  # layers may have any name
    columns = label, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
    bar.start()
    _shown.append(bar)
    return bar
