"""Read YAML whose keys are names of layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..errors import FormatError

#: Most characters of such a text.
LARGEST = 2**20


def from_yaml(text: str, what: str) -> Any:
    """Return plain data; keys are text as it was written, so that ``1`` and ``010`` are names of layers.

    Parameters
    ----------
    text : str
    what : str
        How messages call it.

    Raises
    ------
    FormatError
        If it is not YAML, or a key comes twice in a table.

    Examples
    --------
    >>> from_yaml("{1: {rank: 4}, 010: 8}", "the plan")
    {'1': {'rank': 4}, '010': 8}
    """
    import yaml

    if len(text) > LARGEST:
        raise FormatError(f"{what} has {len(text):,} characters; deeptn reads at most {LARGEST:,}")
    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it is installed

    class Loader(safe):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                    key.tag = "tag:yaml.org,2002:str"
            for name, count in Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)).items():
                if count > 1:
                    raise FormatError(f"{what} has the key {name!r:.40} twice")
            return super().construct_mapping(node, deep)

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, safe)):
            raise FormatError(f"{what} uses aliases (*name) of YAML; write out what they stand for")
        return yaml.load(text, Loader)
    except FormatError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FormatError(f"{what} is not YAML: {error}") from error
