"""Fuzz the readers of files with atheris (libFuzzer), which looks for inputs that reach new code.

    pip install atheris
    python -m tests.files.fuzz wall -max_total_time=60     # kinds of files: see KINDS in test_mutations.py

Half of the mutations know the structure of the file (`mutations`), the others are libFuzzer's own. Any outcome but a
file that can be used or an error of deeptn ends the run and leaves the file, ``crash-…``, in the working directory.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["deeptn.files", "deeptn.spec", "deeptn.topologies", "deeptn.planning"]):
    import deeptn as dtn

    from .test_mutations import KINDS


def main() -> None:
    """Fuzz one kind of file."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        raise SystemExit(f"write: python -m tests.files.fuzz KIND [options of libFuzzer]; kinds: {', '.join(KINDS)}")
    kind = KINDS[sys.argv.pop(1)]()
    path = Path(tempfile.mkdtemp(), "fuzzed.safetensors")
    warnings.simplefilter("ignore")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return atheris.Mutate(data, most)
        try:
            return kind.mutate(data, dice)[:most]
        except Exception:  # its structure is lost
            return kind.mutate(kind.data, dice)[:most]

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(dtn.DeepTNError):
            kind.use(path)

    corpus = Path(tempfile.mkdtemp())
    (corpus / "good").write_bytes(kind.data)
    limits = ["-timeout=10", "-rss_limit_mb=4096", "-max_len=65536"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *sys.argv[1:]], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
