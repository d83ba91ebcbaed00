"""Files that are whole or not there; what killed processes leave, and what living ones are about to finish."""

import errno
import os
import socket
import stat
import subprocess
import sys

import pytest

from anprompt.utils import files
from anprompt.utils.files import atomic_path, is_held, remove_leftovers, require_file
from tests.helpers import REPOSITORY
from tests.helpers.runs import left_by_killed_process

LIVING = """
import sys
from anprompt.utils.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.readline()
    temporary.write_text("whole")
"""


@pytest.fixture
def living(tmp_path):
    """A process that is writing a file; its temporary file, and a function that lets it finish."""
    target = tmp_path / "config.json"
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING, target], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    temporary = process.stdout.readline().strip()

    def finish():
        process.communicate("\n")
        return process.returncode

    yield temporary, finish
    process.kill()
    process.wait()


def test_a_file_appears_whole_with_the_usual_rights(tmp_path):
    (tmp_path / "other").write_text("")
    with atomic_path(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("x")
        assert os.listdir(tmp_path / "new") == [temporary.name]
    assert os.listdir(tmp_path / "new") == ["file.txt"]
    usual, ours = ((tmp_path / name).stat().st_mode for name in ("other", "new/file.txt"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(usual)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("name", ["config.json", "results.json", "model.pth.tar-2", "red_circle_0001.jpg", "a b\nc"])
def test_what_a_killed_process_left_is_removed(tmp_path, name):
    left = left_by_killed_process(tmp_path / "x")
    (renamed := tmp_path / left.name.replace(".x.", f".{name}.")).write_bytes(left.read_bytes())
    left.unlink()
    remove_leftovers(tmp_path)
    assert not renamed.exists() and os.listdir(tmp_path) == []


def test_a_living_process_keeps_its_file_and_finishes(tmp_path, living):
    temporary, finish = living
    assert is_held(tmp_path / temporary)
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [os.path.basename(temporary)]
    assert finish() == 0
    assert (tmp_path / "config.json").read_text() == "whole"


def test_so_does_this_process(tmp_path):
    with atomic_path(tmp_path / "file") as temporary:
        remove_leftovers(tmp_path)
        assert temporary.exists()


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another start tidies up in just that moment."""
    flock, removed = files.fcntl.flock, []

    def tidied(stream, how):
        if not removed:
            removed.append(stream.name)
            os.unlink(stream.name)
        return flock(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", tidied)
    with atomic_path(tmp_path / "file") as temporary:
        assert temporary.exists() and is_held(temporary)
    assert removed and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "name",
    [
        ".config.json.backup12",
        ".config.json.anprompt-part",
        "config.json.0123456789abcdef0123456789abcdef.anprompt-part",
        ".model.0123456789ABCDEF0123456789ABCDEF.anprompt-part",
        ".model.0123456789abcdef0123456789abcdef.anprompt-part~",
        ".model_notes",
        ".anprompt-part",
    ],
)
def test_files_of_the_user_stay(tmp_path, name):
    (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_what_is_no_file_stays_and_is_not_opened(tmp_path):
    name = f".x.{'0' * 32}.anprompt-part"
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink(tmp_path.parent / "elsewhere", path)):
        make(tmp_path / name)
        remove_leftovers(tmp_path)
        assert os.listdir(tmp_path) == [name]
        os.rename(tmp_path / name, tmp_path / "done")
        if os.path.isdir(tmp_path / "done"):
            os.rmdir(tmp_path / "done")
        else:
            os.unlink(tmp_path / "done")


@pytest.mark.parametrize("place", ["absent", "file"])
def test_a_folder_that_cannot_be_tidied_is_left_alone(tmp_path, place):
    (tmp_path / "file").write_text("")
    remove_leftovers(tmp_path / place)


@pytest.mark.parametrize("hours", [23, 25])
def test_without_locks_a_leftover_goes_after_a_day(tmp_path, monkeypatch, hours):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    left = left_by_killed_process(tmp_path / "file")
    changed = left.stat().st_mtime - 3600 * hours
    os.utime(left, (changed, changed))
    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    remove_leftovers(tmp_path)
    assert left.exists() == (hours < 24)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "file").read_text() == "x"


def test_what_is_no_file_is_told_by_its_kind(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the names of sockets are short
    listener.bind("socket")
    os.chdir(here)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    kinds = {"pipe": "a named pipe", "socket": "a socket", ".": "a folder", "/dev/zero": "a device", "link": "a named"}
    for name, kind in kinds.items():
        with pytest.raises(ValueError, match=f"the list .* is {kind}.*, expected a file"):
            require_file(tmp_path / name, "the list")
    listener.close()
    (tmp_path / "file").write_text("")
    require_file(tmp_path / "file", "the list")
    require_file(tmp_path / "absent", "the list")


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"\[Errno 28\].*a\.json"), atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_named_file_stays_named(tmp_path):
    with pytest.raises(OSError, match=r"\[Errno 28\].*other"), atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "other")
