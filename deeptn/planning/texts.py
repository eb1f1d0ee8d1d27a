"""Read YAML whose keys are names of layers."""

from __future__ import annotations

from typing import Any

from ..errors import FormatError


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

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
            for key in keys:
                key.tag = "tag:yaml.org,2002:str"
            names = [key.value for key in keys]
            for key in keys:
                if names.count(key.value) > 1:
                    raise FormatError(f"{what} has the key {key.value!r:.40} twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"{what} is not YAML: {error}") from error
