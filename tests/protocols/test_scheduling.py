"""Scheduling with an executor that only pretends: order, slots, failures, second attempts, reports."""

import io
from pathlib import Path

import pytest

from anprompt.protocols.executors import log_path
from anprompt.protocols.plan import Job
from anprompt.protocols.scheduling import Schedule, clock, failures, last_lines
from anprompt.protocols.screen import Screen


class Pretender:
    """Every job takes two polls; ``statuses``: by dataset, of each attempt."""

    def __init__(self, slots=1, **statuses):
        self.slots, self.statuses, self.log, self.most = slots, {k: list(v) for k, v in statuses.items()}, [], 0
        self.alive, self.stopped = set(), []

    def start(self, job, slot):
        self.log.append(job.dataset)
        self.alive.add(job.dataset)
        self.most = max(self.most, len(self.alive))
        return Pretended(self, job.dataset, self.statuses.get(job.dataset, [0]).pop(0))


class Pretended:
    def __init__(self, owner, name, status):
        self.owner, self.name, self.status, self.polls = owner, name, status, 0

    def poll(self):
        self.polls += 1
        if self.polls < 2:
            return None
        if isinstance(self.status, BaseException):
            raise self.status
        self.owner.alive.discard(self.name)
        return self.status

    def stop(self):
        self.owner.stopped.append(self.name)


def job(name, needs=None, out="/out"):
    call = ["--output-dir", f"{out}/{name}/seed1"]
    return Job("T", name, "seed 1", ["true"], {"OUTPUT": out}, needs, [call])


def schedule(jobs, executor, finished=(), events=None):
    one = Schedule(
        jobs,
        executor,
        lambda job: job.dataset in finished,
        lambda progress, text: events.append(f"{progress.job.dataset} {text}") if events is not None else None,
    )
    one.run(poll=0)
    return one


def states(one):
    return {progress.job.dataset: progress.state for progress in one.progress.values()}


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_more_jobs_than_slots_and_all_in_order(slots):
    executor = Pretender(slots)
    one = schedule([job(name) for name in "abcd"], executor)
    assert executor.log == list("abcd")
    assert executor.most == min(slots, 4)
    assert set(states(one).values()) == {"done"}


def test_what_had_finished_is_not_started():
    executor = Pretender()
    assert states(schedule([job("a"), job("b")], executor, finished="a")) == {"a": "skipped", "b": "done"}
    assert executor.log == ["b"]


def test_tests_wait_for_their_training():
    train = job("train")
    executor = Pretender(3)
    schedule([train, job("x", train), job("y", train), job("other")], executor)
    assert executor.log == ["train", "other", "x", "y"]


def test_a_finished_training_lets_its_tests_start():
    train = job("train")
    executor = Pretender()
    schedule([train, job("x", train)], executor, finished=["train"])
    assert executor.log == ["x"]


def test_one_failure_stops_only_what_needs_it():
    train = job("train")
    executor = Pretender(train=[2])
    one = schedule([train, job("x", train), job("b")], executor)
    assert states(one) == {"train": "failed", "x": "not run", "b": "done"}


@pytest.mark.parametrize("status", [-9, 137])
def test_a_killed_job_gets_one_more_attempt(status):
    executor, events = Pretender(a=[status, 0], b=[status, status]), []
    assert states(schedule([job("a"), job("b")], executor, events=events)) == {"a": "done", "b": "failed"}
    assert executor.log == ["a", "a", "b", "b"]
    assert "a was killed, goes on later" in events


def test_a_job_that_cannot_start_is_a_failure():
    class Blocked(Pretender):
        def start(self, job, slot):
            if job.dataset == "a":
                raise BlockingIOError("another process is at work on it")
            return super().start(job, slot)

    one = schedule([job("a"), job("b")], Blocked())
    assert states(one) == {"a": "failed", "b": "done"}
    assert failures(one)[0].lines == ["another process is at work on it"]


def test_an_interrupt_stops_what_runs():
    executor = Pretender(2, a=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        schedule([job("a"), job("b"), job("c")], executor)
    assert executor.stopped == ["a", "b"] and executor.log == ["a", "b"]


def test_time_left_is_the_mean_of_the_finished_for_the_rest():
    one = Schedule([job(name) for name in "abcd"], Pretender(2), lambda job: False, lambda *_: None)
    assert one.seconds_left() is None
    for progress, seconds in zip(list(one.progress.values())[:2], (10, 30), strict=True):
        progress.state, progress.seconds = "done", seconds
    assert one.seconds_left() == 20 * 2 / 2
    assert clock(3725) == "1:02:05"


# ---------------------------------------------------------------------------------------------- reports


def test_failures_of_one_cause_are_reported_together(tmp_path):
    jobs = [job(name, out=str(tmp_path)) for name in "abc"]
    for one, text in zip(jobs, ("start\nerror: no data\n", "error: no data\n", "error: other\n"), strict=True):
        log_path(one).parent.mkdir(parents=True)
        log_path(one).write_text(text)
    found = failures(schedule(jobs, Pretender(a=[2], b=[2], c=[2])))
    assert [(failure.names, failure.lines) for failure in found] == [
        (["T on a, seed 1", "T on b, seed 1"], ["start", "error: no data"]),
        (["T on c, seed 1"], ["error: other"]),
    ]


def test_last_lines_are_those_that_a_terminal_shows(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"1\n2\n3\n4\n5\n\nevaluating: 0%\revaluating: 100%\r\nerror: \xff no\n")
    assert last_lines(log) == ["3", "4", "5", "evaluating: 100%", "error: \N{REPLACEMENT CHARACTER} no"]
    assert last_lines(Path(tmp_path / "none")) == []


def test_a_file_gets_events_with_where_everything_stands():
    stream = io.StringIO()
    screen = Screen(stream)
    screen.schedule = Schedule([job("a"), job("b")], Pretender(b=[2]), lambda job: False, screen.event)
    screen.schedule.run(screen.redraw, poll=0)
    first, second, *_, last = stream.getvalue().splitlines()
    assert first == "T on a, seed 1: started [done 0, running 1, failed 0, waiting 1, time left ?]"
    assert second == "T on a, seed 1: done in 0:00:00 [done 1, running 0, failed 0, waiting 1, time left 0:00:00]"
    assert last.startswith("T on b, seed 1: failed after 0:00:00 [done 1, running 0, failed 1, waiting 0,")
    assert "\033" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_is_taken_off_in_the_end(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    screen = Screen(stream)
    screen.schedule = Schedule([job(name) for name in "ab"], Pretender(2), lambda job: False, screen.event)
    screen.schedule.run(screen.redraw, poll=0)
    screen.close()
    drawn = [line.strip() for line in stream.getvalue().replace("\n", "\r").split("\r")]
    bars = [line.split(" |")[0] for line in drawn if " |" in line]
    assert "done 0, running 2, failed 0, waiting 0, time left ?" in bars
    assert bars[-1] == "done 2, running 0, failed 0, waiting 0, time left 0:00:00"
    assert [line for line in drawn if line.endswith(("started", "done in 0:00:00"))] == [
        "T on a, seed 1: started",
        "T on b, seed 1: started",
        "T on a, seed 1: done in 0:00:00",
        "T on b, seed 1: done in 0:00:00",
    ]
    assert drawn[-1] == ""
