"""Run jobs side by side: what has finished is skipped, what fails stops nothing but the tests that need it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.protocols.executors import Executor, Running, log_path
from anprompt.protocols.plan import Job

POLL = 0.5  # seconds
ATTEMPTS = 2  # a run that was killed (memory, pre-emption, a node that died) gets another one, and resumes
LAST_LINES = 5
UNFINISHED = ("waiting", "running")


@dataclass
class Progress:
    """A job's state: waiting, running, done, skipped (had finished before), failed, or not run (needs a failed one)."""

    job: Job
    state: str = "waiting"
    started: float = 0.0  # on the scheduler's clock
    seconds: float = 0.0  # that it took
    attempts: int = 0
    reason: str = ""  # why it could not even start
    running: Running | None = None
    slot: int = 0


Report = Callable[[Progress, str], None]  # what has happened to a job


class Schedule:
    """The jobs of one command.

    Args:
        jobs: in the order in which they start; a job comes after the one that it needs.
        executor: where they run.
        finished: whether a job has nothing left to do; asked when nothing but a free slot is missing.
        report: told of everything that happens to a job.
    """

    def __init__(
        self, jobs: Sequence[Job], executor: Executor, finished: Callable[[Job], bool], report: Report
    ) -> None:
        self.executor, self.finished, self.report = executor, finished, report
        self.progress = {job: Progress(job) for job in jobs}
        self.checked: set[Job] = set()

    def of(self, *states: str) -> list[Progress]:
        return [one for one in self.progress.values() if one.state in states]

    def run(self, redraw: Callable[[], None] = lambda: None, poll: float = POLL) -> None:
        """Work until nothing is left. Whatever interrupts it stops the running jobs first; all of them can resume."""
        try:
            while self.of(*UNFINISHED):
                self.collect()
                self.settle()
                self.fill()
                redraw()
                if self.of("running"):
                    time.sleep(poll)
        except BaseException:
            for one in self.of("running"):
                if one.running:
                    one.running.stop()
            raise

    def settle(self) -> None:
        """Take out what needs no process: jobs that had finished, and tests whose training has failed."""
        for one in self.of("waiting"):
            need = self.progress[one.job.needs] if one.job.needs else None
            if need and need.state in ("failed", "not run"):
                self.change(one, "not run", f"not run: it needs {need.job.name}")
            elif one.job not in self.checked and (need is None or need.state in ("done", "skipped")):
                self.checked.add(one.job)
                if self.finished(one.job):
                    self.change(one, "skipped", "had finished before")

    def fill(self) -> None:
        """Start jobs while slots are free."""
        free = sorted(set(range(self.executor.slots)) - {one.slot for one in self.of("running")})
        ready = [one for one in self.of("waiting") if one.job in self.checked]
        for slot, one in zip(free, ready, strict=False):
            one.slot, one.started, one.attempts = slot, time.monotonic(), one.attempts + 1
            try:
                one.running = self.executor.start(one.job, slot)
            except OSError as error:
                one.reason = str(error)
                self.change(one, "failed", f"cannot start: {error}")
            else:
                self.change(one, "running", "started")

    def collect(self) -> None:
        """Look at the running jobs."""
        for one in self.of("running"):
            status = one.running.poll() if one.running else None
            if status is None:
                continue
            one.seconds, one.running = time.monotonic() - one.started, None
            if status == 0:
                self.change(one, "done", f"done in {clock(one.seconds)}")
            elif was_killed(status) and one.attempts < ATTEMPTS:
                self.change(one, "waiting", "was killed, goes on later")
            else:
                self.change(one, "failed", f"failed after {clock(one.seconds)}")

    def change(self, one: Progress, state: str, event: str) -> None:
        one.state = state
        self.report(one, event)

    def seconds_left(self) -> float | None:
        """From the mean of the finished jobs; None before there is one."""
        durations = [one.seconds for one in self.of("done")]
        if not durations:
            return None
        mean = sum(durations) / len(durations)
        running = (max(0.0, mean - (time.monotonic() - one.started)) for one in self.of("running"))
        return (mean * len(self.of("waiting")) + sum(running)) / self.executor.slots


def was_killed(status: int) -> bool:
    return status < 0 or status > 128


def clock(seconds: float) -> str:
    """``h:mm:ss``"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


# ---------------------------------------------------------------------------------------------- failures


@dataclass
class Failure:
    """Jobs that failed for the same reason, and the last lines of the first one's log."""

    names: list[str]
    log: Path
    lines: list[str]


def failures(schedule: Schedule) -> list[Failure]:
    """Failed jobs, those whose logs end with the same line together."""
    found: dict[str, Failure] = {}
    for one in schedule.of("failed"):
        log = log_path(one.job)
        lines = [one.reason] if one.reason else last_lines(log)
        key = lines[-1] if lines else one.job.name
        found.setdefault(key, Failure([], log, lines)).names.append(one.job.name)
    return list(found.values())


def last_lines(log: Path) -> list[str]:
    """The end of a log as a terminal would show it: progress bars overwrite themselves."""
    if not log.is_file():
        return []
    text = log.read_bytes().decode("utf-8", errors="replace")
    lines = [re.split(r"\r(?!$)", line)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-LAST_LINES:]
