"""Names as they may be printed: nothing in them acts on a terminal, all else stays."""

import pytest

from anprompt.utils.text import printable, printable_lines


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2Jcat", r"\x1b[2Jcat"),  # clears the screen
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31mred", r"\x9b31mred"),  # the same in one byte
        ("good\rbad", r"good\rbad"),
        ("one\ntwo\ttabs", r"one\ntwo\ttabs"),
        ("a\x7f\x08b", r"a\x7f\x08b"),
        ("gnp\u202e.exe", r"gnp\u202e.exe"),  # turns the direction
        ("a\u2028b", r"a\u2028b"),
        ("caf\udce9", r"caf\udce9"),  # a byte that is no UTF-8
    ],
)
def test_what_would_act_on_a_terminal_is_shown_as_escapes(name, shown):
    assert printable(name) == shown
    printable(name).encode()


@pytest.mark.parametrize("name", ["", "red fox", "Brüssel", "日本", "می‌خواهم", "👩‍👧", "C:\\new", "a'b\"c"])
def test_other_names_stay(name):
    assert printable(name) == name


def test_lines_of_ours_stay_lines():
    assert printable_lines("one\ntwo \x1b[1m\n") == "one\ntwo \\x1b[1m\n"
    assert printable(ValueError("\a")) == r"\x07"
