"""Whether a job has nothing left to do: what ``train.py --skip-finished`` would say, without starting a process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from anprompt.protocols.plan import Job
from anprompt.runs.run_folder import RESULTS


class FinishedCheck:
    """Asks the checkout's own ``train.py``, which is imported when there is a result to look at.

    Args:
        repository: the checkout.
    """

    def __init__(self, repository: Path):
        self.repository = repository

    def __call__(self, job: Job) -> bool:
        """True where every run has a result of the same config and inputs. What is wrong, it will tell."""
        if not all((folder / RESULTS).is_file() for folder in job.folders()):
            return False
        if str(self.repository) not in sys.path:
            sys.path.insert(0, str(self.repository))
        train = importlib.import_module("train")
        return all(train.is_finished(run) for run in job.runs())
