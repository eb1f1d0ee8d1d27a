"""Time calls in interleaved rounds, after a check that they compute the same, and in new processes."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

Way = Callable[[], Any]

#: Calls faster than FAST are repeated until a sample takes SAMPLE, so that all ways are equally warm [s].
FAST, SAMPLE = 1e-2, 2e-2

#: Calls slower than this get only `Settings.slow_rounds` rounds [s].
SLOW = 2.0

#: The worker threads of a library spin for a moment after a call; the next library's call waits until they stop [s].
PAUSE = 2e-3

#: Errors of float32, and of the few entries where a ReLU flips, are far below this; a different network is far above.
TOLERANCE = 1e-2

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Settings:
    """Settings from the command line."""

    quick: bool = False
    rounds: int = 11
    slow_rounds: int = 3
    threads: int = 2
    seed: int = 0


def once(way: Way) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    result = way()
    seconds = time.perf_counter() - start
    del result  # freeing a large array is not part of the call
    return seconds


def interleave(ways: Mapping[str, Way], settings: Settings, seconds: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the seconds per call; a round (A B C) takes one sample of every way.

    Parameters
    ----------
    ways : mapping of str to callable
        Functions to time, already warmed up.
    settings : Settings
        How many rounds.
    seconds : mapping of str to float
        Estimated seconds per call of each.
    """
    repeats = {name: math.ceil(SAMPLE / seconds[name]) if seconds[name] < FAST else 1 for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(max(settings.rounds, settings.slow_rounds)):
        for name, way in ways.items():
            if number < (settings.slow_rounds if seconds[name] > SLOW else settings.rounds):
                time.sleep(PAUSE)
                times[name].append(sum(once(way) for _ in range(repeats[name])) / repeats[name])
    return times


def measure(ways: Mapping[str, Way], settings: Settings, give_up: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Check that all ways compute the same as the first, then time them.

    Parameters
    ----------
    ways : mapping of str to callable
        Each returns an array or a list of arrays, or None if there is nothing to compare.
    settings : Settings
        How many rounds.
    give_up : mapping of str to float, optional
        For some ways, the largest ratio of their time to that of the first; above it they are left out.

    Returns
    -------
    dict
        ``seconds`` (medians), ``ratios`` to the first way (of the medians, and the quartiles of the ratios within a
        round), ``rounds``, ``first_call`` (with searches and compilation), ``differences`` and ``left_out``.
    """
    base = next(iter(ways))
    first: dict[str, float] = {}
    differences: dict[str, float] = {}
    expected = None
    for name, way in ways.items():
        start = time.perf_counter()
        result = way()
        first[name] = time.perf_counter() - start
        if name == base:
            expected = result
        elif result is not None and expected is not None:
            differences[name] = difference(result, expected)
            if not differences[name] < TOLERANCE:
                raise RuntimeError(f"{name} does not compute the same as {base}: it differs by {differences[name]:.1e}")
        del result
    del expected
    about = {name: _about(way) for name, way in ways.items()}
    out = {name: about[name] / about[base] for name, factor in (give_up or {}).items() if name in ways}
    out = {name: ratio for name, ratio in out.items() if ratio > (give_up or {})[name]}
    times = interleave({name: way for name, way in ways.items() if name not in out}, settings, about)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratios = {}
    for name in times:
        if name != base:
            within = [a / b for a, b in zip(times[name], times[base])]
            ratios[name] = {"ratio": seconds[name] / seconds[base], "quartiles": _quartiles(within)}
    return {
        "seconds": seconds,
        "ratios": ratios,
        "rounds": {name: len(values) for name, values in times.items()},
        "first_call": first,
        "differences": differences,
        "left_out": {name: f"one call took {ratio:.0f} times as long as {base}'s" for name, ratio in out.items()},
    }


def _about(way: Way) -> float:
    """Estimate the seconds of a call: the best of three if it is fast, so that a sample gets enough repeats."""
    seconds = once(way)
    return seconds if seconds > SLOW else min(seconds, once(way), once(way))


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]


def difference(result: Any, expected: Any) -> float:
    """Return the largest difference relative to the largest entry, for the worst of several arrays."""
    pairs = zip(result, expected, strict=True) if isinstance(expected, list) else [(result, expected)]
    worst = 0.0
    for a, b in pairs:
        a, b = _tensor(a), _tensor(b)
        worst = max(worst, float((a.reshape(b.shape) - b).abs().max() / b.abs().max()))
    return worst


def _tensor(array: Any) -> torch.Tensor:
    return array.detach() if isinstance(array, torch.Tensor) else torch.tensor(np.asarray(array))


def show(label: str, row: Mapping[str, Any]) -> None:
    """Print one line: the milliseconds of the first way, and the others as multiples of it."""
    base, *others = row["seconds"]
    text = "   ".join(f"{name} [bold]{row['ratios'][name]['ratio']:.3g}[/]" for name in others)
    console.print(f"  {label:34} {base} [bold]{1e3 * row['seconds'][base]:.3g} ms[/]   {text}")


def fresh(task: str, threads: int, variables: Mapping[str, str] | None = None, **arguments: Any) -> Any:
    """Run a function of ``fresh.py`` in a new interpreter, and return its result.

    Parameters
    ----------
    task : str
        Name of the function.
    threads : int
        Number of torch threads.
    variables : mapping of str to str, optional
        Additional environment variables.
    **arguments
        Arguments of the function, as plain data.
    """
    command = [sys.executable, str(Path(__file__).with_name("fresh.py")), task, str(threads), json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **(variables or {})}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task} failed in a new process:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
