"""What the user sees while jobs run: a line per event and, on a terminal, a bar below them."""

from __future__ import annotations

from typing import TextIO

from tqdm import tqdm

from anprompt.protocols.scheduling import Progress, Schedule, clock


class Screen:
    """Args:
    stream: a terminal, or a file, which gets the events only.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.schedule: Schedule | None = None  # known when the first event is
        # No time left of its own: to tqdm, a run that had finished before is one that took no time.
        self.bar = tqdm(file=stream, disable=not stream.isatty(), bar_format="{desc} |{bar}|", leave=False)

    def event(self, one: Progress, text: str) -> None:
        """Say what has happened to a job; in a file, also where everything stands."""
        standing = f" [{self.standing()}]" if self.bar.disable else ""
        self.bar.write(f"{one.job.name}: {text}{standing}", file=self.stream)
        self.stream.flush()

    def standing(self) -> str:
        assert self.schedule is not None
        left = self.schedule.seconds_left()
        groups = {
            "done": ("done", "skipped"), "running": ("running",), "failed": ("failed", "not run"),
            "waiting": ("waiting",),
        }  # fmt: skip
        counts = [f"{name} {len(self.schedule.of(*states))}" for name, states in groups.items()]
        return f"{', '.join(counts)}, time left {'?' if left is None else clock(left)}"

    def redraw(self) -> None:
        assert self.schedule is not None
        self.bar.total = len(self.schedule.progress)
        self.bar.n = self.bar.total - len(self.schedule.of("waiting", "running"))
        self.bar.set_description_str(self.standing())  # draws it

    def close(self) -> None:
        """Take the bar off the terminal."""
        self.bar.close()
