"""Read YAML whose keys are names of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..errors import FormatError

#: Most characters of such a text.
LARGEST = 2**20

#: Most levels, and most parts, of such a text.
DEPTH, EVENTS = 200, 2**18


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
        _check_events(yaml.parse(text, safe), yaml, what)
        return yaml.load(text, Loader)
    except FormatError:
        raise
    except Exception as error:  # yaml raises all kinds
        raise FormatError(f"{what} is not YAML: {type(error).__name__}: {error}"[:1000]) from error


def _check_events(events: Iterator[Any], yaml: Any, what: str) -> None:
    """Raise `FormatError` for YAML that asks for much: libyaml has no limits of its own."""
    depth = 0
    for number, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent):
            raise FormatError(f"{what} uses aliases (*name) of YAML; write out what they stand for")
        if getattr(event, "tag", None) is not None:
            raise FormatError(f"{what} has the tag {event.tag!r:.40} of YAML; leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH or number > EVENTS:
            raise FormatError(f"{what} has more than {DEPTH} levels, or more than {EVENTS:,} parts")
