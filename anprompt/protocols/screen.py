"""What the user sees while jobs run: a line per event and, on a terminal, a table below them that is redrawn."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from tabulate import tabulate

from anprompt.protocols.scheduling import Progress, Schedule, clock

HEADER = ("done", "running", "failed", "waiting", "time left")


class Screen:
    """Args:
    stream: a terminal, or a file, which gets the events only.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self.drawn = 0  # lines of the table on the terminal
        self.schedule: Schedule | None = None  # known when the first event is

    def event(self, one: Progress, text: str) -> None:
        """Say what has happened to a job; in a file, also where everything stands."""
        if self.live and one.state == "running":
            return  # the table shows it
        self.erase()
        standing = "" if self.live or self.schedule is None else f" [{self.standing()}]"
        print(f"{one.job.name}: {text}{standing}", file=self.stream, flush=True)

    def standing(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in zip(HEADER, self.numbers(), strict=True))

    def numbers(self) -> list[str]:
        assert self.schedule is not None
        groups = (("done", "skipped"), ("running",), ("failed", "not run"), ("waiting",))
        left = self.schedule.seconds_left()
        return [*(str(len(self.schedule.of(*states))) for states in groups), "?" if left is None else clock(left)]

    def redraw(self) -> None:
        """Draw the table anew, no larger than the terminal."""
        if not self.live or self.schedule is None:
            return
        self.erase()
        width, height = shutil.get_terminal_size()
        now = time.monotonic()
        running = [f"  {clock(now - one.started)}  {one.job.name}" for one in self.schedule.of("running")]
        table = tabulate([self.numbers()], headers=HEADER, disable_numparse=True, stralign="right").splitlines()
        lines = [line[: width - 1] for line in ["", *table, *running]][: height - 1]
        print(*lines, sep="\n", file=self.stream, flush=True)
        self.drawn = len(lines)

    def erase(self) -> None:
        """Take the table off the terminal."""
        if self.drawn:
            print(f"\033[{self.drawn}A\033[J", end="", file=self.stream)
        self.drawn = 0
