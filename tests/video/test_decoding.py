"""Frames by their number are those of decoding everything, and no more is decoded; what is no clip says so."""

import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from anprompt.video import video_file
from anprompt.video.containers import shows_frame
from anprompt.video.decoding import VideoError, open_video
from anprompt.video.video_file import upright
from tests.helpers.clips import decode_all, pictures, set_display_matrix, variable_times, write_clip, write_sound

COUNT = 33
OPEN_GROUPS = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=10:min-keyint=10"}
HEVC = {"x265-params": "keyint=10:bframes=3:open-gop=1:scenecut=0:log-level=none"}
HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k", "arnr-maxframes": "7", "arnr-strength": "5"}
VARIABLE = {"times": variable_times(COUNT)}
# Files that tell which frames there are ...
SEEKABLE = {
    "B-frames.mp4": {},
    "B-frames, variable.mp4": VARIABLE,
    "#122_a_(b)[c]&d!_+.mp4": {"options": OPEN_GROUPS},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": HEVC},
    "variable.mkv": VARIABLE,
    "open groups.mkv": {"options": OPEN_GROUPS},
    "no duration, no cues.mkv": {"container": {"live": "1"}},
    "vp8.webm": {"options": {}},
    "vp8, hidden frames.webm": {"options": HIDDEN, **VARIABLE},
    "vp9, hidden frames.webm": {"codec": "libvpx-vp9", "options": HIDDEN, **VARIABLE},
    "with sound.mp4": {"audio": True},
}
# ... and files that do not.
OTHERS = {
    "v_Basketball_g01_c01.avi": {"options": {"bf": "0"}},
    "#122_a_(b)[c]&d!_+.avi": {"options": {"bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "h264.avi": {"codec": "libx264"},
    "broadcast.ts": {"codec": "libx264"},
    "50%d: a clip.mkv": {"codec": "mpeg4"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files of both tables."""
    place = tmp_path_factory.mktemp("clips")
    frames = pictures(COUNT)
    for name, settings in (SEEKABLE | OTHERS).items():
        write_clip(place / name, frames, **settings)
    return place


def read(path, indices):
    with open_video(path) as clip:
        return clip.read(indices)


@pytest.mark.parametrize("name", [*SEEKABLE, *OTHERS])
def test_every_frame_is_that_of_decoding_everything(name, folder):
    expected = decode_all(folder / name)
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) == len(expected)  # a mistake would show
    for index in range(len(expected)):
        with open_video(folder / name) as clip:
            assert len(clip) == len(expected)
            assert np.array_equal(clip.read([index])[0], expected[index]), index


@pytest.mark.parametrize("name", [*SEEKABLE, *OTHERS])
def test_frames_are_read_in_any_order_as_often_as_asked_for(name, folder):
    expected = decode_all(folder / name)
    with open_video(folder / name) as clip:
        for indices in ([0, 5, 9, 21, 32], [32, 3, 3, 17, 0], list(range(COUNT)), [1], [12, 13]):
            assert np.array_equal(clip.read(indices), expected[indices])


@pytest.mark.parametrize("name", SEEKABLE)
def test_nothing_is_decoded_before_the_key_frame_nor_after_the_last_frame(name, folder):
    for index in (0, 4, 17, 32):
        with open_video(folder / name) as clip:
            start = max(start for start in clip.index.starts if start <= index)
            needless = [time for time in clip.index.times[start:index] if time in clip.index.spare]
            clip.read([index])
            assert clip.decoded == index - start + 1 - len(needless)


def test_frames_that_no_other_is_made_of_are_decoded_only_where_wanted(folder):
    """The groups are I B b P B b P B b P, where nothing is made of a b."""
    with open_video(folder / "B-frames.mp4") as clip:
        spare = [frame for frame, time in enumerate(clip.index.times) if time in clip.index.spare]
        assert clip.index.starts == [0, 10, 20, 30]
        assert spare[:9] == [frame for frame in range(30) if frame % 10 % 3 == 2]
        expected = decode_all(folder / "B-frames.mp4")
        for indices, decoded in (([9], 7), ([8], 7), ([7], 6), ([1, 13], 5), ([2, 8, 9], 9)):
            before = clip.decoded
            assert np.array_equal(clip.read(indices), expected[indices])
            assert clip.decoded - before == decoded, indices


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_decoded_once_or_where_they_are_large_twice(name, folder, monkeypatch):
    indices = [2, 30, 20]
    with open_video(folder / name) as clip:
        found = clip.read(indices)
        assert clip.decoded == COUNT
    monkeypatch.setattr(video_file, "KEEP", 64 * 48 * 20)
    with open_video(folder / name) as clip:
        assert clip.kept is None and np.array_equal(clip.read(indices), found)
        assert COUNT < clip.decoded <= 2 * COUNT


def test_key_frames_that_are_none_are_found_out(tmp_path):
    """With intra refresh, what the file calls key frames is where a slow renewal of the picture begins."""
    settings = {"options": {"x264-params": "intra-refresh=1:keyint=10"}}
    path = write_clip(tmp_path / "a.mp4", pictures(COUNT), **settings)
    expected, found_out = decode_all(path), 0
    for index in range(COUNT):
        with open_video(path) as clip:
            assert len(clip.index.starts) > 1
            assert np.array_equal(clip.read([index])[0], expected[index])
            found_out += clip.index is None
            assert np.array_equal(clip.read([3, index])[0], expected[3])
    assert found_out


def test_one_frame(tmp_path):
    for name in ("a.mp4", "a.avi", "a.webm"):
        path = write_clip(tmp_path / name, pictures(1))
        with open_video(path) as clip:
            assert len(clip) == 1 and np.array_equal(clip.read([0, 0]), decode_all(path)[[0, 0]])


def test_frames_that_are_not_there_are_refused(folder):
    with open_video(folder / "vp8.webm") as clip:
        for indices in ([COUNT], [-1], []):
            with pytest.raises(IndexError, match=r"frames 0\.\.32"):
                clip.read(indices)


def test_packets_of_vp8_and_vp9_say_whether_they_show_a_frame():
    for codec, first, shown in (("vp8", 0x10, True), ("vp8", 0x00, False), ("vp9", 0x82, True), ("vp9", 0x80, False)):
        assert shows_frame(codec, memoryview(bytes([first, 0]))) == shown
    assert shows_frame("vp9", memoryview(bytes([0x88, 0])))  # shows a frame that is there
    assert shows_frame("vp9", memoryview(bytes([0x80, 0xC1])))  # several frames, of which one is shown
    assert shows_frame("vp9", memoryview(bytes([0xB1, 0]))) and not shows_frame("vp9", memoryview(bytes([0xB0, 0])))
    assert shows_frame("h264", memoryview(b"\0"))


def test_frames_for_reference_only_are_not_counted(tmp_path):
    """A packet of VP8 that shows nothing, among others: only the first byte of its frame says so."""
    path = write_clip(tmp_path / "a.webm", pictures(COUNT), options={}, gop=COUNT)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        start = content.index([bytes(packet) for packet in container.demux(video=0)][20])
    assert content[start] & 0x11 == 0x11  # no key frame, shown
    content[start] &= ~0x10
    path.write_bytes(content)
    expected = decode_all(path)
    assert len(expected) == COUNT - 1
    with open_video(path) as clip:
        assert len(clip) == COUNT - 1 and np.array_equal(clip.read(range(COUNT - 1)), expected)


# ---------------------------------------------------------------------------------------------- upright

TURNS = {
    "as it is": (1, 0, 0, 1),
    "quarter to the right": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "quarter to the left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}


def shown(frame, a, b, c, d):
    """Each pixel (x, y) goes to (ax + cy, bx + dy), and the picture to the origin."""
    height, width = frame.shape[:2]
    places = {(a * x + c * y, b * x + d * y): frame[y, x] for x in range(width) for y in range(height)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    across, down = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    picture = np.zeros((down - top, across - left, 3), np.uint8)
    for (x, y), pixel in places.items():
        picture[y - top, x - left] = pixel
    return picture


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_file_that_says_how_it_is_to_be_shown_is_shown_so(turn, tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(3))
    plain = decode_all(path)
    set_display_matrix(path, *turn)
    assert np.array_equal(read(path, [1])[0], shown(plain[1], *turn))


def test_ffmpeg_calls_a_quarter_to_the_right_what_is_one_here():
    """A phone held upright: the top of the scene lies at the left of the stored frame... and is shown on top."""
    frame = np.zeros((4, 6, 3), np.uint8)
    frame[:, 0] = 255
    a, b, c, d = (65536 * value for value in TURNS["quarter to the right"])
    turned = upright(frame, np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30]))
    assert turned.shape == (6, 4, 3) and (turned[0] == 255).all() and not turned[1:].any()


# ---------------------------------------------------------------------------------------------- no clips


def assert_named(path, message, use=lambda path: read(path, [0])):
    with pytest.raises(VideoError, match=message) as error:
        use(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "Errno" not in str(error.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm", "a.npz", "a"])
def test_what_is_missing_or_empty_is_named(name, tmp_path):
    assert_named(tmp_path / name, "does not exist")
    (tmp_path / name).touch()
    assert_named(tmp_path / name, r"is empty \(0 bytes\)")


@pytest.mark.parametrize("content", [b"no video", b"\0" * 5000, bytes(range(256)) * 40])
def test_other_files_are_named(content, tmp_path):
    for name in ("a.mp4", "a.avi", "a.mkv", "a"):
        (tmp_path / name).write_bytes(content)
        assert_named(tmp_path / name, "truncated, damaged or no video")


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_named_with_and_without_a_cover(cover, tmp_path):
    path = write_sound(tmp_path / "a.mp4", cover)
    assert_named(path, "has no video that can be decoded, but audio")


CUT = {
    "a.mp4": {"container": {"movflags": "faststart"}},
    "end.mp4": {},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "a.avi": {},
    "a.webm": {},
    "a.mkv": {},
    "sound.mkv": {"audio": True},
}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("name", CUT)
def test_a_file_that_was_cut_in_the_middle_is_named(name, share, tmp_path):
    path = write_clip(tmp_path / name, pictures(COUNT), **CUT[name])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_named(path, "truncated")


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_lacks_nothing_but_what_comes_behind_its_frames_is_read(name, tmp_path):
    if name == "end.mp4":
        pytest.skip("its table of frames is at the end")
    path = write_clip(tmp_path / name, pictures(COUNT), **CUT[name])
    expected, content = decode_all(path), path.read_bytes()
    if name == "a.mp4":
        path.write_bytes(content + b"\0\0\1\0free" + b"\0" * 100)  # of 256 bytes that were to come
    else:
        table = {".avi": b"idx1", ".mp4": b"mfra"}.get(path.suffix, b"\x1cS\xbbk")  # of key frames
        path.write_bytes(content[: content.rindex(table) + 8])
    assert np.array_equal(read(path, range(COUNT)), expected)


def test_a_clip_that_changes_its_size_is_named(tmp_path):
    for name, size in (("1.png", (64, 48)), ("2.png", (48, 64))):
        Image.new("RGB", size).save(tmp_path / name)
    assert_named(tmp_path, "changes its size from 64x48 to 48x64", lambda path: read(path, [0, 1]))


def test_ffmpeg_says_nothing_on_its_own(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(COUNT), container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-2000])
    code = f"""
import anprompt
from anprompt.video.decoding import VideoError, open_video
try:
    open_video({str(path)!r})
except VideoError:
    print("named")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("named\n", "")


# ---------------------------------------------------------------------------------------------- folders and arrays


def make_folder(path, frames, name="img_{}.png"):
    path.mkdir()
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(path / name.format(number))
    return path


def test_a_folder_of_frames_is_in_the_order_of_its_numbers(tmp_path):
    frames = pictures(12)
    folder = make_folder(tmp_path / "#1 (a)", frames)
    for other in ("notes.txt", ".hidden.png"):
        (folder / other).touch()
    Image.new("RGB", (64, 48)).save(folder / "flow_x_1.png")
    with open_video(folder) as clip:
        assert len(clip) == 12 and np.array_equal(clip.read([11, 0, 1, 9, 9]), frames[[11, 0, 1, 9, 9]])
        assert clip.decoded == 4
    with open_video(folder, num_frames=5) as clip:
        assert len(clip) == 5


def test_a_folder_that_is_no_clip_is_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert_named(tmp_path, "is a folder without images")
    folder = make_folder(tmp_path / "clip", pictures(2))
    assert_named(folder, "has 2 frames where its list says 3", lambda path: open_video(path, 3))
    (folder / "img_1.png").write_bytes((folder / "img_1.png").read_bytes()[:60])
    assert_named(folder, "img_1.png")


def test_an_array_is_a_clip(tmp_path):
    frames = pictures(4)
    for number, save in enumerate((np.savez, np.savez_compressed)):
        save(tmp_path / f"{number}.npz", frames=frames)
        with open_video(tmp_path / f"{number}.npz") as clip:
            assert len(clip) == 4 and np.array_equal(clip.read([3, 0, 0]), frames[[3, 0, 0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 4, 4, 3))}, r"holds float64 \[2, 4, 4, 3\], expected"),
        ({"a": np.zeros((4, 4, 3), np.uint8)}, r"holds uint8 \[4, 4, 3\]"),
        ({"a": np.zeros((2, 3, 4, 4), np.uint8)}, r"holds uint8 \[2, 3, 4, 4\]"),
        ({"a": np.zeros((0, 4, 4, 3), np.uint8)}, "has no frame"),
        ({"a": np.zeros(1, np.uint8), "b": np.zeros(1)}, "holds 2 arrays"),
        ({}, "holds 0 arrays"),
        ({"a": np.array([{}])}, "damaged or no .npz file"),
    ],
)
def test_an_array_of_another_kind_is_named(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    assert_named(tmp_path / "a.npz", message)


def test_a_damaged_array_is_named(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", pictures(4))
    content = (tmp_path / "a.npz").read_bytes()
    for damaged in (content[:-300], b"text", content[:200] + b"\xff" * 200 + content[400:]):
        (tmp_path / "a.npz").write_bytes(damaged)
        assert_named(tmp_path / "a.npz", "damaged or no .npz file")
