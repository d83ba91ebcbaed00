"""What each script of ``scripts/`` runs: arguments of ``train.py``, output folders, what it reports at its end.

Nothing here starts a process: :mod:`anprompt.protocols.processes` does, for the scripts; the runner plans with it.

Read from the environment, where an empty value counts as none:

    DATA      folder that holds the datasets (default for embedded ones, shapes and moves: data/ in the repository)
    OUTPUT    root of all results (default: output/ in the repository)
    CFG       stem of the trainer's YAML file (default: trainer_files.py's choice; for embedded data: tiny)
    SHOTS     training images per class (default: 16; few_shot takes several)
    SOURCE    data that the model of xd_test was trained on (default: imagenet), or that of a stage 0
    THEN_NEW  base2new_train tests the new classes next, in the same process, as it always does on embedded data
    PYTHON    interpreter (default: the one that is running)
    NPROC     processes that share every run, each with a GPU of its own (default: 1)
    DRY_RUN   print the calls of train.py instead: one line each, every argument followed by a tab
    OMP_NUM_THREADS   PyTorch's; on embedded data 1 by default
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.protocols.stage0 import Stage0, stage0_of
from anprompt.protocols.trainer_files import settings_for, stem_for
from anprompt.runs.identity import VARIABLE
from anprompt.runs.run_folder import RESULTS

EMBEDDED = ("shapes", "moves")  # data sets that are drawn on first use, for the bundled CLIP
SHOTS = ("1", "2", "4", "8", "16")  # of the few-shot protocol
STAGE0_SHOTS = "16"
STAGE0_PROTOCOL = "source"  # it learns on other data, as a transfer does
THEN = "--then"  # between two runs of one call of train.py
END_OF_TRAINING = ("Finish training", "Finished training")  # Dassl since 0.6.1, before 0.6.1


@dataclass
class Script:
    """What a script runs.

    Attributes:
        protocol: as ``results.json`` names it.
        calls: arguments of ``train.py``, one list per process.
        reports: folders of one run, or of a base and a new one, whose results end the script; one list per report.
        environment: variables of all its processes, beside those of the caller.
        before: those of the calls that are a stage 0, and so of another protocol.
    """

    protocol: str
    calls: list[list[str]]
    reports: list[list[Path]]
    environment: dict[str, str] = field(default_factory=dict)
    before: list[list[str]] = field(default_factory=list)

    def environment_of(self, words: list[str]) -> dict[str, str]:
        """Variables of the process with these arguments."""
        return self.environment | ({VARIABLE: STAGE0_PROTOCOL} if words in self.before else {})


@dataclass(frozen=True)
class Call:
    """How a script was called.

    Args:
        repository: the checkout.
        environment: variables, see above.
        words: the arguments: dataset, seed (not of zeroshot), ``KEY VALUE`` pairs.
        typed: what the user typed before them, for error messages.
    """

    repository: Path
    trainer: str
    words: Sequence[str]
    environment: Mapping[str, str]
    typed: str

    def variable(self, name: str) -> str:
        return self.environment.get(name, "")

    def word(self, position: int, default: str) -> str:
        return (self.words[position] if position < len(self.words) else "") or default

    def dataset(self, default: str = "shapes") -> str:
        return self.word(0, default)

    def seed(self, usage: str) -> str:
        """Catches a forgotten seed before a config key is taken for one."""
        seed = self.word(1, "1")
        if not (seed.isascii() and seed.isdigit()):
            raise ValueError(f"the seed must be a number, got {seed!r}. Usage: {usage}")
        return seed

    @property
    def pairs(self) -> Sequence[str]:
        """The user's, after dataset and seed."""
        return self.words[2:]

    @functools.cached_property
    def folder(self) -> Path:
        """Of the trainer's YAML files."""
        return self.repository / f"configs/trainers/{self.trainer}"

    def dataset_file(self, dataset: str) -> Path:
        return self.repository / f"configs/datasets/{dataset}.yaml"

    @functools.cached_property
    def output(self) -> Path:
        return Path(self.variable("OUTPUT") or self.repository / "output")

    @property
    def shots(self) -> str:
        return self.variable("SHOTS") or "16"

    @property
    def python(self) -> str:
        return self.variable("PYTHON") or sys.executable

    @property
    def dry(self) -> bool:
        return bool(self.variable("DRY_RUN"))

    def stem(self, protocol: str, dataset: str, shots: str = "") -> str:
        """Of the trainer's YAML file."""
        if self.variable("CFG"):
            return self.variable("CFG")
        if dataset in EMBEDDED:
            return "tiny"
        return stem_for(self.folder, protocol, dataset, shots or self.shots)

    def settings(self, protocol: str, dataset: str) -> list[str]:
        """``KEY VALUE`` words that training by this protocol needs beside the YAML file."""
        return settings_for(self.folder, protocol, dataset)

    def data(self, dataset: str) -> str:
        """Folder of the datasets. Empty where the dataset is unknown: ``train.py`` names the nearest ones."""
        if self.variable("DATA"):
            return self.variable("DATA")
        if dataset in EMBEDDED:
            return str(self.repository / "data")
        if self.dataset_file(dataset).is_file():
            raise ValueError(
                "DATA is not set: give the folder that holds the datasets, as in "
                f"DATA=/path/to/datasets {self.typed} {dataset}"
            )
        return ""

    def run(self, dataset: str, seed: str, directory: Path, stem: str, more: Iterable[str]) -> list[str]:
        """Arguments of one run of ``train.py``. What has finished is skipped, the interrupted resumes."""
        return [
            *("--root", self.data(dataset)),
            *("--seed", seed),
            *("--trainer", self.trainer),
            *("--dataset-config-file", str(self.dataset_file(dataset))),
            *("--config-file", str(self.folder / f"{stem}.yaml")),
            *("--output-dir", str(directory)),
            "--skip-finished",
            *more,
        ]

    def script(
        self,
        protocol: str,
        dataset: str,
        calls: list[list[str]],
        reports: list[list[Path]],
        before: Sequence[list[str]] = (),
    ) -> Script:
        environment = {VARIABLE: protocol}  # by which results.json says it
        if dataset in EMBEDDED and not self.variable("OMP_NUM_THREADS"):
            # The tiny CLIP gains nothing from threads, and on a busy machine loses much by them.
            environment["OMP_NUM_THREADS"] = "1"
        return Script(protocol, [*before, *calls], reports, environment, [*before])


# ---------------------------------------------------------------------------------------------- base to new


def base2new_train(call: Call) -> Script:
    """First half: train on the base classes and test on them, after stage 0 where the trainer has one.

    On embedded data, or with THEN_NEW, the new classes are next.
    """
    dataset, seed = call.dataset(), call.seed("base2new_train.sh DATASET SEED [KEY VALUE ...]")
    trained, stem = base2new_folder(call, "train_base", dataset, seed), call.stem("base2new", dataset)
    subset = ("DATASET.NUM_SHOTS", call.shots, "DATASET.SUBSAMPLE_CLASSES", "base")
    before, start = start_from(call, dataset, seed, stem)
    words = call.run(dataset, seed, trained, stem, [*subset, *call.settings("base2new", dataset), *start, *call.pairs])
    if dataset not in EMBEDDED and not call.variable("THEN_NEW"):
        return call.script("base2new", dataset, [words], [[trained]], before)
    model = ["--eval-only", "--model-dir", str(trained)]  # the best or the last: which, is known then
    tested, new_words = on_new_classes(call, dataset, seed, model)
    return call.script("base2new", dataset, [[*words, THEN, *new_words]], [[trained, tested]], before)


def base2new_test(call: Call) -> Script:
    """Second half: test the model of base2new_train on the new classes, with the pairs of the training run."""
    dataset, seed = call.dataset(), call.seed("base2new_test.sh DATASET SEED [KEY VALUE ...]")
    trained = base2new_folder(call, "train_base", dataset, seed)
    tested, words = on_new_classes(call, dataset, seed, find_model(trained, call.dry))
    return call.script("base2new", dataset, [words], [[trained, tested]])


def on_new_classes(call: Call, dataset: str, seed: str, model: list[str]) -> tuple[Path, list[str]]:
    """Output folder and arguments of the run that tests a model on the new classes."""
    tested, stem = base2new_folder(call, "test_new", dataset, seed), call.stem("base2new", dataset)
    subset = ("DATASET.NUM_SHOTS", call.shots, "DATASET.SUBSAMPLE_CLASSES", "new")
    _, start = start_from(call, dataset, seed, stem)
    return tested, call.run(dataset, seed, tested, stem, [*model, *subset, *start, *call.pairs])


def base2new_folder(call: Call, half: str, dataset: str, seed: str) -> Path:
    stem = call.stem("base2new", dataset)
    return call.output / f"base2new/{half}/{dataset}/shots_{call.shots}/{call.trainer}/{stem}/seed{seed}"


def zeroshot(call: Call) -> Script:
    """Base and new classes with a trainer that learns nothing. No seed matters."""
    dataset = call.dataset()
    stem, calls, folders = call.stem("zero_shot", dataset), [], []
    for half in ("base", "new"):
        folder = call.output / f"base2new/test_{half}/{dataset}/{call.trainer}/{stem}/seed1"
        more = ["--eval-only", "DATASET.SUBSAMPLE_CLASSES", half, *call.words[1:]]
        calls.append(call.run(dataset, "1", folder, stem, more))
        folders.append(folder)
    return call.script("base2new", dataset, calls, [folders])


# ---------------------------------------------------------------------------------------------- few-shot


def few_shot(call: Call) -> Script:
    """Train and test on all classes with 1, 2, 4, 8 and 16 images of each, or as SHOTS says."""
    dataset, seed = call.dataset(), call.seed("few_shot.sh DATASET SEED [KEY VALUE ...]")
    before, calls, folders = [], [], []
    for shots in call.variable("SHOTS").split() or SHOTS:
        stem = call.stem("few_shot", dataset, shots)
        folder = call.output / f"few_shot/{dataset}/shots_{shots}/{call.trainer}/{stem}/seed{seed}"
        stage, start = start_from(call, dataset, seed, stem)
        more = ["DATASET.NUM_SHOTS", shots, *call.settings("few_shot", dataset), *start, *call.pairs]
        before += [words for words in stage if words not in before]
        calls.append(call.run(dataset, seed, folder, stem, more))
        folders.append(folder)
    return call.script("few_shot", dataset, calls, [[folder] for folder in folders], before)


# ---------------------------------------------------------------------------------------------- transfer


def xd_train(call: Call) -> Script:
    """Cross-dataset transfer and domain generalisation, first half: train on all classes of the source."""
    dataset, seed = call.dataset("imagenet"), call.seed("xd_train.sh SOURCE SEED [KEY VALUE ...]")
    folder = source_folder(call, dataset, seed)
    more = ["DATASET.NUM_SHOTS", call.shots, *call.settings("cross_dataset", dataset), *call.pairs]
    words = call.run(dataset, seed, folder, call.stem("cross_dataset", dataset), more)
    return call.script("source", dataset, [words], [[folder]])


def xd_test(call: Call) -> Script:
    """Second half: test the model of xd_train on other data. SOURCE names what it was trained on, and so does the
    folder, unless it is ImageNet.
    """
    usage = "xd_test.sh DATASET SEED [KEY VALUE ...]"
    dataset, source = call.dataset(""), call.variable("SOURCE") or "imagenet"
    if not dataset:
        raise ValueError(f"which dataset? Usage: {usage}")
    seed = call.seed(usage)
    stem = call.stem("cross_dataset", source)  # the model decides, not the data
    model = find_model(source_folder(call, source, seed), call.dry)
    setting = f"{stem}_{call.shots}shots" + (f"_{source}" if source != "imagenet" else "")
    folder = call.output / f"evaluation/{call.trainer}/{setting}/{dataset}/seed{seed}"
    return call.script("target", dataset, [call.run(dataset, seed, folder, stem, [*model, *call.pairs])], [[folder]])


def source_folder(call: Call, source: str, seed: str) -> Path:
    """Of the training run."""
    stem = call.stem("cross_dataset", source)
    return call.output / f"{source}/{call.trainer}/{stem}_{call.shots}shots/seed{seed}"


# ---------------------------------------------------------------------------------------------- stage 0


def stage0(call: Call) -> Script:
    """Learn on other data what the trainer starts from, such as GA2-CLIP's hard prompts: on all classes of SOURCE."""
    plan = stage0_of(call.folder, embedded=True, source=call.word(0, ""))
    if plan is None:
        raise ValueError(f"{call.trainer} has no stage 0: no {call.folder}/protocols/stage0.yaml")
    seed = call.seed("stage0.sh SOURCE SEED [KEY VALUE ...]")
    words = stage0_run(call, plan, seed, call.pairs)
    return call.script(STAGE0_PROTOCOL, plan.source, [words], [[stage0_folder(call, plan, seed)]])


def stage0_run(call: Call, plan: Stage0, seed: str, pairs: Sequence[str] = ()) -> list[str]:
    """Arguments of the run."""
    folder = stage0_folder(call, plan, seed)
    return call.run(plan.source, seed, folder, plan.stem, ["DATASET.NUM_SHOTS", STAGE0_SHOTS, *pairs])


def stage0_folder(call: Call, plan: Stage0, seed: str) -> Path:
    return call.output / f"stage0/{plan.source}/{call.trainer}/{plan.stem}/seed{seed}"


def start_from(call: Call, dataset: str, seed: str, stem: str) -> tuple[list[list[str]], list[str]]:
    """What has to run before a training, and the ``KEY VALUE`` pair that makes the training start from it.

    On embedded data a script runs stage 0 itself, unless it has finished.

    Raises:
        ValueError: elsewhere, it has not.
    """
    embedded = dataset in EMBEDDED
    plan = stage0_of(call.folder, embedded, call.variable("SOURCE"))
    if plan is None or not plan.needed(stem, call.pairs):
        return [], []
    folder = stage0_folder(call, plan, seed)
    pair = [plan.key, str(folder)]
    if embedded and plan.source in EMBEDDED:
        return [stage0_run(call, plan, seed)], pair
    if not call.dry and not (folder / RESULTS).is_file():
        raise ValueError(
            f"no finished stage 0 in {folder}: run the script stage0 with {plan.source} {seed} first, or name a "
            f"checkpoint, as in {plan.key} CHECKPOINT"
        )
    return [], pair


# ---------------------------------------------------------------------------------------------- finished trainings


def find_model(trained: Path, dry: bool) -> list[str]:
    """Flags that load the model of a finished training run: its best one where TEST.FINAL_MODEL chose one, else the
    last epoch's.

    Args:
        trained: the run's folder.
        dry: nothing runs, so that it may still be going to be trained.

    Raises:
        ValueError: there is no such run.
    """
    flags = ["--eval-only", "--model-dir", str(trained)]
    if not (trained / RESULTS).is_file():
        if dry:
            return flags
        if has_finished(trained / "log.txt"):
            raise ValueError(no_results(trained))
        raise ValueError(f"no finished training run in {trained}: run the training script first")
    if any(trained.glob("*/model-best.pth.tar")):
        return flags
    pointers = sorted(trained.glob("*/checkpoint"))
    if not pointers:
        raise ValueError(f"{trained} has a result but no checkpoint: remove the folder and train again")
    name, _, epoch = pointers[-1].read_text(encoding="utf-8").partition("\n")[0].rpartition("-")
    if name != "model.pth.tar" or not epoch.isdigit():
        raise ValueError(f"{pointers[-1]} does not name a checkpoint such as model.pth.tar-10")
    return [*flags, "--load-epoch", epoch]


def has_finished(log: Path) -> bool:
    if not log.is_file():
        return False
    return any(line in END_OF_TRAINING for line in log.read_text(encoding="utf-8", errors="replace").splitlines())


def no_results(folder: Path) -> str:
    return (
        f"the run in {folder} has finished without a {RESULTS}, which only trainers based on anprompt.engine.trainer "
        "write: read its log with parse_test_res.py, and test its model with train.py --eval-only "
        f"--model-dir {folder}"
    )


# ---------------------------------------------------------------------------------------------- by name

SCRIPTS: dict[str, Callable[[Call], Script]] = {
    script.__name__: script for script in (base2new_train, base2new_test, few_shot, xd_train, xd_test, zeroshot, stage0)
}


def plan_script(name: str, call: Call) -> Script:
    """What a script runs.

    Raises:
        ValueError: there is none of that name, or it was called with wrong arguments.
    """
    if name not in SCRIPTS:
        raise ValueError(f"unknown script {name!r}: there are {', '.join(SCRIPTS)}")
    if not call.trainer:
        raise ValueError(
            "TRAINER is not set: name one of configs/trainers, as in "
            f"TRAINER=CoOp {' '.join([call.typed, *call.words])}"
        )
    return SCRIPTS[name](call)


def checkout() -> Path:
    """The repository around this file, else in the working directory: YAML files are no part of an installed package.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in (Path(__file__).absolute().parents[2], Path.cwd()):
        if (folder / "train.py").is_file() and (folder / "configs" / "trainers").is_dir():
            return folder
    raise FileNotFoundError("no train.py with configs/trainers/ here: call this from a checkout of the repository")
