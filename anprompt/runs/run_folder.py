"""What the output folder holds of an earlier run: its result, a training to continue, or something to be left alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from anprompt.utils.config import differences
from anprompt.utils.files import locked, require_file

CONFIG = "config.json"  # written when a run starts
RESULTS = "results.json"  # written when it has finished
LOCK = ".run.lock"  # there while a run is at work


def alone(cfg: CfgNode) -> AbstractContextManager[None]:
    """Entered while a run writes to the output folder; BlockingIOError where another one does."""
    busy = f"another run is at work in {cfg.OUTPUT_DIR}: wait for its end, or choose another output folder"
    return locked(Path(cfg.OUTPUT_DIR, LOCK), busy)


def stored_result(cfg: CfgNode, args: argparse.Namespace) -> str | None:
    """Result line of a finished run with this config in the output folder, and notes, a line each, on what it does not
    share with a new run; None where there is work to do.

    Args:
        args: the command line of ``train.py``.

    Raises:
        ValueError: the folder holds a run, finished or not, with another config, or a finished one with other weights,
            data, sentences or prompts to start from (:mod:`anprompt.runs.inputs`); or its result is damaged.
    """
    results, stored = earlier_run(cfg)
    if stored:
        refuse_mixture(cfg, "a finished run" if results else "an unfinished run", differences(stored, cfg))
    if not results or tests_newer_model(cfg, args):
        return None
    from anprompt.runs.inputs import changed_inputs  # takes seconds, which who reads results need not wait

    try:
        line = (
            f"already finished: {results['trainer']} on {results['dataset']} ({results['classes']} classes, "
            f"seed {results['seed']}, {results['split']}): {results['accuracy']:.2f} % "
            f"({results['correct']:,} of {results['total']:,})"
        )
        changes = changed_inputs(cfg, results, args.eval_only)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        path = Path(cfg.OUTPUT_DIR, RESULTS)
        raise ValueError(f"{path} is no whole result ({type(error).__name__}: {error}): remove it") from error
    refuse_mixture(cfg, "a finished run", changes.found, "other inputs")
    return "\n".join([line, *changes.notes])


def check_replaced(cfg: CfgNode) -> None:
    """A test does not write over what the output folder holds of a run with another config.

    Raises:
        ValueError: it would.
    """
    results, stored = earlier_run(cfg)
    if stored:
        refuse_mixture(cfg, "the results of a run" if results else "a run", differences(stored, cfg))


def check_continuation(cfg: CfgNode) -> None:
    """A training that continues the one in the output folder has the same config; only ``MAX_EPOCH`` may grow.

    Raises:
        ValueError: it would mix two configs in one folder.
    """
    stored = started_config(Path(cfg.OUTPUT_DIR))
    if not stored:
        return
    longer = stored.get("OPTIM", {}).get("MAX_EPOCH", 0) < cfg.OPTIM.MAX_EPOCH
    changed = [line for line in differences(stored, cfg) if not (longer and line.startswith("OPTIM.MAX_EPOCH "))]
    refuse_mixture(cfg, "a run", changed)


def refuse_mixture(cfg: CfgNode, what: str, changed: Sequence[str], kind: str = "another config") -> None:
    """Raise a ValueError if anything ``changed`` since the run that the output folder holds."""
    if changed:
        raise ValueError(
            f"{cfg.OUTPUT_DIR} holds {what} with {kind}: {'; '.join(changed)} (stored -> now). "
            "Give the same values again, choose another output folder, or remove this one."
        )


def earlier_run(cfg: CfgNode) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results and config of the run that the output folder holds, each ``{}`` where there is none."""
    results = read_json(Path(cfg.OUTPUT_DIR, RESULTS))
    return results, results.get("config") or started_config(Path(cfg.OUTPUT_DIR))


def started_config(folder: Path) -> dict[str, Any]:
    """Config of an interrupted run that would be continued; ``{}`` where there is no checkpoint."""
    return read_json(folder / CONFIG) if any(folder.glob("*/checkpoint")) else {}


def tests_newer_model(cfg: CfgNode, args: argparse.Namespace) -> bool:
    """Whether the model to test was trained after the stored result."""
    if not (args.eval_only and args.model_dir):
        return False
    written = [file.stat().st_mtime for file in Path(args.model_dir).glob("*/model*.pth.tar*")]
    return bool(written) and max(written) > Path(cfg.OUTPUT_DIR, RESULTS).stat().st_mtime


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, ``{}`` where there is none."""
    require_file(path, "the record of a run")
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot read {path} ({error}): remove it") from error
    if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
        raise ValueError(f"cannot read {path} (it is not the result of a run): remove it")
    return content
