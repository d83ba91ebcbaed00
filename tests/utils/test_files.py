"""Files that are whole or not there; a full disk is told with the file's name."""

import errno
import os

import pytest

from anprompt.utils.files import atomic_path


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"\[Errno 28\].*a\.json"), atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_named_file_stays_named(tmp_path):
    with pytest.raises(OSError, match=r"\[Errno 28\].*other"), atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "other")
