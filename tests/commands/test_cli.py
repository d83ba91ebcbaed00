"""``python -m anprompt``: commands are found, and end with one line and a status."""

import subprocess
import sys

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


def test_a_reader_that_stops_early_is_no_error():
    """As in ``python -m anprompt table DIR | head``."""
    code = "import anprompt.commands.table as it; it.run = lambda args: [print(i) for i in range(10**5)] and 0\n"
    code += "import sys; from anprompt.cli import main; sys.exit(main(['table', '.']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [[], ["tabel"], ["table"], ["table", ".", "--format", "html"]])
def test_mistyped_commands(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m anprompt" in capsys.readouterr().err
