"""Processes of this machine and submitit's, with commands that are no runs: logs, GPUs, locks, ends."""

import os
import shutil
import time

import pytest
import torch

from anprompt.protocols import executors
from anprompt.protocols.executors import ClusterExecutor, LocalExecutor, log_path, visible_gpus
from anprompt.protocols.plan import Job
from anprompt.protocols.scheduling import Schedule, failures, was_killed

PATIENCE = 120  # seconds


@pytest.fixture
def job(tmp_path):
    """``job(NAME, COMMAND)``: a job that runs a line of bash."""

    def job(name, command, needs=None):
        call = ["--output-dir", str(tmp_path / name / "seed1")]
        return Job("T", name, "seed 1", ["bash", "-c", command], {"OUTPUT": str(tmp_path)}, needs, [call])

    return job


@pytest.fixture(params=["local", "cluster"])
def executor(request, tmp_path):
    if request.param == "local":
        return LocalExecutor(2)
    return ClusterExecutor(2, tmp_path / "runs" / "submitit", {"timeout_min": "5", "gpus_per_node": "0"}, "local")


def wait(condition):
    deadline = time.monotonic() + PATIENCE
    while (value := condition()) is None or value is False:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def content(path):
    return path.is_file() and path.read_text().strip()


def test_a_schedule_of_processes(executor, job, tmp_path):
    good, bad = job("good", "echo fine"), job("bad", "echo broken >&2; exit 3")
    copy, never = job("copy", f"cp {log_path(good)} {tmp_path}/copied", needs=good), job("never", "true", needs=bad)
    one = Schedule([good, bad, copy, never], executor, lambda job: False, lambda *_: None)
    one.run(poll=0.05)
    assert [progress.state for progress in one.progress.values()] == ["done", "failed", "done", "not run"]
    assert (tmp_path / "copied").read_text() == "fine\n"
    assert [(failure.log, failure.lines) for failure in failures(one)] == [(log_path(bad), ["broken"])]


def test_a_killed_process_is_told_from_a_failed_one(executor, job):
    assert was_killed(wait(executor.start(job("a", "kill -9 $$"), 0).poll))
    assert not was_killed(wait(executor.start(job("b", "exit 3"), 0).poll))


def test_a_stopped_job_leaves_no_children(executor, job, tmp_path):
    running = executor.start(job("a", f"sleep 600 & echo $! >{tmp_path}/pid; wait"), 0)
    child = int(wait(lambda: content(tmp_path / "pid")))
    running.stop()
    wait(lambda: not lives(child))


def test_a_folder_at_work_is_left_alone_though_the_runner_died(job, tmp_path):
    """The lock belongs to the process that works, not to the runner which may be gone."""
    running = LocalExecutor(1).start(job("a", f"while [[ ! -e {tmp_path}/go ]]; do sleep 0.05; done; echo end"), 0)
    with pytest.raises(BlockingIOError, match="another process is at work on it"):
        LocalExecutor(1).start(job("a", "echo second"), 0)
    (tmp_path / "go").touch()
    assert wait(running.poll) == 0
    assert log_path(job("a", "")).read_text() == "end\n"
    assert wait(LocalExecutor(1).start(job("a", "echo second"), 0).poll) == 0
    assert log_path(job("a", "")).read_text() == "second\n"


def test_every_slot_has_its_gpu(job, monkeypatch):
    monkeypatch.setattr(executors, "visible_gpus", lambda: ["4", "GPU-ab"])
    assert LocalExecutor(None).slots == 2
    executor = LocalExecutor(3)
    for slot, gpu in enumerate(("4", "GPU-ab", "4")):
        assert wait(executor.start(job("a", "echo $CUDA_VISIBLE_DEVICES"), slot).poll) == 0
        assert log_path(job("a", "")).read_text() == f"{gpu}\n"


def test_without_gpus_jobs_share_the_cores(job, monkeypatch):
    monkeypatch.setattr(executors, "visible_gpus", list)
    monkeypatch.setattr(executors, "available_cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert LocalExecutor(None).slots == 1
    for slots, threads in ((2, "4"), (100, "1"), (1, "")):
        assert wait(LocalExecutor(slots).start(job("a", "echo $OMP_NUM_THREADS"), 0).poll) == 0
        assert log_path(job("a", "")).read_text() == f"{threads}\n"


@pytest.mark.parametrize(("variable", "count", "expected"), [("2,5", 2, ["2", "5"]), ("", 2, ["0", "1"]), ("1", 0, [])])
def test_gpus_are_those_that_torch_may_use(monkeypatch, variable, count, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == expected


def test_settings_of_the_cluster_go_to_slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")  # submitit looks for srun
    settings = {"partition": "gpu", "timeout_min": "30", "qos": "low"}
    parameters = ClusterExecutor(3, tmp_path, settings).executor._executor.parameters
    assert [parameters[key] for key in ("partition", "qos", "time", "gpus_per_node")] == ["gpu", "low", 30, 1]
    with pytest.raises(ValueError, match="--slurm: .*Unknown argument 'partitoin'"):
        ClusterExecutor(3, tmp_path, {"partitoin": "gpu"})
    with pytest.raises(ValueError, match='--slurm: .*"timeout_min" expected type'):
        ClusterExecutor(3, tmp_path, {"timeout_min": "soon"})
