"""Check the prose of the project for phrases that a native speaker would not write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A phrase, and what to write instead.
BANNED = {
    r"\banew\b": "again",
    r"\bshall\b": "will, should, must",
    r"\bis no (?!more\b|less\b|\w+er\b)": "is not a",
    r"\b(has|have|is|are|does) (it|they|he|she) not\b": "does not",
    r"\bfor (want|lack) of\b": "because there is no",
    r"\bin the place of\b": "instead of",
    r"\btakes? the place of\b": "replaces",
    r"\bmade (again|anew)\b": "rebuilt",
    r"\bkin\b": "name them",
    r"\bdear\b": "expensive",
    r"\bbut for\b": "except for",
    r"\bof your own\b": "your own …",
    r"\bby so (much|many)\b": "give the number",
    r"`at_budget` turns\b": "varies",
    r"\bbelongs to every\b": "goes with every",
    r"\bis (there|here) already\b": "already exists",
    r"\b(takes?|took) part unasked\b": "by default",
    r"\bhands? on\b": "passes on, exports",
    r"\basked for\b": "requested",
    r"\bsuch as are\b": "that are",
}
WHERE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "docs",
    "deeptn",
    "backends",
    "benchmarks",
)


def pages() -> list[Path]:
    found = [path for where in WHERE for path in [ROOT / where, *sorted((ROOT / where).rglob("*"))] if path.is_file()]
    made = ("docs/_build", "docs/api", "docs/gallery.md", "benchmarks/results")
    return [
        path
        for path in dict.fromkeys(found)
        if path.suffix in (".md", ".py", ".j2") and not path.relative_to(ROOT).as_posix().startswith(made)
    ]


@pytest.mark.few(13)
@pytest.mark.parametrize("phrase", BANNED)
def test_nobody_writes(phrase):
    pattern = re.compile(phrase, re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in pages()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"write {BANNED[phrase]!r} instead:\n" + "\n".join(found)


def test_the_list_finds_what_it_bans():
    text = "The state is no matrix; it is made anew for want of memory, in the place of a copy, and shall stay."
    assert sum(bool(re.search(phrase, text, re.IGNORECASE)) for phrase in BANNED) == 6
    assert not any(re.search(phrase, "This layer is no longer dense.") for phrase in BANNED)
