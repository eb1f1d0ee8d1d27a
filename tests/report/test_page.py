"""The page about a compression: what it says, and that it needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, cast

import equinox as eqx
import jax
import pytest
import torch
from deeptn_jax.equinox import compress as compress_equinox
from deeptn_torch import compress, heal
from torch import nn

import deeptn as dtn
from deeptn.models import Report
from deeptn.planning import Search, Trial
from deeptn.recipe import Recipe
from deeptn.report import Row, takeaway, write_report

DENSE = Row(label="dense", role="dense", params=1000, bytes=4000, scores=(95.0, 96.0, 97.0))
CHOSEN = Row(label="TT", role="chosen", params=100, bytes=400, scores=(94.0, 95.0, 96.0), before=(10.0, 11.0, 12.0))
WORSE = Row(label="narrower", params=99, bytes=396, scores=(92.0, 93.0, 94.0), seconds=1.5)
LARGE = Row(label="int8", params=1000, bytes=1000, scores=(95.0, 96.0, 97.0))


class Page(HTMLParser):
    """Collects tags, and checks that they are closed."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that a page can have, of a model with a name that must be escaped."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("a<b>", nn.Linear(16, 32))
    model.add_module("then", nn.ReLU())
    model.add_module("head", nn.Linear(32, 4))
    plan = dtn.plan(model, {"params": "60%"})
    small, report = compress(model, plan)
    data = list(torch.randn(4, 32, 16))
    history = heal(small, model, data, Recipe(epochs=3, batch=32))
    trials = (Trial(0.25, 100, 1.0, 2.0, True, 0.1), Trial(0.1, None, None, None, False, 0.1))
    rows = [DENSE, CHOSEN, WORSE, LARGE, Row(label="<i>Tree</i>", role="family", note="no network is <this> small")]
    path = tmp_path_factory.mktemp("page") / "page.html"
    words = write_report(
        path,
        report,
        title="A & B <c>",
        rows=rows,
        score="accuracy [%]",
        plan=plan,
        search=Search(3.0, 1.5, trials, 0, 1000),
        before=model,
        after=small,
        histories={"TT": history, "<b>": history},
        facts={"data": "none & nothing"},
    )
    return path.read_text(), words, report


def test_the_page_needs_nothing_else(made):
    text, *_ = made
    page = Page(text)
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not page.of("script")
    assert not page.of("link")


def test_every_part_is_there(made):
    text, words, report = made
    for heading in ("Beside other networks", "The search", "Layers", "Healing", "Other limits", "Spectra", "Networks"):
        assert f"<h2>{heading}</h2>" in text, heading
    assert words[0] in text
    assert f"{report.model_before:,} → {report.model_after:,}" in text
    assert "60% parameters" in text
    assert "11 ± 1" in text
    assert "95 ± 1" in text
    assert "deeptn " in text
    assert "none &amp; nothing" in text


def test_names_are_escaped(made):
    text, *_ = made
    for raw in ("a<b>", "A & B <c>", "<i>Tree", "<this>"):
        assert raw not in text
    assert "a&lt;b&gt;" in text
    assert "&lt;i&gt;Tree&lt;/i&gt;" in text


def test_tables_and_figures_are_accessible(made):
    text, *_ = made
    page = Page(text)
    assert len(page.of("caption")) == len(page.of("table")) == 4
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    assert all(attrs.get("data-label") for attrs in page.of("td"))
    figures = [attrs for attrs in page.of("svg") if attrs.get("role") == "img"]
    assert len(figures) == len(page.of("svg")) >= 5
    assert all(attrs.get("aria-label") for attrs in figures)
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert 'lang="en"' in text
    assert "svg text { font-family: system-ui, sans-serif !important; fill: var(--ink); }" in text


def test_figures_take_the_colors_of_the_page(made):
    text, *_ = made
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        texts = [found for found in re.findall(r"<text[^>]*>", svg) if "fill" in found]
        assert texts
        assert all("fill: var(--" in found or "fill: #" in found for found in texts), texts
        assert not re.search(r"(fill|stroke): (#000000|black)", svg)
        assert "var(--ink)" in svg


def test_references_in_figures_have_targets(made):
    text, *_ = made
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
        assert used <= ids


def test_two_runs_write_the_same(tmp_path):
    report = Report((), 10, 5, 40, 20)
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, report, rows=[DENSE, CHOSEN, WORSE])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_model_of_jax(tmp_path):
    model = eqx.nn.MLP(16, 4, 16, 1, key=jax.random.key(0))
    small, report = compress_equinox(model, {"layers.0": dtn.TTMatrix(rank=2)})
    write_report(tmp_path / "page.html", report, before=model, after=small)
    text = (tmp_path / "page.html").read_text()
    assert "<h2>Spectra</h2>" in text
    assert "layers.0: TTMatrix(rank=2)" in text


def test_the_curve_of_a_fit(tmp_path):
    model = nn.Sequential(nn.Linear(16, 16))
    _, report = compress(model, {"0": dtn.BrickWall(layers=2)}, fit=dtn.fitting.Fit(steps=5))
    assert len(report.layers[0].history) >= 5
    assert report.layers[0].history[-1] <= report.layers[0].history[0]
    write_report(tmp_path / "page.html", report)
    assert "<h2>Fits</h2>" in (tmp_path / "page.html").read_text()


REPORT = Report((), 1000, 100, 4000, 400)


def test_the_takeaway_compares_with_what_is_as_small():
    words = takeaway(REPORT, [DENSE, CHOSEN, WORSE, LARGE], "accuracy")
    assert words == [
        "With 10.0 % of the parameters, the accuracy is 95, after 96 before compression; the best control of that "
        "size, narrower, reaches 93."
    ]


def test_the_takeaway_says_when_something_else_is_better():
    better = Row(label="pruned", bytes=400, scores=(94.0, 95.0, 97.0))
    family = Row(label="Tucker", role="family", bytes=400, scores=(96.0, 96.0, 96.0))
    assert takeaway(REPORT, [DENSE, CHOSEN, better])[1].startswith("pruned is at least as good")
    assert takeaway(REPORT, [DENSE, CHOSEN, better, family])[1:] == [
        "pruned is at least as good at this size: here, the networks are not worth their work.",
        "Tucker is at least as good at this size.",
    ]
    assert takeaway(REPORT, [DENSE, CHOSEN, family])[1:] == ["Tucker is at least as good at this size."]
    close = Row(label="close", bytes=400, scores=(94.5, 94.0, 94.5))
    assert takeaway(REPORT, [CHOSEN, close])[1].startswith("The lead over close is smaller than its standard deviation")


def test_the_takeaway_says_what_was_not_measured():
    assert takeaway(REPORT)[1] == "No score was measured, so this page cannot say what that costs."
    one = Row(label="TT", role="chosen", bytes=400, scores=(94.0,))
    assert takeaway(REPORT, [one])[-1] == "This is one seed: small differences mean little."


WRONG = {
    "suffix": (lambda path: write_report(path / "page.pdf", REPORT), "ends in .html"),
    "models": (lambda path: write_report(path / "p.html", REPORT, before=nn.ReLU()), "pass both, or neither"),
    "seeds": (
        lambda path: write_report(path / "p.html", REPORT, rows=[CHOSEN, Row(label="x", scores=(1.0,))]),
        "1 and 3 scores; expected the same seeds",
    ),
    "chosen": (lambda path: write_report(path / "p.html", REPORT, rows=[CHOSEN, CHOSEN]), "several rows have the role"),
    "role": (lambda path: Row(label="x", role=cast(Any, "other")), "expected one of dense, chosen, family, control"),
    "nan": (lambda path: Row(label="x", scores=(float("nan"),)), "not all finite"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(call, message, tmp_path):
    with pytest.raises(dtn.DeepTNError, match=re.escape(message)):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
