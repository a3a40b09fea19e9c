"""Tests of write_whole: the kind and mode of an existing file are kept, and a file is never half written."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from decoding.file_output import write_whole


def mode_of(path):
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_keeps_its_mode(tmp_path):
    """An existing file keeps its mode, and a new file gets the mode of the umask."""
    private, new = tmp_path / "private", tmp_path / "new"
    private.write_text("old and longer")
    private.chmod(0o600)
    write_whole(private, "new")
    write_whole(new, "é")
    umask = os.umask(0)
    os.umask(umask)
    assert (private.read_text(), mode_of(private)) == ("new", 0o600)
    assert (new.read_bytes(), mode_of(new)) == ("é".encode(), 0o666 & ~umask)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "private"]


def test_a_link_stays_a_link(tmp_path):
    """A symbolic link stays one, and its target is written, whether it exists or not."""
    for name in ("there", "missing"):
        link, target = tmp_path / f"to-{name}", tmp_path / name
        link.symlink_to(target)
        if name == "there":
            target.write_text("old")
        write_whole(link, "new")
        assert link.is_symlink()
        assert target.read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    """A FIFO or a device is written to and stays what it is."""
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_whole(fifo, "text")
    reader.join(timeout=120)
    assert read == ["text"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    write_whole("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_other_files_are_left_alone(tmp_path):
    """A user's file beside the target is never overwritten, and a failed write leaves no file behind."""
    (tmp_path / "capsule.partial").write_text("the user's")
    target = tmp_path / "capsule"
    target.write_text("old")
    write_whole(target, "new")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "\ud800")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "capsule": "new",
        "capsule.partial": "the user's",
    }
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "text")
