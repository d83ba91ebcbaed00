"""Run a script: its calls of ``train.py`` one after the other, then its reports. No signal leaves a process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from anprompt.protocols.scripts import Call, Script, no_results
from anprompt.runs.run_folder import RESULTS

PATIENCE = 2  # seconds that an interrupted process gets before it is interrupted by us, too


def work(script: Script, call: Call) -> int:
    """Run everything, or print the calls where DRY_RUN is set; the exit status.

    Raises:
        ValueError: a run has left no results to report.
    """
    if call.dry:
        for words in script.calls:
            print(*train_py(call), *words, sep="\t", end="\t\n")
        return 0
    for words in script.calls:
        if status := run([*train_py(call), *words], {**os.environ, **script.environment_of(words)}):
            return status
    for folders in script.reports:
        if not (folders[0] / RESULTS).is_file():
            raise ValueError(no_results(folders[0]))
        report = [call.python, str(call.repository / "parse_test_res.py"), "--exact", *map(str, folders)]
        if status := run(report, {**os.environ, **script.environment}):
            return status
    return 0


def train_py(call: Call) -> list[str]:
    """How a process with ``train.py`` is started."""
    processes = call.variable("NPROC") or "1"
    shared = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return [call.python, *(shared if processes != "1" else []), str(call.repository / "train.py")]


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a process to its end; its exit status as a shell gives it, 128 and more after a signal.

    TERM and HUP go to the process. Ctrl-C reaches it without our help; ``kill -INT`` of this process does not, so it is
    passed on where it shows no effect.
    """
    received: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process:
            process.send_signal(number)

    with on_signals(("SIGTERM", "SIGHUP"), pass_on):
        process = subprocess.Popen(command, env=dict(environment))
        if received:  # while it was started
            process.send_signal(received[0])
        try:
            status = process.wait()
        except KeyboardInterrupt:
            status = wait_for_interrupted(process)
    if received:
        return 128 + received[0]
    return status if status >= 0 else 128 - status


def wait_for_interrupted(process: subprocess.Popen) -> int:
    """Exit status of a process that was perhaps interrupted; a second Ctrl-C kills it."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        return process.wait()
    except KeyboardInterrupt:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def on_signals(names: Sequence[str], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Let ``handler`` answer signals; those that are ignored, as HUP under ``nohup``, stay ignored."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no HUP
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """INT, TERM and HUP raise KeyboardInterrupt here, the first of them only: nothing keeps its answer from being given
    to the end.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    with on_signals(("SIGINT", "SIGTERM", "SIGHUP"), interrupt):
        yield
