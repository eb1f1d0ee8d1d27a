"""``deeptn completion``: print a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse

from ..base import optional
from .commands import Command, parser_of_all

#: Shells, as `shtab` names them.
SHELLS = ("bash", "zsh", "tcsh")

#: How to use the script.
USE = """in ~/.bashrc:  eval "$(deeptn completion bash)"
for zsh, once:  deeptn completion zsh > DIRECTORY/_deeptn  (a directory in $fpath)"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="your shell")
    parser.epilog, parser.formatter_class = USE, argparse.RawDescriptionHelpFormatter


def _run(options: argparse.Namespace) -> int:
    print(optional("shtab", "completion").complete(parser_of_all()[0], options.shell))
    return 0


COMPLETION = Command("print a script for completion in a shell", _configure, _run)
