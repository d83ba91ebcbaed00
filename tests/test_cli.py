"""``python -m anprompt``: commands are found, and end with one line and a status."""

import pytest

import anprompt.commands.table
from anprompt.cli import build_parser, main


def test_modules_of_the_commands_folder_are_commands():
    assert "table" in build_parser().format_help()


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("what is wrong"), 2, "error: what is wrong\n"),
        (PermissionError("not yours"), 2, "error: not yours\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_how_a_command_ends(monkeypatch, capsys, error, status, line):
    def fail(args):
        raise error

    monkeypatch.setattr(anprompt.commands.table, "run", fail)
    assert main(["table", "."]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("arguments", [[], ["tabel"], ["table"], ["table", ".", "--format", "html"]])
def test_mistyped_commands(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m anprompt" in capsys.readouterr().err
