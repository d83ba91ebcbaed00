"""Files that are whole or not there, what killed processes leave of them, and files that are none."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.anprompt-part", re.DOTALL)  # names that only atomic_path gives
DAY = 24 * 60 * 60

BEST = "model-best.pth.tar"  # Dassl's name for the checkpoint that validation chose


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it into place on success.

    A process killed in between leaves the old file untouched; an error removes the temporary file, and what a killed
    process leaves is for :func:`remove_leftovers`. An OSError of the system that names no file, such as that of a full
    disk, names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.anprompt-part")
    with held(temporary):
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path, pattern: re.Pattern[str] = TEMPORARY) -> None:
    """Remove the unfinished files of killed processes from a folder; those of living ones stay.

    Args:
        pattern: of the names of files that :func:`held` has made, so that no other file is touched.
    """
    with contextlib.suppress(OSError):  # no folder, or none of ours to tidy
        for name in os.listdir(folder):
            if pattern.fullmatch(name):
                _remove_if_abandoned(Path(folder, name))


# ---------------------------------------------------------------------------------------------- who is at it


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Make an empty file, and hold a lock on it that ends with the process, however that ends.

    Whoever writes to the file opens it anew, and does not put another one in its place.
    """
    stream = _make_and_lock(path)
    try:
        yield
    finally:
        stream.close()


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock on a file, which is made where it is not there and removed at the end.

    It ends with this process, however that ends: workers that were forked do not keep it. Where the file system has no
    locks, there is none.

    Raises:
        BlockingIOError: another process has it; ``busy`` is the message.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = _open_and_lock(path, busy)
    _of_this_process.add(stream)
    try:
        yield
    finally:
        _of_this_process.discard(stream)
        path.unlink(missing_ok=True)  # before others can lock it
        stream.close()


def take_lock(stream: IO[bytes]) -> bool:
    """Lock an open file until it is closed in all processes that share it; False where somebody else has locked it.

    True, too, where the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


_of_this_process: set[IO[bytes]] = set()  # what `locked` holds


def _leave_locks_to_parent() -> None:
    for stream in _of_this_process:
        stream.close()
    _of_this_process.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_parent)


def _open_and_lock(path: Path, busy: str) -> IO[bytes]:
    while True:
        stream = path.open("ab")
        if not take_lock(stream):
            stream.close()
            raise BlockingIOError(busy)
        with contextlib.suppress(FileNotFoundError):  # removed by its owner before it was locked
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()


def is_held(path: Path) -> bool:
    """Whether the process that made a file with :func:`held` is alive.

    Where the file system has no locks, it counts as alive for a day after it last wrote.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return True  # nothing that `held` has made
        with path.open("r+b") as stream:
            return not _is_free(stream)
    except FileNotFoundError:
        return False
    except OSError:  # somebody else's
        return True


def _make_and_lock(path: Path) -> BinaryIO:
    while True:
        stream = path.open("xb")
        if fcntl is None:  # Windows moves no file that is open
            stream.close()
            return stream
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # removed as a leftover before it was locked
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()


def _is_free(stream: BinaryIO) -> bool:
    """Take the lock of a file if nobody has it."""
    try:
        if fcntl is None:
            raise OSError("no locks")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(stream.fileno()).st_mtime > DAY
    return True


def _remove_if_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("r+b") as stream:
                if _is_free(stream):  # and so it stays until the file is gone
                    if fcntl is None:
                        stream.close()
                    path.unlink()


def at_home(path: str | Path) -> Path:
    """``~`` replaced by the user's home folder; left as it is where the user has none (in containers)."""
    return Path(os.path.expanduser(path))


# ---------------------------------------------------------------------------------------------- files that are none

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_file(path: Path, what: str) -> None:
    """Raise a ValueError where ``path`` is something that cannot be read as a file: to open it may take for ever.

    Args:
        what: names it in the message. A missing one is no matter of this function.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise ValueError(f"{what} {path} is {name}, expected a file: name another")
