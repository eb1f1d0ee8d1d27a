"""Break the code in forty ways, chosen by a seed: does the test suite notice?

``python -m tests.mutants --list`` lists the mutants; ``python -m tests.mutants --out mutants.json`` tries them, two at
a time. Each mutant changes one expression of `deeptn` or of the back-ends: a flipped sign, a transposition, reordered
axes, a dropped check, a changed comparison, an off-by-one, min for max, a dropped conjugation. Every package gets at
least one mutant, packages with more code get more. The tree is copied to a temporary folder and changed there. Then the
default tests run with ``-x``, first those of the mirrored folder, then the others. A mutant counts as noticed if the
tests fail, end in an error, or exceed the time limit.

``--coverage FILE`` names a coverage database, written by ``pytest -n 2 --cov --cov-context=test`` on the same code with
pytest-cov. Then the tests that reach the changed line run before all others, so most mutants take seconds instead of
minutes. With ``--quick``, the others do not run at all.

``--only 3,17`` tries two mutants (0 is no change at all, which must not be noticed); ``--tests "pytest -x -q -m slow"``
runs another command, for example on the mutants that the default tests missed; ``--seed`` chooses other mutants.

Code that cannot change a result is left out: text (messages, docstrings, `__repr__`), annotations, numbers that only
tune (constants in capitals, and expressions with them), and the figures of a machine.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.util
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).parents[1]
COUNT = 40

#: Of the tests that reach a line, those that run before the others.
FIRST = 100

#: The figures of a machine affect only speed, and the strategies only what tests draw.
LEFT_OUT = {"deeptn/engine/machine.py", "deeptn/testing/strategies.py"}
SILENT = {"__repr__", "__str__", "__rich__", "__rich_console__", "extra_repr"}

TURNED: dict[type[ast.AST], type[ast.AST]] = {}
for _one, _other in (
    (ast.Lt, ast.Gt), (ast.LtE, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot),
):  # fmt: skip
    TURNED |= {_one: _other, _other: _one}
ORDERS = {"transpose", "permute", "moveaxis", "swapaxes", "reshape"}
STACKS = {"stack", "concatenate", "cat", "sum", "mean", "split", "flip", "roll"}
PRODUCTS = {"matmul", "tensordot", "bmm", "mm", "dot", "zip"}


@dataclass(frozen=True)
class Mutant:
    """A change of one expression: `text` replaces the bytes from `start` to `stop` of the file."""

    path: str
    line: int
    kind: str
    start: int
    stop: int
    before: str
    text: str

    @property
    def package(self) -> str:
        """Return the file's folder, relative to the root."""
        return str(Path(self.path).parent)

    def __str__(self) -> str:
        short = lambda text: " ".join(text.split())[:70]
        return f"{self.path}:{self.line} [{self.kind}] {short(self.before)}  ->  {short(self.text)}"


@dataclass(frozen=True)
class Outcome:
    """The result of the tests for a mutant."""

    number: int
    mutant: str
    noticed: bool
    by: str
    seconds: float


# --- possible changes -------------------------------------------------------------------------------------------------


def name_of(call: ast.Call) -> str:
    """Return the name of the called function: ``f`` for ``a.f(…)``, ``f(…)`` and ``do("f", …)``."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    first = call.args[0] if name == "do" and call.args else None
    return str(first.value) if isinstance(first, ast.Constant) else name


def is_sequence(node: ast.AST) -> bool:
    """Return whether a node is a sequence, text or constant: its + is not flipped; an integer is shifted instead."""
    return isinstance(node, (ast.Tuple, ast.List, ast.ListComp, ast.Constant, ast.JoinedStr))


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield all changes of a node: the kind of each, and the new node."""
    new = copy.deepcopy(node)
    match new:
        case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=right) if not any(map(is_sequence, (left, right))):
            new.op = ast.Sub() if isinstance(new.op, ast.Add) else ast.Add()
            yield "sign", new
        case ast.BinOp(op=ast.Add() | ast.Sub(), right=ast.Constant(value=int())):
            new.right = ast.Constant(new.right.value + 1)  # type: ignore[operator,attr-defined]
            yield "off by one", new
        case ast.BinOp(op=ast.Mult() | ast.Div(), left=left) if not isinstance(left, (ast.Tuple, ast.List)):
            new.op = ast.Div() if isinstance(new.op, ast.Mult) else ast.Mult()
            yield "quotient", new
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "sign", operand
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "negation", operand
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
            yield "and, or", new
        case ast.Compare(ops=[op]) if type(op) in TURNED:
            new.ops = [TURNED[type(op)]()]  # type: ignore[list-item]
            yield "comparison", new
        case ast.Raise():
            yield "dropped check", ast.Pass()
        case ast.Attribute(attr="T" | "mT", value=value):
            yield "transposition", value
        case ast.Subscript(slice=ast.Slice(lower=None, upper=None, step=ast.UnaryOp(op=ast.USub())), value=value):
            yield "order", value
        case ast.Slice(lower=ast.Constant(value=int(n))):
            new.lower = ast.Constant(n + 1)
            yield "off by one", new
        case ast.Call():
            yield from changes_of_call(new)


def changes_of_call(call: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Yield the changes of a call, which is a copy and may be modified."""
    name, args = name_of(call), call.args
    if isinstance(call.func, ast.Name) and name in ("min", "max"):
        call.func = ast.Name("max" if name == "min" else "min")
        yield "min, max", call
    elif name in ("conj", "conjugate") and (args or isinstance(call.func, ast.Attribute)):
        yield "conjugation", args[-1] if args else call.func.value  # type: ignore[attr-defined]
    elif name in ("sorted", "reversed") and isinstance(call.func, ast.Name):
        yield "order", ast.Call(ast.Name("list"), args[:1], [])
    elif name in ORDERS and args and isinstance(args[-1], ast.Tuple) and len(args[-1].elts) > 1:
        args[-1].elts[:2] = args[-1].elts[1::-1]
        yield "axes", call
    elif name in STACKS and (axis := next((k for k in call.keywords if k.arg in ("axis", "dim")), None)) is not None:
        if isinstance(axis.value, ast.Constant) and isinstance(axis.value.value, int):
            axis.value = ast.Constant(axis.value.value + 1)
            yield "axis", call
    elif name in PRODUCTS and len(args) >= 2 and not any(isinstance(arg, ast.Starred) for arg in args):
        args[-2:] = args[:-3:-1]
        yield "order", call
    elif name == "range" and args and not any(isinstance(arg, ast.Starred) for arg in args):
        args[0] = ast.BinOp(args[0], ast.Add(), ast.Constant(1))
        yield "off by one", call


class Finder(ast.NodeVisitor):
    """Visits the code of a file that computes something, and skips its text."""

    def __init__(self, path: str, source: str):
        self.path, self.bytes = path, source.encode()
        self.lines = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Mutant] = []

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
            return
        if isinstance(node, ast.expr | ast.stmt) and not self.tunes(node):
            for kind, new in changes(node):
                self.add(node, kind, new)
        elif isinstance(node, ast.Slice):
            for kind, new in changes(node):
                self.add(node, kind, new)  # type: ignore[arg-type]
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_params", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in SILENT:
            for child in (*node.args.defaults, *node.body):
                self.visit(child)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.add(node, "dropped check", ast.Pass())

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    @staticmethod
    def tunes(node: ast.AST) -> bool:
        """Return whether an expression uses a constant in capitals, which only tunes."""
        if not isinstance(node, (ast.Compare, ast.BinOp, ast.Call)):
            return False
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        names |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
        return any(name.isupper() and len(name) > 2 for name in names)

    def add(self, node: ast.expr | ast.stmt, kind: str, new: ast.AST) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.lines[node.lineno - 1] + node.col_offset
        stop = self.lines[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(ast.fix_missing_locations(new))
        text = text if isinstance(new, (ast.Pass, ast.Slice)) else f"({text})"
        before = self.bytes[start:stop].decode()
        self.found.append(Mutant(self.path, node.lineno, kind, start, stop, before, text))


def sites() -> list[Mutant]:
    """Return all possible changes, in the order of the files."""
    found = []
    for path in sorted([*(ROOT / "deeptn").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        if name not in LEFT_OUT:
            finder = Finder(name, path.read_text())
            finder.visit(ast.parse(path.read_text()))
            found += finder.found
    return found


def chosen(seed: int, count: int = COUNT) -> list[Mutant]:
    """Choose `count` changes: one per package, the others by the amount of code, rarer kinds first."""
    rng = random.Random(seed)
    packages: dict[str, list[Mutant]] = defaultdict(list)
    for site in sites():
        packages[site.package].append(site)
    names = sorted(packages)
    shares = names + rng.choices(names, [len(packages[name]) for name in names], k=count - len(names))
    found: list[Mutant] = []
    kinds: Counter[str] = Counter()
    for name in shares:
        left = [site for site in packages[name] if all((site.path, site.line) != (one.path, one.line) for one in found)]
        if left:
            rarest = min(kinds[site.kind] for site in left)
            found.append(rng.choice([site for site in left if kinds[site.kind] <= rarest + 1]))
            kinds[found[-1].kind] += 1
    return sorted(found, key=lambda site: (site.path, site.line, site.start))


# --- running the tests ------------------------------------------------------------------------------------------------


def mirrored(path: str) -> list[str]:
    """Return the tests that mirror a file's package; for a top-level module, its own tests and those of networks."""
    parts = Path(path).parts
    if parts[0] == "backends":
        found = [f"tests/{parts[1]}"]
    elif len(parts) == 2:
        found = [f"tests/test_{parts[1]}", "tests/test_network.py"]
    else:
        found = [f"tests/{parts[1]}"]
    return [name for name in dict.fromkeys(found) if (ROOT / name).exists()]


def reaching(mutant: Mutant, database: Path) -> list[str]:
    """Return the tests that run the changed lines, in random order; those of the mirrored folder come first."""
    coverage: Any = importlib.import_module("coverage")  # from pytest-cov
    data = coverage.CoverageData(str(database))
    data.read()
    names = [name for name in data.measured_files() if Path(name).as_posix().endswith(mutant.path)]
    contexts = data.contexts_by_lineno(names[0]) if names else {}
    lines = range(mutant.line, mutant.line + mutant.before.count("\n") + 1)
    tests = sorted({test.split("|")[0] for line in lines for test in contexts.get(line, ()) if test})
    random.Random(mutant.line).shuffle(tests)
    near = tuple(mirrored(mutant.path))
    return sorted(tests, key=lambda test: not test.startswith(near))


def commands(number: int, mutant: Mutant | None, folder: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the commands to run, one after another, until one fails."""
    if options.tests is not None:
        yield shlex.split(options.tests)
        return
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    if mutant and options.coverage:
        tests = reaching(mutant, options.coverage)
        for part in filter(None, (tests[:FIRST], tests[FIRST:])):
            listed = folder.parent / f"tests-{number}.txt"
            listed.write_text("".join(f"{test}\n" for test in part))
            yield [*pytest, f"@{listed}"]
        if options.quick:
            return
    near = mirrored(mutant.path) if mutant else []
    if near:
        yield [*pytest, *near]
    yield [*pytest, *(f"--ignore={name}" for name in near)]


def run(command: list[str], folder: Path, limit: float) -> tuple[bool, str]:
    """Run a command; return whether it fails or exceeds the limit, and the first test that failed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "backends")]),
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True, f"the limit of {limit:.0f} s"
    if process.returncode in (0, 5):  # 5: no test was collected
        return False, ""
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return True, lines[0][:150] if lines else f"exit status {process.returncode}"


def attempt(number: int, mutant: Mutant | None, folder: Path, options: argparse.Namespace) -> Outcome:
    """Change the copy, run the tests, and restore the copy."""
    begin, noticed, by = time.monotonic(), False, ""
    file = folder / (mutant.path if mutant else "README.md")
    original = file.read_bytes()
    try:
        if mutant:
            file.write_bytes(original[: mutant.start] + mutant.text.encode() + original[mutant.stop :])
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
        for command in commands(number, mutant, folder, options):
            noticed, by = run(command, folder, options.limit - (time.monotonic() - begin))
            if noticed:
                break
    finally:
        file.write_bytes(original)
        if mutant:
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    return Outcome(number, str(mutant or "no change"), noticed, by, round(time.monotonic() - begin, 1))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="list the mutants without running tests")
    parser.add_argument("--only", help="comma-separated numbers of mutants; 0 is no change")
    parser.add_argument("--tests", help="command to run instead of the default tests")
    parser.add_argument("--coverage", type=Path, help="coverage database with the tests that reach each line")
    parser.add_argument("--quick", action="store_true", help="run only those tests")
    parser.add_argument("--limit", type=float, default=1800.0, help="time limit per mutant in seconds (default 1800)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants to try at a time (default 2)")
    parser.add_argument("--out", type=Path, help="JSON file, updated after each mutant")
    options = parser.parse_args()
    mutants: list[Mutant | None] = [None, *chosen(options.seed)]
    numbers = [int(n) for n in options.only.split(",")] if options.only else list(range(1, len(mutants)))
    if options.list:
        print(*(f"{n:3d} {mutants[n] or 'no change'}" for n in numbers), sep="\n")
        return 0
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folders: SimpleQueue[Path] = SimpleQueue()
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "_build")
        for k in range(options.jobs):
            shutil.copytree(ROOT, Path(temporary) / str(k), ignore=ignored)
            folders.put(Path(temporary) / str(k))
        here = "import pathlib, deeptn; assert pathlib.Path(deeptn.__file__).is_relative_to(pathlib.Path.cwd())"
        failed, said = run([sys.executable, "-c", here], Path(temporary) / "0", 60)
        assert not failed, f"deeptn was not imported from the copy: {said}"

        def work(number: int) -> None:
            folder = folders.get()
            try:
                outcome = attempt(number, mutants[number], folder, options)
            finally:
                folders.put(folder)
            outcomes.append(outcome)
            word = "noticed" if outcome.noticed else "NOT NOTICED"
            print(f"{number:3d} {word} after {outcome.seconds:.0f} s: {outcome.mutant}\n    {outcome.by}", flush=True)
            if options.out:
                rows = sorted(map(asdict, outcomes), key=lambda row: row["number"])
                options.out.write_text(json.dumps({"seed": options.seed, "outcomes": rows}, indent=1) + "\n")

        list(pool.map(work, numbers))
    missed = sorted(outcome.number for outcome in outcomes if not outcome.noticed)
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} noticed; not: {missed or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
