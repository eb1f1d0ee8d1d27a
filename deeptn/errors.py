"""All exceptions. A message says which argument is wrong, what it was, what was expected, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeepTNError(ValueError):
    """Base class of every error that deeptn raises on purpose."""


class SpecError(DeepTNError):
    """A topology, network or parameter set is malformed."""


class LayoutError(DeepTNError):
    """A weight shape and its legs do not match."""


class ProgramError(DeepTNError):
    """A contraction cannot be compiled, or cannot run on the given arrays."""


class PlanError(DeepTNError):
    """A rule for compressing a model cannot be carried out."""


class FormatError(DeepTNError):
    """A file is not what it claims to be."""


class MissingBackendError(DeepTNError, ImportError):
    """An optional package is needed but not installed; its name is in the attribute ``package``."""

    def __init__(self, package: str, extra: str):
        self.package, self.extra = package, extra
        super().__init__(
            f"this needs the package {package!r}, which is not installed; write: pip install 'deeptn[{extra}]'"
        )

    def __reduce__(self):
        return type(self), (self.package, self.extra)


#: With more known names, a message gives the closest match alone.
MANY = 24


def near_match(word: str, known: Iterable[str]) -> str:
    """Return the end of an "unknown name" message: the closest match and the known names, unless there are many.

    Examples
    --------
    >>> near_match("rellu", ["relu", "tanh"])
    "expected one of 'relu', 'tanh'; did you mean 'relu'?"
    """
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(word)[:100].lower(), list(lower), n=1)
    hint = f"; did you mean {lower[close[0]]!r}?" if close else ""
    if close and len(names) > MANY:
        return f"did you mean {lower[close[0]]!r}?"
    return "expected one of " + ", ".join(repr(name) for name in names) + hint
