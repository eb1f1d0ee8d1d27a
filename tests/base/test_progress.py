"""Test the bars that long loops show in a terminal."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest

from deeptn.base import progress, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that every loop is slow enough for."""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))  # pytest replaces that of the module sys
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_a_slow_loop_shows_a_bar_with_the_label_of_the_item(terminal):
    found = []
    for item in track(["fc1", "fc2"], lambda item: f"layer {item}"):
        (task,) = progress._shown[0].tasks
        found.append((item, task.description, task.completed, task.total))
    assert found == [("fc1", "layer fc1", 0, 2), ("fc2", "layer fc2", 1, 2)]
    assert not progress._shown
    assert "%" in terminal.getvalue()


def test_an_inner_loop_adds_a_line(terminal):
    for _ in track([1, 2], "outer"):
        for _ in track([3, 4], "inner"):
            assert [task.description for task in progress._shown[0].tasks] == ["outer", "inner"]
        assert [task.description for task in progress._shown[0].tasks] == ["outer"]
    assert not progress._shown


def test_errors_and_breaks_remove_the_bar(terminal):
    def divide():
        for number in track([1, 0], "division"):
            assert progress._shown
            assert 1 / number

    with pytest.raises(ZeroDivisionError):
        divide()
    assert not progress._shown
    for _ in track([1, 2], "broken off"):
        break
    assert not progress._shown


def test_files_and_short_loops_get_nothing(monkeypatch):
    for stream, patience in ((io.StringIO(), -1.0), (Terminal(), 100.0)):
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
        monkeypatch.setattr(progress, "PATIENCE", patience)
        assert list(track(range(3), "numbers")) == [0, 1, 2]
        assert stream.getvalue() == ""
        assert not progress._shown


def test_lines_in_a_log(monkeypatch):
    """Where lines are wanted and stderr is not a terminal, the outermost loop says how far it is."""
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with progress.showing("bar", "lines"):
        assert list(track(iter("abc"), lambda item: f"layer {item}", total=3)) == list("abc")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"layer b: 1 of 3 done, \d+ (s|min|h) left", first)
    assert re.fullmatch(r"layer c: 2 of 3 done, \d+ (s|min|h) left", second)
    with progress.showing():
        assert list(track([1, 2], "numbers")) == [1, 2]
    assert list(track([1, 2], "numbers")) == [1, 2]
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (99, "99 s"), (130, "2 min"), (7300, "2 h")])
def test_times(seconds, text):
    assert progress._time(seconds) == text
