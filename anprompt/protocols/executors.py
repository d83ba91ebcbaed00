"""Where jobs run: processes of this machine, or a Slurm cluster through submitit. Both write the job's log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from anprompt.protocols.plan import Job, environ
from anprompt.protocols.processes import on_signals
from anprompt.utils.files import take_lock

GRACE = 10  # seconds that a stopped process gets before it is killed
KILLED = -signal.SIGKILL
TIMEOUT = 24 * 60  # minutes that a cluster's job may take, unless the user says otherwise
SHARED_KEYS = (  # submitit's parameters that are not slurm_...
    "cpus_per_task", "gpus_per_node", "mem_gb", "name", "nodes", "stderr_to_stdout", "tasks_per_node", "timeout_min",
)  # fmt: skip


class Running(Protocol):
    """A started job."""

    def poll(self) -> int | None:
        """Exit status, None while it runs. Negative or above 128: it was killed."""

    def stop(self) -> None:
        """End it with all its children."""


class Executor(Protocol):
    slots: int  # jobs at the same time

    def start(self, job: Job, slot: int) -> Running:
        """Start a job on one of the ``slots``. OSError where that fails."""


# ---------------------------------------------------------------------------------------------- logs


def log_path(job: Job) -> Path:
    """``OUTPUT/runs/<what follows OUTPUT in the job's first folder>.log``"""
    output = Path(job.environment["OUTPUT"])
    return output / "runs" / f"{job.folders()[0].relative_to(output)}.log"


def open_log(path: Path) -> IO[bytes]:
    """An empty log that the process which gets it keeps locked while it or any child of it lives.

    Raises:
        BlockingIOError: a process of an earlier runner still writes it, so it also writes the run's folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    if not take_lock(log):
        log.close()
        raise BlockingIOError(f"another process is at work on it: wait for its end ({path})")
    log.truncate(0)
    return log


def launch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen:
    """Start a command in a process group of its own."""
    with open_log(log) as stream:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


# ---------------------------------------------------------------------------------------------- this machine


class LocalProcess:
    def __init__(self, process: subprocess.Popen):
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()


class LocalExecutor:
    """Processes of this machine, each with one GPU where there are any, else with its share of the cores.

    Args:
        slots: processes at the same time; None: one per visible GPU, or one.
    """

    def __init__(self, slots: int | None):
        self.gpus = visible_gpus()
        self.slots = slots or max(1, len(self.gpus))
        self.threads = max(1, available_cores() // self.slots)

    def start(self, job: Job, slot: int) -> LocalProcess:
        environment = environ(job.environment)
        if self.slots > 1:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if self.gpus and not job.environment.get("NPROC"):  # runs that processes share take several
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return LocalProcess(launch(job.command, environment, log_path(job)))


def visible_gpus() -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch  # takes seconds

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(index) for index in range(count)]


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------- a cluster


class ClusterJob:
    """A job that submitit has submitted."""

    def __init__(self, job: Any):
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        error = self.job.exception()
        return self.job.result() if error is None else KILLED

    def stop(self) -> None:
        self.job.cancel()


class ClusterExecutor:
    """Jobs of a Slurm cluster.

    Args:
        slots: jobs in the queue at the same time.
        folder: for submitit's files; all nodes see it, as they see the output.
        settings: of submitit's AutoExecutor; keys that it does not know belong to Slurm, as in ``partition``.
        cluster: slurm, or local for processes of this machine.

    Raises:
        ValueError: submitit is not installed, or does not take a setting.
    """

    def __init__(self, slots: int, folder: Path, settings: Mapping[str, str], cluster: str = "slurm"):
        try:
            import submitit
        except ImportError as error:
            raise ValueError("--executor slurm needs submitit: pip install submitit") from error
        self.slots = slots
        self.executor = submitit.AutoExecutor(folder, cluster=cluster)
        given = {key if key in SHARED_KEYS else f"slurm_{key}": as_number(text) for key, text in settings.items()}
        try:
            self.executor.update_parameters(**{"timeout_min": TIMEOUT, "gpus_per_node": 1, "name": "anprompt"} | given)
        except (AssertionError, NameError) as error:
            raise ValueError(f"--slurm: {' '.join(str(error).split())}") from error

    def start(self, job: Job, slot: int) -> ClusterJob:
        return ClusterJob(self.executor.submit(call, job.command, job.environment, log_path(job)))


def as_number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def call(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """What a node does: run the command to its end; its exit status."""
    try:
        process = launch(command, environ(environment), log)
    except BlockingIOError as error:
        print(error)
        return 2
    try:
        with on_signals(("SIGHUP",), signal.default_int_handler):  # the others are submitit's
            return process.wait()
    except BaseException:
        LocalProcess(process).stop()
        raise
