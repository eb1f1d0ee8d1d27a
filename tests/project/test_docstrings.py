"""Test the examples in docstrings, file by file."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import skip_if_missing

ROOT = Path(__file__).parents[2]
FILES = [
    path.relative_to(base)
    for base, pattern in ((ROOT, "deeptn/**/*.py"), (ROOT / "backends", "deeptn*/**/*.py"), (ROOT, "tests/tiers.py"))
    for path in sorted(base.glob(pattern))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_examples_of_a_file(path):
    parts = path.with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert tests, "the examples of this file are in no docstring"
    if any("register_" in example.source for test in tests for example in test.examples):  # it would be known for ever
        code = f"import doctest, {module.__name__}; exit(doctest.testmod({module.__name__}).failed)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return
    for test in tests:
        try:
            doctest.DebugRunner(verbose=False).run(test)
        except doctest.UnexpectedException as error:
            skip_if_missing(error.exc_info[1])
            raise error.exc_info[1] from None
        except doctest.DocTestFailure as failure:
            line = (failure.test.lineno or 0) + failure.example.lineno + 1
            expected, got = failure.example.want, failure.got
            pytest.fail(f"{path}:{line}: {failure.example.source}expected:\n{expected}got:\n{got}", pytrace=False)
