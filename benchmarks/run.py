"""Where the seconds of a whole run go, from starting Python to the last test image.

    python -m benchmarks.run                                        # ANPrompt, Shapes, the tiny CLIP, 2 epochs
    python -m benchmarks.run --output run.json -- --config-file configs/trainers/ANPrompt/tiny.yaml OPTIM.MAX_EPOCH 5

What follows ``--`` goes to ``train.py`` behind the default flags. Each second belongs to the innermost phase it was
spent in; the run is a fresh process with a fresh output folder. It takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULTS = [
    "--trainer", "ANPrompt", "--seed", "1", "--dataset-config-file", "configs/datasets/shapes.yaml",
    "--config-file", "configs/trainers/ANPrompt/tiny.yaml",
]  # fmt: skip
OVERRIDES = ["DATASET.NUM_SHOTS", "16", "OPTIM.MAX_EPOCH", "2"]
REST = "everything else"


class Phases:
    """Seconds by phase. Phases nest; the inner one's time is not the outer one's."""

    def __init__(self, started: float):
        self.seconds: dict[str, float] = {}
        self.open = [REST]
        self.since = started

    def switch(self) -> None:
        """Book the time since the last switch on the phase that is open."""
        now = time.time()
        self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Let ``owner.name`` run as ``phase`` from now on."""
        original: Callable[..., Any] = getattr(owner, name)

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.open.append(phase)
            try:
                return original(*args, **kwargs)
            finally:
                self.switch()
                self.open.pop()

        setattr(owner, name, watched)


def run_watched(started: float, report: str, arguments: list[str]) -> int:
    """In the child: train, and write the phases. ``started`` is when the parent called, in seconds since the epoch."""
    phases = Phases(started)
    phases.open = ["start of Python, imports"]
    import anprompt.engine.trainer
    import train
    from anprompt.commands import train as command
    from dassl.engine.trainer import SimpleTrainer
    from trainers.anprompt import ANPrompt

    phases.switch()
    phases.open = [REST]
    phases.watch(command, "setup_cfg", "config, imports of all trainers and data sets")
    phases.watch(command, "collect_env_info", "environment report")
    phases.watch(SimpleTrainer, "build_data_loader", "data set (Shapes is drawn if it is not there)")
    phases.watch(anprompt.engine.trainer, "load_clip_once", "weights")
    phases.watch(anprompt.engine.trainer.PromptTrainer, "build_model", "model and classes")
    phases.watch(ANPrompt, "build_noise", "noise")
    phases.watch(anprompt.engine.trainer.PromptTrainer, "run_epoch", "training")
    phases.watch(anprompt.engine.trainer.PromptTrainer, "save_model", "checkpoints")
    phases.watch(anprompt.engine.trainer.PromptTrainer, "test", "evaluation")
    status = train.main(arguments)
    phases.switch()
    Path(report).write_text(json.dumps(phases.seconds), encoding="utf-8")
    return status


CHILD = """
import sys
from benchmarks.run import run_watched
status = run_watched(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
from anprompt.commands.train import leave
leave(status)
"""


def measure_run(root: str, folder: str, extra: Sequence[str]) -> dict[str, float]:
    """Seconds by phase of one run of ``train.py`` in a fresh process, its end included."""
    report = Path(folder, "phases.json")
    flags = ["--root", root, "--output-dir", str(Path(folder, "output"))]
    arguments = [*DEFAULTS, *flags, *in_order(extra)]
    started = time.time()
    command = [sys.executable, "-c", CHILD, str(started), str(report), *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    total = time.time() - started
    if done.returncode:
        raise SystemExit(f"error: the run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seconds = json.loads(report.read_text(encoding="utf-8"))
    return {**seconds, "end of Python": total - sum(seconds.values())}


def in_order(extra: Sequence[str]) -> list[str]:
    """Flags, then the default overrides, then the user's, which win."""
    pairs = next((place for place, word in enumerate(extra) if "." in word and word.isupper()), len(extra))
    return [*extra[:pairs], *OVERRIDES, *extra[pairs:]]


def main(argv: Sequence[str] | None = None) -> int:
    from benchmarks import measure
    from benchmarks.report import run_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the data sets (default: a temporary one, where Shapes is drawn)")
    measure.add_output_options(parser)
    parser.add_argument("extra", nargs="*", help="more arguments of train.py, behind --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure_run(str(Path(args.root or folder).resolve()), folder, args.extra)
    result = measure.result_of("run", argv, phases=seconds, total=sum(seconds.values()))
    measure.hand_over(result, args, run_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
