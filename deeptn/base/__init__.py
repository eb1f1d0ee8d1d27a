"""What every other package stands on: checks, type names, registries, files replaced as a whole."""

from .checks import boolean, positive_int, positive_ints, rank_field, ranks
from .files import cache_folder, write_atomically
from .optional import optional
from .registry import Registry
from .text import text_table
from .types import Array, Params, ParamsLike

__all__ = [
    "Array",
    "Params",
    "ParamsLike",
    "Registry",
    "boolean",
    "cache_folder",
    "optional",
    "positive_int",
    "positive_ints",
    "rank_field",
    "ranks",
    "text_table",
    "write_atomically",
]
