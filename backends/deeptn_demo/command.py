"""Arguments of ``deeptn demo``. Everything else is imported only on a run, so ``deeptn --help`` needs no framework."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeptn.cli import Command

from .idx import DATASETS

#: Side length of the input images of each model.
SIDES = {"small": 8, "lenet5": 28}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the demo to a parser."""
    parser.add_argument("--data", choices=DATASETS, default="digits", help="default: digits, bundled with scikit-learn")
    parser.add_argument("--data-dir", help="folder with the IDX files (default: look for them, then download them)")
    parser.add_argument("--model", choices=tuple(SIDES), help="default: small for digits, lenet5 for all other data")
    parser.add_argument("--seeds", type=int, default=1, help="number of paired repetitions (default 1)")
    parser.add_argument("--out", type=Path, default=Path("deeptn-demo"), help="output folder (default deeptn-demo)")


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from .main import run

    return run(options)


DEMO = Command("compress a trained network with several families, heal, and compare", configure, run)
