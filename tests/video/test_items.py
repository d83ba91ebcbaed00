"""A clip is a file or a folder."""

import pickle

import pytest

from anprompt.video.items import VideoDatum, locate
from dassl.data.datasets import Datum


def test_a_folder_is_a_clip_but_no_image(tmp_path):
    with pytest.raises(AssertionError):
        Datum(str(tmp_path))
    clip = VideoDatum(str(tmp_path), label=3, domain=1, classname="brush hair", num_frames=12)
    found = (clip.impath, clip.label, clip.domain, clip.classname, clip.num_frames)
    assert isinstance(clip, Datum) and found == (str(tmp_path), 3, 1, "brush hair", 12)
    assert pickle.loads(pickle.dumps(clip)).num_frames == 12


def test_a_file_is_a_clip_and_what_is_missing_is_named(tmp_path):
    name = str(tmp_path / "#122_a_(b)[c]&d!_+.avi")
    with pytest.raises(FileNotFoundError, match="VIDEO_DIR") as error:
        VideoDatum(name)
    assert name in str(error.value)
    (tmp_path / name).touch()
    assert VideoDatum(name).num_frames == -1


def test_other_forms_of_a_clip_lie_beside_its_file(tmp_path):
    file, folder = str(tmp_path / "a.b.avi"), tmp_path / "c.d"
    folder.mkdir()
    for backend in ("auto", "pyav"):
        assert locate(file, backend) == file
    assert locate(file, "frames") == str(tmp_path / "a.b")
    assert locate(file, "npz") == locate(locate(file, "npz"), "npz") == str(tmp_path / "a.b.npz")
    assert locate(str(folder), "frames") == str(folder)
    assert locate(str(folder), "npz") == f"{folder}.npz"
