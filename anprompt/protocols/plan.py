"""Which runs a protocol consists of. What a run is (YAML file, settings, folders) the scripts decide, and are asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.utils.suggest import require_known

ALL = "all"
ELEVEN = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SHOTS = (1, 2, 4, 8, 16)  # of the few-shot protocol
PROTOCOLS = ("base2new", "few_shot", "cross_dataset", "domain_generalisation")
THEN = "--then"  # between two runs of one call of train.py
READ_BY_SCRIPTS = ("CFG", "DRY_RUN", "NPROC", "SHOTS", "SOURCE", "THEN_NEW")  # from the environment


@dataclass(frozen=True)
class Request:
    """What the user asked for. Datasets and ``cfg`` are stems of YAML files."""

    protocol: str
    datasets: Sequence[str]
    trainers: Sequence[str]
    seeds: Sequence[int]
    repository: Path
    root: Path | None  # of the datasets; None: the scripts' default, which only shapes has
    output: Path
    cfg: str | None = None  # of the trainers; None: the scripts' choice
    shots: Sequence[int] = ()  # empty: the protocol's
    source: str = "imagenet"
    overrides: Sequence[str] = ()

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for a script, beside those of the caller."""
        values = {"OUTPUT": str(self.output), "CFG": self.cfg or "", **more}
        return values | ({"DATA": str(self.root)} if self.root else {})


@dataclass(eq=False)
class Job:
    """One process: a script with its arguments."""

    trainer: str
    dataset: str
    detail: str
    command: list[str]
    environment: dict[str, str]
    needs: Job | None = None  # to be finished before
    calls: list[list[str]] = field(default_factory=list)  # of train.py, as words

    @property
    def name(self) -> str:
        return f"{self.trainer} on {self.dataset}{self.detail and f', {self.detail}'}"

    def runs(self) -> Iterator[list[str]]:
        """Arguments of every run of train.py."""
        for _, _, *words in self.calls:
            while THEN in words:
                end = words.index(THEN)
                yield words[:end]
                words = words[end + 1 :]
            yield words

    def folders(self) -> list[Path]:
        """Output folders of the runs."""
        return [Path(words[words.index("--output-dir") + 1]) for words in self.runs()]


def environ(more: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, without what would steer a script behind the runner's back, and ``more``."""
    kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
    return {"PYTHON": sys.executable, **kept, **more}


# ---------------------------------------------------------------------------------------------- names


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def resolve_datasets(request: Request) -> list[str]:
    """Names of the data to train on (of transfer: to test on)."""
    if ALL not in request.datasets:
        known = [*stems(request.repository / "configs" / "datasets"), ALL]
        for name in request.datasets:
            require_known("dataset", name, known)
        return list(dict.fromkeys(request.datasets))
    if request.protocol == "domain_generalisation":
        return list(VARIANTS)
    return [name for name in ELEVEN if request.protocol != "cross_dataset" or name != request.source]


def resolve_trainers(request: Request) -> list[str]:
    """Names of the trainers; each has the YAML file that was asked for, if one was.

    Raises:
        ValueError: unknown, or cannot do the protocol.
    """
    folder = request.repository / "configs" / "trainers"
    files = {path.name: stems(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if ALL in request.trainers:
        files = {name: there for name, there in files.items() if not request.cfg or request.cfg in there}
        return [name for name in files if request.protocol == "base2new" or not is_zero_shot(name)]
    for name in request.trainers:
        require_known("trainer", name, [*files, ALL])
        if request.cfg:
            require_known(f"YAML file of {name}", request.cfg, files[name])
        if is_zero_shot(name) and request.protocol != "base2new":
            raise ValueError(f"{name} learns nothing: it takes part in base2new only")
    return list(dict.fromkeys(request.trainers))


def is_zero_shot(trainer: str) -> bool:
    return trainer.startswith("Zeroshot")


# ---------------------------------------------------------------------------------------------- protocols


def plan(request: Request) -> list[Job]:
    """All runs, a training before the tests that need it.

    Raises:
        ValueError: an unknown name (with the nearest known ones), or a script refuses its arguments.
    """
    require_known("protocol", request.protocol, PROTOCOLS)
    if request.protocol != "few_shot" and len(request.shots) > 1:
        raise ValueError(f"{request.protocol} takes one number of --shots, got {len(request.shots)}")
    datasets, trainers = resolve_datasets(request), resolve_trainers(request)
    require_known("source", request.source, stems(request.repository / "configs" / "datasets"))
    if request.root is None and {*datasets, request.source if needs_source(request) else "shapes"} != {"shapes"}:
        raise ValueError("which folder holds the datasets? Give --root DIR, or set DATA")
    make = {"base2new": base2new, "few_shot": few_shot}.get(request.protocol, transfer)
    jobs = [job for trainer in trainers for seed in request.seeds for job in make(request, trainer, seed, datasets)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(ask_script, jobs))
    return jobs


def needs_source(request: Request) -> bool:
    return request.protocol in ("cross_dataset", "domain_generalisation")


def script(request: Request, trainer: str, name: str, *arguments: object) -> list[str]:
    """Command of a protocol's script for a trainer."""
    path = request.repository / "scripts" / "protocol.sh"
    return ["bash", str(path), trainer, name, *map(str, arguments), *request.overrides]


def base2new(request: Request, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    """Base and new classes of one seed share a process. Without learning no seed matters: the first stands for all."""
    environment = request.environment(THEN_NEW="1", **one_number_of(request.shots))
    if not is_zero_shot(trainer):
        for data in datasets:
            command = script(request, trainer, "base2new_train", data, seed)
            yield Job(trainer, data, f"seed {seed}", command, environment)
    elif seed == request.seeds[0]:
        for data in datasets:
            yield Job(trainer, data, "", script(request, trainer, "zeroshot", data), environment)


def few_shot(request: Request, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    for data in datasets:
        for shots in request.shots or SHOTS:
            detail = f"seed {seed}, {shots} shot{'s' * (shots != 1)}"
            command = script(request, trainer, "few_shot", data, seed)
            yield Job(trainer, data, detail, command, request.environment(SHOTS=str(shots)))


def transfer(request: Request, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    """Cross-dataset transfer and domain generalisation: one training on the source, a test on each of the data."""
    environment = request.environment(SOURCE=request.source, **one_number_of(request.shots))
    command = script(request, trainer, "xd_train", request.source, seed)
    training = Job(trainer, request.source, f"seed {seed}, training", command, environment)
    yield training
    for data in datasets:
        command = script(request, trainer, "xd_test", data, seed)
        yield Job(trainer, data, f"seed {seed}, test", command, environment, needs=training)


def one_number_of(shots: Sequence[int]) -> dict[str, str]:
    return {"SHOTS": str(shots[0])} if shots else {}


def ask_script(job: Job) -> None:
    """Have the script tell the calls of train.py that it would make."""
    environment = environ(job.environment | {"DRY_RUN": "1"})
    done = subprocess.run(job.command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{job.name}: {done.stderr.strip().removeprefix('error: ')}")
    job.calls = [line.split("\t")[:-1] for line in done.stdout.splitlines()]
