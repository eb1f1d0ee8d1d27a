"""The command line; it finds its commands through the entry points ``deeptn.commands``."""

from .commands import Command, main

__all__ = [
    "Command",
    "main",
]
