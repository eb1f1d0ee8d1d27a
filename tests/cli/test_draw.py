"""Test ``deeptn draw``."""

from __future__ import annotations

import pytest

import deeptn as dtn
from deeptn.cli import main


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_draw_writes_a_picture_and_says_what_it_shows(suffix, tmp_path, capsys):
    out = tmp_path / f"net.{suffix}"
    assert main(["draw", "brickwall", "--shape", "120,400", "--layers", "3", "-o", str(out)]) == 0
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[suffix]
    assert out.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [out]
    said = capsys.readouterr().out
    assert said.startswith(dtn.summary(dtn.network(dtn.BrickWall(layers=3), (120, 400))))
    assert said.endswith(f"wrote {out}\n")


@pytest.mark.few(5)
@pytest.mark.parametrize("name", [n for n in dtn.topologies.topology_names() if hasattr(dtn, n)])
def test_every_topology_is_drawn(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = "4,4" if name == "Graph" else "16,16"
    assert main(["draw", name, "--shape", shape]) == 0
    assert (tmp_path / f"{name.lower()}.svg").stat().st_size > 1000
    assert f"Network({name}(" in capsys.readouterr().out


def test_fields_are_read_as_what_they_are(tmp_path, capsys):
    arguments = [
        "--cyclic",
        "no",
        "--activation",
        "none",
        "--rank",
        "2",
        "--shape",
        "4x8",
        "-o",
        str(tmp_path / "a.svg"),
    ]
    assert main(["draw", "mera", *arguments]) == 0
    family = dtn.MERA(rank=2, cyclic=False, activation=None)
    assert capsys.readouterr().out.startswith(dtn.summary(dtn.network(family, (4, 8))))
    assert main(["draw", "tensortrain", "--rank", "2,3,2", "--shape", "4,4", "-o", str(tmp_path / "b.svg")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["brickwal"], "unknown topology 'brickwal'; expected one of .* did you mean 'BrickWall'"),
        (["tree", "--rank", "x"], "Tree.rank must be an integer of at least 1, got 'x'"),
        (["mera", "--cyclic", "perhaps"], "MERA.cyclic must be True or False, got 'perhaps'"),
        (["mera", "--shape", "8,q"], "--shape '8,q'; separate the sizes with commas"),
        (["mera", "--shape", "8,0"], r"shape\[1\] must be at least 1, got 0"),
        (["mera", "-o", "a.gif"], "write a file name that ends in .svg, .png, .pdf"),
        (["mera", "-o", "nowhere/a.svg"], "no directory"),
    ],
)
def test_wrong_arguments_write_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    import re

    monkeypatch.chdir(tmp_path)
    assert main(["draw", *arguments]) == 1
    said = capsys.readouterr()
    assert re.search(f"^deeptn: .*{message}", said.err), said.err
    assert not said.out
    assert not list(tmp_path.iterdir())


def test_options_may_come_before_the_topology(tmp_path, capsys):
    out = tmp_path / "a.svg"
    assert main(["draw", "--shape", "4,8", "-o", str(out), "mera", "--rank", "2"]) == 0
    assert capsys.readouterr().out.startswith(dtn.summary(dtn.network(dtn.MERA(rank=2), (4, 8))))
    assert out.is_file()


@pytest.mark.parametrize("name", dtn.topologies.topology_names())
def test_help_lists_the_fields_of_the_family_alone(name, monkeypatch, capsys):
    from dataclasses import fields

    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks

    with pytest.raises(SystemExit, match="0"):
        main(["draw", name.lower(), "--help"])
    said = capsys.readouterr().out
    family = type(dtn.topologies.topology(name))
    written = {field.name for field in fields(family) if isinstance(field.default, (int, str, type(None)))}
    flags = {word.lstrip("[").replace("-", "_") for word in said.partition("\n\n")[0].split() if "--" in word}
    assert flags == {"__shape", *(f"__{field}" for field in written)}
    assert said.count(" (default ") == len(written) + 2
    # Each field has a description before its default.
    fields_of = said.partition(f"fields of {name}:")[2]
    assert not [line for line in fields_of.splitlines() if line.split("VALUE")[-1].strip().startswith("(default")]


def test_a_field_of_another_family(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["draw", "tree", "--layers", "3"])
    assert "deeptn draw Tree: error: unrecognized arguments: --layers 3" in capsys.readouterr().err
