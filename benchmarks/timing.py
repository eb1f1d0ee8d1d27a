"""How things are timed: interleaved rounds of calls that were checked to compute the same, and fresh processes."""

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

#: A call below the first is repeated until one sample lasts as long as the second, so that all are as warm [s].
FAST, SAMPLE = 1e-2, 2e-2

#: A call above this [s] gets the fewer rounds of `Settings.slow_rounds`.
SLOW = 2.0

#: Worker threads of one library still spin for a moment after a call; the next one, of another library, waits it out.
PAUSE = 2e-3

#: float32 and the few entries at which a ReLU goes the other way stay far below; another network far above.
TOLERANCE = 1e-2

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    quick: bool = False
    rounds: int = 11
    slow_rounds: int = 3
    threads: int = 2
    seed: int = 0


def once(way: Way) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    result = way()
    seconds = time.perf_counter() - start
    del result  # freeing a large array is not a part of the call
    return seconds


def interleave(ways: Mapping[str, Way], settings: Settings, seconds: Mapping[str, float]) -> dict[str, list[float]]:
    """Seconds per call; a round (A B C) takes one sample of every way.

    Parameters
    ----------
    ways : mapping of str to callable
        Warmed up already.
    settings : Settings
        How many rounds.
    seconds : mapping of str to float
        About how long each takes.
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
    """Check that all ways compute what the first one does, then time them.

    Parameters
    ----------
    ways : mapping of str to callable
        Each returns an array or a list of arrays; None where there is nothing to compare.
    settings : Settings
        How many rounds.
    give_up : mapping of str to float, optional
        Ways that are left out if they take more than so many times as long as the first.

    Returns
    -------
    dict
        ``seconds`` (medians), ``ratios`` to the first way (of the medians, and the quartiles of the ratios within a
        round), ``rounds``, ``first_call`` (searches and compilation included), ``differences`` and ``left_out``.
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
                raise RuntimeError(f"{name} computes something else than {base}: differs by {differences[name]:.1e}")
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
    """Seconds of a call; the best of three where that is cheap, so that the repeats of a sample are enough."""
    seconds = once(way)
    return seconds if seconds > SLOW else min(seconds, once(way), once(way))


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]


def difference(result: Any, expected: Any) -> float:
    """Largest difference relative to the largest entry, the worst of several arrays."""
    pairs = zip(result, expected, strict=True) if isinstance(expected, list) else [(result, expected)]
    worst = 0.0
    for a, b in pairs:
        a, b = _tensor(a), _tensor(b)
        worst = max(worst, float((a.reshape(b.shape) - b).abs().max() / b.abs().max()))
    return worst


def _tensor(array: Any) -> torch.Tensor:
    return array.detach() if isinstance(array, torch.Tensor) else torch.tensor(np.asarray(array))


def show(label: str, row: Mapping[str, Any]) -> None:
    """One line on the terminal: the seconds of the first way, and of the others as multiples of it."""
    base, *others = row["seconds"]
    text = "   ".join(f"{name} [bold]{row['ratios'][name]['ratio']:.3g}[/]" for name in others)
    console.print(f"  {label:34} {base} [bold]{1e3 * row['seconds'][base]:.3g} ms[/]   {text}")


def fresh(task: str, threads: int, variables: Mapping[str, str] | None = None, **arguments: Any) -> Any:
    """Run a function of ``fresh.py`` in a new interpreter, and return what it does.

    Parameters
    ----------
    task : str
        Name of the function.
    threads : int
        For torch.
    variables : mapping of str to str, optional
        Added to the environment.
    **arguments
        Plain data.
    """
    command = [sys.executable, str(Path(__file__).with_name("fresh.py")), task, str(threads), json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **(variables or {})}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task} failed in a process of its own:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
