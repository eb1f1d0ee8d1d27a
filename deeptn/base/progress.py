"""Progress of long loops, in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

#: Loops that end within this time, in seconds, show nothing.
PATIENCE = 2.0

#: Rich's progress display, while one is shown, for the loops inside the one that started it.
_shown: list[Any] = []


def track(items: Iterable[T], what: str | Callable[[T], str], total: int | None = None) -> Iterator[T]:
    """Iterate over items; after two seconds, show a bar on stderr if that is a terminal.

    Inside such a loop, another one adds a line of its own. The bars disappear at the end.

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
    shown = task = None
    starts = False
    try:
        for number, item in enumerate(items):
            if task is None and time.monotonic() - started > PATIENCE and sys.stderr.isatty():
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


def _start() -> Any:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(file=sys.stderr), transient=True)
    bar.start()
    _shown.append(bar)
    return bar
