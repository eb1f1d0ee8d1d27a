"""``deeptn demo``: its arguments. The rest is imported when it runs, so that ``deeptn --help`` needs no framework."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeptn.cli import Command

from .idx import DATASETS

#: Models by name, with the side length of the images that they take.
SIDES = {"small": 8, "lenet5": 28}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--data", choices=DATASETS, default="digits", help="default: digits, embedded in scikit-learn")
    parser.add_argument("--data-dir", help="folder with IDX files; otherwise they are looked for, then downloaded")
    parser.add_argument("--model", choices=tuple(SIDES), help="default: small for digits, lenet5 for the others")
    parser.add_argument("--seeds", type=int, default=1, help="number of paired repetitions (default 1)")
    parser.add_argument("--out", type=Path, default=Path("deeptn-demo"), help="folder to write (default deeptn-demo)")


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from .main import run

    return run(options)


DEMO = Command("compress a trained network by every family, heal, compare", configure, run)
