"""Test how files are replaced."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from deeptn.base import remove_temporary, write_atomically

#: Writes half a file, says so, and waits to be killed or to be told to go on.
SLOW = """
import pathlib, sys
from deeptn.base import write_atomically
def write(new):
    new.write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
    new.write_text("whole")
write_atomically(pathlib.Path(sys.argv[1]), write)
"""


def put(path: pathlib.Path, text: str = "new") -> None:
    write_atomically(path, lambda new: new.write_text(text))


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def umask(wanted: int) -> Iterator[None]:
    before = os.umask(wanted)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let writes fail that make a file larger, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has written half a file."""
    command = [sys.executable, "-c", SLOW, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("wanted", [0o600, 0o444, 0o775])
def test_the_mode_of_an_old_file_is_kept(tmp_path, wanted):
    path = tmp_path / "w"
    path.write_text("old")
    path.chmod(wanted)
    put(path)
    assert (path.read_text(), mode(path)) == ("new", wanted)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_open_gives(tmp_path, mask):
    with umask(mask):
        put(tmp_path / "w")
        (tmp_path / "other").write_text("new")
    assert mode(tmp_path / "w") == mode(tmp_path / "other") == 0o666 & ~mask


def test_the_mask_of_the_process_is_never_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("another thread would create files with this mask"))
    put(tmp_path / "w")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_is_kept(tmp_path):
    path = tmp_path / "w"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (1234, 4321, 0o640)


def test_an_owner_that_cannot_be_kept_gives_away_no_rights(tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError

    path = tmp_path / "w"
    path.write_text("old")
    path.chmod(0o4755)
    found = path.stat()
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(
        pathlib.Path, "stat", lambda self, **options: _other_owner(found) if self == path else os.stat(self, **options)
    )
    put(path)
    monkeypatch.undo()
    assert (path.read_text(), mode(path)) == ("new", 0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_the_group_is_kept_where_the_owner_cannot_be(tmp_path, monkeypatch):
    path, fchown = tmp_path / "w", os.fchown
    path.write_text("old")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)

    def members_only(handle: int, uid: int, gid: int) -> None:
        if uid != -1:
            raise PermissionError
        fchown(handle, uid, gid)

    monkeypatch.setattr(os, "fchown", members_only)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (os.geteuid(), 4321, 0o640)


def _other_owner(found: os.stat_result) -> os.stat_result:
    return os.stat_result((*found[:4], found.st_uid + 1, *found[5:10]))


def test_links_stay_and_their_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "w", tmp_path / "link", tmp_path / "second"
    target.write_text("old")
    link.symlink_to(os.path.join("far", "w"))
    second.symlink_to("link")
    put(second)
    assert target.read_text() == "new"
    assert os.readlink(link) == os.path.join("far", "w")
    assert os.readlink(second) == "link"
    (tmp_path / "dangling").symlink_to("later")
    put(tmp_path / "dangling")
    assert (tmp_path / "later").read_text() == "new"
    (tmp_path / "lost").symlink_to("nowhere/w")
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        put(tmp_path / "lost")


def test_a_link_to_itself_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        put(tmp_path / "loop")


def test_what_is_not_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("fifo")
    for name, text in (
        ("fifo", "a device, FIFO or socket"),
        ("link", "a device, FIFO or socket"),
        ("folder", "folder"),
    ):
        with pytest.raises(OSError, match=f"{name}' is .*{text}"):
            put(tmp_path / name)
    with pytest.raises(OSError, match="'/dev/null' is a device"):
        write_atomically("/dev/null", lambda new: None)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fifo", "folder", "link"]


@pytest.mark.parametrize("name", ["w" * 255, "ü" * 127, "a b\nc"])
def test_all_names_that_the_system_takes(tmp_path, name):
    put(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_full_disk(tmp_path):
    path = tmp_path / "w"
    path.write_text("old")
    with small_files(1000), pytest.raises(OSError, match=r"w'$") as caught:
        put(path, "x" * 2000)
    assert caught.value.errno is not None
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_file_that_cannot_be_made(tmp_path, monkeypatch):
    opened = os.open

    def refuse(name: Any, *arguments: Any) -> int:
        if str(name).endswith(".tmp"):
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"w'$") as caught:
        put(tmp_path / "w")
    assert caught.value.filename == str(tmp_path / "w")


def test_a_private_file_is_private_while_it_is_written(tmp_path):
    path, seen = tmp_path / "w", list[int]()
    path.write_text("old")
    path.chmod(0o600)
    write_atomically(path, lambda new: (seen.append(mode(new)), new.write_text("new")))
    assert (seen, mode(path)) == ([0o600], 0o600)


def test_many_threads_write_one_file(tmp_path):
    path, wrong = tmp_path / "w", list[BaseException]()
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        try:
            for turn in range(150):
                put(path, f"{number} {turn}")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [file.name for file in tmp_path.iterdir()] == ["w"]


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "w", lambda new: (tmp_path / "source").read_bytes())
    assert caught.value.filename == str(tmp_path / "source")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"w'$"):
        put(tmp_path / "w")
    tmp_path.chmod(0o700)


def test_file_and_folder_reach_the_disk(tmp_path, monkeypatch):
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append("renamed"), replace(*names)))
    put(tmp_path / "w", "12345")
    assert seen == ["file of 5", "renamed", "folder"]


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    path = tmp_path / "w"
    with writing(path) as process:
        process.kill()
        process.wait()
    assert len(list(tmp_path.iterdir())) == 1
    put(tmp_path / "other")  # what belongs to other names stays
    assert len(list(tmp_path.iterdir())) == 2
    put(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other", "w"]


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "w"
    with writing(path) as process:
        put(path, "mine")
        remove_temporary(tmp_path)
        assert path.read_text() == "mine"
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=60) == 0
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_where_files_cannot_be_locked_only_old_ones_are_removed(tmp_path, monkeypatch):
    import deeptn.base.files as files

    monkeypatch.setattr(files, "fcntl", None)
    put(tmp_path / "w")
    for name, age in ((".a.deeptn.tmp", 10), (".b.deeptn.tmp", 2 * files.FORGOTTEN)):
        (tmp_path / name).touch()
        when = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (when, when))
    remove_temporary(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.deeptn.tmp", "w"]
