"""Helpers for every other package: checks, type names, registries, atomic file writes."""

from .checks import boolean, is_list, is_object, positive_int, positive_ints, rank_field, ranks
from .dispatch import compose, do
from .files import cache_folder, remove_temporary, write_atomically
from .optional import optional
from .progress import showing, track
from .registry import Registry
from .text import kilobytes, path_of, text_table
from .types import Array, Params, ParamsLike, PathLike, Shape
from .warn import warn

__all__ = [
    "Array",
    "Params",
    "ParamsLike",
    "PathLike",
    "Registry",
    "Shape",
    "boolean",
    "cache_folder",
    "compose",
    "do",
    "is_list",
    "is_object",
    "kilobytes",
    "optional",
    "path_of",
    "positive_int",
    "positive_ints",
    "rank_field",
    "ranks",
    "remove_temporary",
    "showing",
    "text_table",
    "track",
    "warn",
    "write_atomically",
]
