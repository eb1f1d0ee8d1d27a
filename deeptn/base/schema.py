"""Decode JSON into typed structures: msgspec checks every part before any code of deeptn sees it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ..errors import FormatError

T = TypeVar("T")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a file. An unknown field is an error: a later version added it, and it may change every number."""


def decoded(text: str | bytes | msgspec.Raw, kind: type[T], what: str) -> T:
    """Return JSON as `kind`; raise `FormatError` with the place of the first part that does not fit.

    Examples
    --------
    >>> decoded('{"a": [1, true]}', dict[str, list[int]], "the header")
    Traceback (most recent call last):
    deeptn.errors.FormatError: the header: Expected `int`, got `bool` - at `$[...][1]`
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _named(what, error) from error


def converted(data: Any, kind: type[T], what: str) -> T:
    """Return plain data as `kind`; as `decoded`."""
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _named(what, error) from error


def _named(what: str, error: Exception) -> FormatError:
    later = "; a later version of deeptn may have written it" if "unknown field" in str(error) else ""
    return FormatError(f"{what}: {error!s:.500}{later}")
