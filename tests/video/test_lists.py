"""Lists of clips and of classes in every form in which they are handed out, shots of them, and leaks between them."""

import pytest

from anprompt.video.lists import Entry, draw_shots, leaks, read_labels, read_list, write_list, youtube_id

# Line, and what it says below a folder "v": the forms of the authors' lists.
LINES = {
    "a.avi 3": ("v/a.avi", 3, -1),
    "d/x 120 3": ("v/d/x", 3, 120),
    "id.mp4, 169": ("v/id.mp4", 169, -1),
    "id.mp4,169": ("v/id.mp4", 169, -1),
    "#122_a_(b)[c]&d!_+.avi 7": ("v/#122_a_(b)[c]&d!_+.avi", 7, -1),
    "v_Basketball_g01_c01.avi 0": ("v/v_Basketball_g01_c01.avi", 0, -1),
    "train/-Qz25rXdMjE_000014_000024.mp4 12": ("v/train/-Qz25rXdMjE_000014_000024.mp4", 12, -1),
    "my own clip 2.mp4 4": ("v/my own clip 2.mp4", 4, -1),
    "a, b.avi 5": ("v/a, b.avi", 5, -1),
    "caf\u00e9\u2028.avi\t6": ("v/caf\u00e9\u2028.avi", 6, -1),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_all_forms_of_lines_are_read(end, last, tmp_path):
    text = end.join(LINES) + (end if last else "")
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert read_list(tmp_path / "list.txt", "v") == [Entry(*fields) for fields in LINES.values()]


def test_a_mark_of_utf8_and_empty_lines_are_no_entries(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.avi 3\r\n\r\n  \nb.avi 4")
    assert read_list(tmp_path / "list.txt", "") == [Entry("a.avi", 3), Entry("b.avi", 4)]
    (tmp_path / "list.txt").write_bytes(b"")  # the authors' list of anchors
    assert read_list(tmp_path / "list.txt", "") == []


@pytest.mark.parametrize("line", ["a.avi", "a.avi -1", "a.avi three", "3", "a.avi 3 x", "a.avi 1.5", "a\0.avi 3"])
def test_a_line_of_another_form_is_named(line, tmp_path):
    (tmp_path / "list.txt").write_text(f"a.avi 0\n{line}\nb.avi 0\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 2: expected") as error:
        read_list(tmp_path / "list.txt", "")
    assert "\n" not in str(error.value)


def test_a_list_that_is_none_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe a 3\n")
    with pytest.raises(ValueError, match=r"list\.txt is not UTF-8"):
        read_list(tmp_path / "list.txt", "")
    with pytest.raises(ValueError, match="is a folder"):
        read_list(tmp_path, "")
    with pytest.raises(FileNotFoundError, match="other"):
        read_list(tmp_path / "other.txt", "")


def test_what_is_written_is_read_as_the_same(tmp_path):
    entries = [Entry(str(tmp_path / path), label, frames) for path, label, frames in LINES.values()]
    write_list(tmp_path / "list.txt", entries, tmp_path)
    assert read_list(tmp_path / "list.txt", tmp_path) == entries
    assert (tmp_path / "list.txt").read_bytes().count(b"\n") == len(entries)


@pytest.mark.parametrize("name", ["a\nb.avi", "clip 12", " a.avi", "a ", "a,"])
def test_a_name_that_no_line_gives_back_is_not_written(name, tmp_path):
    with pytest.raises(ValueError, match="rename"):
        write_list(tmp_path / "list.txt", [Entry(str(tmp_path / name), 3)], tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- shots


def test_shots_are_so_many_of_each_class_and_decided_by_the_seed():
    entries = [Entry(f"{index}.avi", index % 3) for index in range(60)] + [Entry("only.avi", 3)]
    drawn = draw_shots(entries, 16, seed=1)
    assert [entry.label for entry in drawn] == [0] * 16 + [1] * 16 + [2] * 16 + [3]
    assert len(set(drawn)) == len(drawn) and set(drawn) <= set(entries)
    assert draw_shots(entries, 16, seed=1) == drawn
    assert draw_shots(entries, 16, seed=2) != drawn
    assert draw_shots([], 16, seed=1) == []


# ---------------------------------------------------------------------------------------------- classes


def labels(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text.encode())
    return read_labels(tmp_path / "labels.csv")


def test_classes_in_order_of_their_ids_with_quoted_commas(tmp_path):
    text = 'id,name\r\n1,"Moving something, then something"\r\n0,brush_hair\r\n2,"A ""quoted"" name"'
    expected = ["brush_hair", "Moving something, then something", 'A "quoted" name']
    assert labels(tmp_path, text) == expected
    assert labels(tmp_path, "\ufeffID, Name\n\n0, else \n") == ["else"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("0,brush_hair\n", "line 1: expected the header"),
        ("id,name\n", "no class below"),
        ("id,name\n0,a\n0,b\n", "line 3: the id 0 stands in line 2 already"),
        ("id,name\n0,a\n2,b\n", "line 3: the id 2 comes without 1"),
        ("id,name\n0,a\nx,b\n", "line 3: expected a whole number for the id, found 'x'"),
        ("id,name\n0,a\n-1,b\n", "line 3: expected a whole number"),
        ("id,name\n0,a, b\n", "line 2: expected id,name, found 3 fields"),
        ("id,name\n0\n", "line 2: expected id,name, found 1 field"),
        ("id,name\n0, \n", "line 2: the id 0 has no name"),
        ('id,name\n0,"a\n', "line 2: "),
    ],
)
def test_wrong_classes_are_named_by_their_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=rf"labels\.csv.*{message}") as error:
        labels(tmp_path, text)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- leaks

ID = "-Qz25rXdMjE"


@pytest.mark.parametrize("name", [f"{ID}.mp4", f"vol_01/{ID}_000014_000024.mp4", f"a\\b\\{ID}.webm", ID])
def test_a_clip_of_youtube_is_known_wherever_and_however_it_lies(name):
    assert youtube_id(name) == ID


@pytest.mark.parametrize(
    "name", ["v_Basketball_g01_c01.avi", "12345.webm", f"{ID}x.mp4", f"{ID}_14_24.mp4", f"{ID}/img_00001.jpg"]
)
def test_other_names_are_not_taken_for_ids_of_youtube(name):
    assert youtube_id(name) is None


def test_leaks_are_pairs_of_one_video_or_one_file():
    anchors = [f"anchors/{ID}_000001_000011.mp4", "anchors/plain.avi", "same.avi", "anchors/AAAAAAAAAAA.mp4"]
    evaluated = [f"val/{ID}_000014_000024.mkv", f"train/{ID}.mp4", "val/plain.avi", "./same.avi", "val/BBBBBBBBBBB.mp4"]
    expected = [(anchors[0], evaluated[0]), (anchors[0], evaluated[1]), (anchors[2], evaluated[3])]
    assert leaks(anchors, evaluated) == expected
    assert leaks([], evaluated) == leaks(anchors, []) == []
