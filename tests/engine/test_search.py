"""Test the search for a path: deterministic, cached on disk, and shared by several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import deeptn as dtn
from deeptn.base import CACHE, cache_folder, files
from deeptn.engine import search as contraction

NET = dtn.network(dtn.BrickWall(layers=2, activation=None), (16, 16))

SCRIPT = """
import deeptn as dtn
print(dtn.network(dtn.BrickWall(layers=3), (64, 64)).program("materialize").cost)
"""


def forget() -> None:
    CACHE.clear()
    contraction.PATHS.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPTN_CACHE", str(tmp_path / "paths"))
    forget()
    yield tmp_path / "paths"
    forget()


def test_a_path_is_searched_once(folder, monkeypatch):
    program = NET.program("materialize")
    files = list(folder.iterdir())
    assert [file.suffix for file in files] == [".json"]
    forget()
    monkeypatch.setattr(contraction, "_search_anew", None)  # another search would raise
    assert NET.program("materialize") == program


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "text", ["", "{", "[[[0, 1]]]", "[[0, 1]]", "null", '[[["a", 1]]]', "[[[0, 0]]]", "[[[1, 0]]]", "[" * 10000]
)
def test_a_damaged_file_is_searched_anew_and_replaced(folder, text):
    program = NET.program("materialize")
    (file,) = folder.iterdir()
    good = file.read_text()
    file.write_text(text)
    forget()
    assert NET.program("materialize") == program
    assert file.read_text() == good


def test_a_path_that_uses_a_tensor_twice_is_refused(folder):
    NET.program("materialize")
    (file,) = folder.iterdir()
    groups = json.loads(file.read_text())
    groups[0][0] = groups[0][1]
    check_refused(file, groups)


def test_a_step_that_reads_what_it_makes_is_refused(folder):
    NET.program("materialize")
    (file,) = folder.iterdir()
    groups = json.loads(file.read_text())
    check_refused(file, [[pair for group in groups for pair in group]])


def check_refused(file, groups):
    good = file.read_text()
    program = NET.program("materialize")
    file.write_text(json.dumps(groups))
    forget()
    assert NET.program("materialize") == program
    assert file.read_text() == good


def test_a_step_with_contractions_that_differ_is_refused(folder):
    """Such a path is complete, but the step would compute something else."""
    wall = dtn.network(dtn.BrickWall(layers=2, activation=None), (16, 48))
    wall.program("materialize")
    (file,) = folder.iterdir()
    groups = json.loads(file.read_text())
    wrong = 0
    for number in range(len(groups) - 1):
        merged = [*groups[:number], groups[number] + groups[number + 1], *groups[number + 2 :]]
        first = len(wall.spec.nodes) + sum(map(len, groups[:number]))
        if all(k < first for pair in merged[number] for k in pair):
            check_refused_by(wall, file, merged)
            wrong += 1
    assert wrong


def check_refused_by(net, file, groups):
    good, weight = file.read_text(), net.materialize(net.init())
    file.write_text(json.dumps(groups))
    forget()
    assert (net.materialize(net.init()) == weight).all()
    assert file.read_text() == good


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_in_the_folder_is_no_obstacle(folder):
    program = NET.program("materialize")
    (file,) = folder.iterdir()
    file.unlink()
    os.mkfifo(file)
    forget()
    assert NET.program("materialize") == program


def test_the_folder_does_not_grow_for_ever(folder, monkeypatch):
    monkeypatch.setattr(files, "FILES", 8)
    folder.mkdir()
    names = [f"{number:064x}.json" for number in range(30)]
    for number in range(20):
        (folder / f"mine-{number}.json").write_text("")  # of somebody else
    for number, name in enumerate(names):
        files.write_cache(folder / name, number)
        os.utime(folder / name, (number, number))
        assert files.read_cache(folder / names[0], int) == 0  # used again and again, so it stays
        assert len(list(folder.iterdir())) <= 28
    assert files.read_cache(folder / names[29], int) == 29
    assert len(list(folder.glob("mine-*"))) == 20


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEEPTN_CACHE", str(tmp_path / "file"))
    forget()
    assert NET.program("materialize").cost.params == NET.num_params


@pytest.mark.parametrize("value", ["off", ""])
def test_the_cache_can_be_switched_off(monkeypatch, value):
    monkeypatch.setenv("DEEPTN_CACHE", value)
    assert cache_folder() is None


def test_the_folder_is_that_of_the_system(monkeypatch, tmp_path):
    monkeypatch.delenv("DEEPTN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "deeptn"


def test_processes_share_the_folder(folder):
    commands = [subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {command.communicate()[0] for command in commands}
    assert len(outputs) == 1
    assert "Cost(" in outputs.pop()
    assert all(file.suffix == ".json" for file in folder.iterdir())
    assert len(list(folder.iterdir())) == 2  # one for the first stage, one for the two others


def test_stages_that_differ_by_names_alone_share_a_search(folder):
    net = dtn.network(dtn.BrickWall(layers=16), (4096, 4096))
    before = contraction.PATHS.misses
    net.program("materialize")
    assert contraction.PATHS.misses == before + 2  # one for the first stage, one for all others


def test_blocks_are_for_small_tensors_that_act_on_a_large_one():
    """Six gates of volume 16 on a state of volume 2^8: in blocks; if one of them is as large as the state: not."""
    gates = [(k, k + 1, 10 + k, 11 + k) for k in range(0, 6, 2)]
    state = tuple(range(8))
    sizes, inputs, output = [2] * 30, [state, *gates], (10, 11, 12, 13, 14, 15, 6, 7)
    path = contraction._absorb_in_blocks(inputs, output, sizes, most=16)
    assert path is not None
    assert len(path) == len(gates)
    large = [state, *gates[:2], (4, 5, 14, 15, *range(20, 26))]
    assert contraction._absorb_in_blocks(large, (*output, *range(20, 26)), sizes, most=16) is None
    assert (
        contraction._absorb_in_blocks(inputs, output, sizes, most=17) is None
    )  # the state is too small for such blocks
