"""The command line; commands are found by the entry point ``deeptn.commands``."""

from .commands import Command, main

__all__ = [
    "Command",
    "main",
]
