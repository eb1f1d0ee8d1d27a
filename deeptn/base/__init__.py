"""What every other package stands on: checks, type names, registries, files replaced as a whole."""

from .checks import boolean, is_list, is_object, positive_int, positive_ints, rank_field, ranks
from .dispatch import compose, do
from .files import cache_folder, write_atomically
from .optional import optional
from .registry import Registry
from .text import text_table
from .types import Array, Params, ParamsLike, PathLike, Shape

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
    "optional",
    "positive_int",
    "positive_ints",
    "rank_field",
    "ranks",
    "text_table",
    "write_atomically",
]
