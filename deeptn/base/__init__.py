"""Helpers for every other package: checks, type names, registries, atomic file writes."""

from .cache import CACHE, Cache, Owner, cached, owner_of
from .checks import boolean, is_integer, is_list, is_object, positive_int, positive_ints, rank_field, ranks
from .dispatch import compose, do
from .files import cache_folder, previous, read_cache, remove_temporary, write_atomically, write_cache
from .optional import loaded, optional
from .progress import showing, track
from .registry import Registry
from .schema import Part, converted, decoded
from .text import kilobytes, path_of, shortened, text_table
from .types import Array, Params, ParamsLike, PathLike, Shape
from .warn import warn

__all__ = [
    "CACHE",
    "Array",
    "Cache",
    "Owner",
    "Params",
    "ParamsLike",
    "Part",
    "PathLike",
    "Registry",
    "Shape",
    "boolean",
    "cache_folder",
    "cached",
    "compose",
    "converted",
    "decoded",
    "do",
    "is_integer",
    "is_list",
    "is_object",
    "kilobytes",
    "loaded",
    "optional",
    "owner_of",
    "path_of",
    "positive_int",
    "positive_ints",
    "previous",
    "rank_field",
    "ranks",
    "read_cache",
    "remove_temporary",
    "shortened",
    "showing",
    "text_table",
    "track",
    "warn",
    "write_atomically",
    "write_cache",
]
