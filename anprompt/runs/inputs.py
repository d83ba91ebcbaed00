"""What a run reads besides its config: the weights file, the data lists and the description sentences.

Checkpoints and ``results.json`` keep their digests, so that a run is not taken for one of other weights or data.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from yacs.config import CfgNode

from anprompt.clip.backbone import digest_of_weights
from anprompt.prompts.noise import noise_banks
from anprompt.runs.results import subset_digest
from anprompt.utils.rng import kept_generators
from dassl.data.datasets import build_dataset
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import set_random_seed

LISTS = {"train": "train_x", "unlabelled": "train_u", "val": "val", "test": "test"}  # name here: name in Dassl
DIGEST = "_sha256"  # ends the names of digests in the state of a method
NOT_THERE = (ValueError, OSError, AssertionError, ImportError)  # weights or data that this machine has not


class Changes:
    """What differs from the stored run, and what could not be compared: one line each."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.notes: list[str] = []

    def compare(self, what: str, stored: str, here: str) -> None:
        if stored != here:
            self.found.append(f"{what} {short(stored)} -> {short(here)}")

    @contextmanager
    def comparing(self, what: str) -> Iterator[None]:
        try:
            yield
        except NOT_THERE as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            self.notes.append(f"Note: its {what} could not be compared: {first_line}")


def short(digest: str) -> str:
    """Enough of a digest to tell two of them apart."""
    return f"sha256 {digest[:12]}"


def data_digests(dataset: Any, root: str) -> dict[str, str]:
    """Digest of each list of a Dassl dataset, by its name in ``LISTS``."""
    return {name: subset_digest(getattr(dataset, attribute, None) or (), root) for name, attribute in LISTS.items()}


def trained_lists(cfg: CfgNode) -> list[str]:
    """Which of ``LISTS`` decide what a training learns."""
    chooses = not cfg.TEST.NO_TEST and cfg.TEST.FINAL_MODEL == "best_val"
    return ["train", "unlabelled", *(["val"] if chooses else [])]


def other_lists(stored: Mapping[str, Any], here: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """``NAMES`` whose lists differ; one that was not stored does not."""
    return [name for name in names if stored.get(name, here[name]) != here[name]]


# ---------------------------------------------------------------------------------------------- a finished run


def changed_inputs(cfg: CfgNode, results: Mapping[str, Any], eval_only: bool) -> Changes:
    """What has changed since a run with the same config wrote ``results``. No model is built.

    The weights file is hashed only where it is not the same file, of the same size and time, as then. The data set is
    built: nothing else tells which images a split, a kept subset or a folder lists today. What results of earlier
    versions do not tell, is not compared.

    Args:
        eval_only: the run tests what another run has learned.
    """
    changes, stored = Changes(), results.get("inputs") or {}
    if "backbone" in stored:
        with changes.comparing("weights"):
            here = digest_of_weights(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH, stored["backbone"])
            changes.compare("the weights file", stored["backbone"]["sha256"], here)
    if "data" in stored:
        with changes.comparing("data"):
            compare_data(changes, cfg, results, eval_only)
    if not eval_only:
        with changes.comparing("method's input"):
            compare_method(changes, cfg, results.get("method_state") or {})
        changes.notes += other_workers(cfg, results)
    return changes


def compare_method(changes: Changes, cfg: CfgNode, stored: Mapping[str, Any]) -> None:
    """What the trainer itself has read, such as the prompts of another run: what is called so in its state."""
    read = [name for name, digest in stored.items() if name.endswith(DIGEST) and digest]
    here = TRAINER_REGISTRY.get(cfg.TRAINER.NAME).method_inputs(cfg) if read else {}
    for name in sorted(here.keys() & set(read)):
        changes.compare(f"the {name.removesuffix(DIGEST).replace('_', ' ')}", stored[name], here[name])


def compare_data(changes: Changes, cfg: CfgNode, results: Mapping[str, Any], eval_only: bool) -> None:
    """The lists that decide the result, the class names, and the sentences that these have."""
    stored, dataset = results["inputs"], built_quietly(cfg)
    here, decide = data_digests(dataset, cfg.DATASET.ROOT), [] if eval_only else trained_lists(cfg)
    for name in other_lists(stored["data"], here, dict.fromkeys([*decide, results["split"]])):
        changes.compare(f"the list of {name} images", stored["data"][name], here[name])
    before, now = [row["class"] for row in results["per_class"]], list(dataset.classnames)
    changes.found += [f"class {one} -> {other}" for one, other in zip(before, now, strict=False) if one != other][:1]
    if stored.get("sentences") and not eval_only and "NOISE" in method_node(cfg):
        with changes.comparing("description sentences"):
            changes.compare("the description sentences", stored["sentences"], sentences_of(cfg, now))


def sentences_of(cfg: CfgNode, classnames: Sequence[str]) -> str:
    """Digest of the sentences that a training would take its noise from."""
    noise = method_node(cfg).NOISE
    return noise_banks(cfg.DATASET.NAME, classnames, noise.GPT_DIR, noise.HPT_DIR).digest


def method_node(cfg: CfgNode) -> CfgNode:
    return cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), CfgNode())


def built_quietly(cfg: CfgNode) -> Any:
    """The data set that a run would see, without a word, and without a trace in the random generators."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with kept_generators(), redirect_stdout(io.StringIO()):
            if cfg.SEED >= 0:
                set_random_seed(cfg.SEED)
            return build_dataset(cfg)
    finally:
        logging.disable(disabled)


def other_workers(cfg: CfgNode, results: Mapping[str, Any]) -> list[str]:
    """One line where a new run would draw other augmentations, for another number of workers draws them."""
    config = results.get("config", {}).get("DATALOADER", {})
    stored = results["inputs"].get("workers") if "inputs" in results else config.get("NUM_WORKERS")
    if stored in (None, cfg.DATALOADER.NUM_WORKERS):
        return []
    return [
        f"Note: it was trained with DATALOADER.NUM_WORKERS {stored}, now it is {cfg.DATALOADER.NUM_WORKERS}: a new run "
        "would draw other augmentations"
    ]
