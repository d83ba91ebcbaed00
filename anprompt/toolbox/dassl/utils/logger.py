"""A log file that receives everything printed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from dassl.utils.tools import mkdir_if_missing


class Logger:
    """A stream that writes to the present ``sys.stdout`` and to a file.

    The file is UTF-8 and complete up to the last finished line at any time, so that nothing is lost when the process
    is killed. The console is never closed, and everything else that a stream offers (``isatty``, ``fileno``, ...) is
    the console's.

    Args:
        fpath: the log file, overwritten; None: the console only.
    """

    def __init__(self, fpath: str | None = None) -> None:
        self.console: TextIO = sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            # buffering=1: flushed at every line end
            self.file = Path(fpath).open(  # noqa: SIM115  (open for the whole run)
                "w", encoding="utf-8", errors="backslashreplace", buffering=1
            )

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name == "console":  # half-built, as while being copied
            raise AttributeError(name)
        return getattr(self.console, name)

    def write(self, msg: str) -> int:
        with self._console_may_be_gone():
            self.console.write(msg)
        if self.file is not None:
            self.file.write(msg)
        return len(msg)

    def flush(self) -> None:
        with self._console_may_be_gone():
            self.console.flush()
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())

    def _console_may_be_gone(self) -> contextlib.AbstractContextManager:
        """What nobody can look at any more (``| head``, a full disk) ends no run whose log has it all."""
        return contextlib.nullcontext() if self.file is None else contextlib.suppress(OSError)

    def close(self) -> None:
        """Close the file; what is written afterwards goes to the console only."""
        if self.file is not None:
            self.file.close()
            self.file = None


def setup_logger(output: str | None = None) -> None:
    """From now on, also write what is printed to a log file. Standard error (progress bars, warnings) is not logged.

    Args:
        output: a path ending in ``.txt`` or ``.log``, or the folder of ``log.txt``; None: no log. An existing file
            is kept: the new one gets the time as suffix. A second call ends the log of the first.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    if isinstance(sys.stdout, Logger):
        previous, sys.stdout = sys.stdout, sys.stdout.console
        previous.close()
    sys.stdout = Logger(fpath)
