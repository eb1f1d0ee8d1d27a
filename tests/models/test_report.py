"""Test the report of a compression, as data and as text."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from deeptn.base import progress
from deeptn.models import LayerReport, Report


def test_report(tmp_path):
    rows = (
        LayerReport("a", (12, 10), "Tree(rank=4)", 120, 40, 0.5, 1000, 120, 200),
        LayerReport("b", (4, 6), "Tree(rank=4)", 24, 8, 0.25, 100, 24, 40),
    )
    report = Report(rows, 200, 104, 800, 416)
    assert (report.params_before, report.params_after, report.ratio) == (144, 48, 3.0)
    report.to_json(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["layers"][0] | {"shape": [12, 10]} == data["layers"][0]
    assert (data["ratio"], data["layers"][1]["ratio"], data["model_after"]) == (3.0, 3.0, 104)
    assert "a: (12, 10) Tree(rank=4), 120 -> 40 (x3.0)" in str(report)
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "Tree(rank=4)" in text
    assert "200 -> 104 parameters, 800 bytes -> 416 bytes at rest" in " ".join(text.split())


@pytest.mark.parametrize("name", ["[red]fc[/red]", "a[/]", "[bold", "back\\"])
def test_names_with_markup_are_printed_as_they_are(name):
    layer = LayerReport(name, (4, 6), "LowRank(rank=1)", 24, 10, 0.5, 40, 24, 24)
    stream = io.StringIO()
    Console(file=stream, width=200).print(Report((layer,), 24, 10, 96, 40))
    assert name in stream.getvalue()
    shown: Any = progress._start()
    try:
        task = shown.add_task("", total=1)
        shown.update(task, description=name)
        assert shown.columns[0].render(shown.tasks[0]).plain == name
    finally:
        shown.stop()
        progress._shown.clear()
