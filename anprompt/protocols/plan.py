"""Which runs a protocol consists of. What a run is (YAML file, settings, folders) scripts.py says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.protocols.processes import train_py
from anprompt.protocols.scripts import EMBEDDED, SHOTS, THEN, Call, plan_script
from anprompt.protocols.stage0 import STAGE0, stage0_of
from anprompt.runs.run_folder import RESULTS
from anprompt.utils.suggest import require_known

ALL = "all"
ELEVEN = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
PROTOCOLS = ("base2new", "few_shot", "cross_dataset", "domain_generalisation")
STEERING = ("CFG", "DRY_RUN", "NPROC", "SHOTS", "SOURCE", "THEN_NEW")  # variables that the request decides


@dataclass(frozen=True)
class Request:
    """What the user asked for. Datasets and ``cfg`` are stems of YAML files."""

    protocol: str
    datasets: Sequence[str]
    trainers: Sequence[str]
    seeds: Sequence[int]
    repository: Path
    root: Path | None  # of the datasets; None: the default, which only embedded ones have
    output: Path
    cfg: str | None = None  # of the trainers; None: the protocol's choice
    shots: Sequence[int] = ()  # empty: the protocol's
    source: str = "imagenet"
    overrides: Sequence[str] = ()
    processes: str = ""  # that share each run; empty: one

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for a script, beside those of the caller."""
        values = {"OUTPUT": str(self.output), "CFG": self.cfg or "", "NPROC": self.processes, **more}
        return values | ({"DATA": str(self.root)} if self.root else {})


@dataclass(eq=False)
class Job:
    """One process: a script with its arguments.

    Attributes:
        command: the process.
        environment: its variables, beside those of :func:`environ`.
        needs: job to be finished before.
        calls: of ``train.py`` that it makes, as arguments.
        train_py: what stands before the arguments.
    """

    trainer: str
    dataset: str
    detail: str
    command: list[str]
    environment: dict[str, str]
    needs: Job | None = None
    calls: list[list[str]] = field(default_factory=list)
    train_py: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.trainer} on {self.dataset}{self.detail and f', {self.detail}'}"

    def runs(self) -> Iterator[list[str]]:
        """Arguments of every run of train.py."""
        for words in self.calls:
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
    kept = {key: value for key, value in os.environ.items() if key not in STEERING}
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
        return [name for name in files if takes_part(folder / name, request.protocol)]
    for name in request.trainers:
        require_known("trainer", name, [*files, ALL])
        if request.cfg:
            require_known(f"YAML file of {name}", request.cfg, files[name])
        if is_zero_shot(name) and request.protocol != "base2new":
            raise ValueError(f"{name} learns nothing: it takes part in base2new only")
    return list(dict.fromkeys(request.trainers))


def takes_part(trainer: Path, protocol: str) -> bool:
    """Whether a trainer, given its folder, is one of all: one that starts from other data has to be asked for."""
    return (protocol == "base2new" or not is_zero_shot(trainer.name)) and not (trainer / "protocols" / STAGE0).is_file()


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
    if request.root is None and not {*datasets, *[request.source] * needs_source(request)} <= {*EMBEDDED}:
        raise ValueError("which folder holds the datasets? Give --root DIR, or set DATA")
    make = {"base2new": base2new, "few_shot": few_shot}.get(request.protocol, transfer)
    planner = Planner(request)
    return [job for trainer in trainers for seed in request.seeds for job in make(planner, trainer, seed, datasets)]


def needs_source(request: Request) -> bool:
    return request.protocol in ("cross_dataset", "domain_generalisation")


class Planner:
    """Makes the jobs of a request.

    Attributes:
        environment: of a script, but for what belongs to a job.
        before: stage 0 of (trainer, seed, whether the data are embedded).
    """

    def __init__(self, request: Request):
        self.request = request
        self.environment = environ(request.environment(DRY_RUN="1"))
        self.before: dict[tuple[str, int, bool], Job] = {}

    def stage0(self, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
        """What a trainer learns on other data first, once for all data sets, if any run starts from it.

        One that has finished stays as it is, whatever its settings: the script may have been given some.
        """
        folder = self.request.repository / "configs" / "trainers" / trainer
        for embedded in sorted({data in EMBEDDED for data in datasets}):
            plan = stage0_of(folder, embedded)
            if plan is None or not plan.needed(self.request.cfg or plan.takers[0], self.request.overrides):
                continue
            # The file of stage 0 is that of stage0.yaml, whatever --cfg says.
            job = self.job("stage0", trainer, [plan.source, seed], f"seed {seed}, stage 0", {"CFG": ""})
            if not embedded and all((folder / RESULTS).is_file() for folder in job.folders()):
                continue
            self.before[trainer, seed, embedded] = job
            yield job

    def job(
        self,
        name: str,
        trainer: str,
        words: Sequence[object],
        detail: str,
        variables: Mapping[str, str],
        needs: Job | None = None,
    ) -> Job:
        """A job that runs the script ``name``.

        Args:
            words: the script's arguments; the first is the dataset.
            variables: of this job.
        """
        repository = self.request.repository
        arguments = [str(word) for word in words]
        call = Call(
            repository,
            trainer,
            arguments,
            {**self.environment, **variables},
            f"python -m anprompt script {name} {trainer}",
        )
        made = Job(
            trainer=trainer,
            dataset=arguments[0],
            detail=detail,
            command=[sys.executable, str(repository / "anprompt"), "script", name, trainer, *arguments],
            environment=self.request.environment(**variables),
            needs=needs,
            train_py=train_py(call),
        )
        try:
            made.calls = plan_script(name, call).calls
        except ValueError as error:
            raise ValueError(f"{made.name}: {error}") from error
        return made


def base2new(planner: Planner, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    """Base and new classes of one seed share a process. Without learning no seed matters: the first stands for all."""
    request = planner.request
    variables = {"THEN_NEW": "1", **one_number_of(request.shots)}
    if not is_zero_shot(trainer):
        yield from planner.stage0(trainer, seed, datasets)
        for data in datasets:
            words = [data, seed, *request.overrides]
            needs = planner.before.get((trainer, seed, data in EMBEDDED))
            yield planner.job("base2new_train", trainer, words, f"seed {seed}", variables, needs)
    elif seed == request.seeds[0]:
        for data in datasets:
            yield planner.job("zeroshot", trainer, [data, *without_optim(request.overrides)], "", variables)


def without_optim(overrides: Sequence[str]) -> list[str]:
    """Nothing is optimised: other ``OPTIM`` keys would only make another config of the same run."""
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    return [word for pair in pairs if not pair[0].startswith("OPTIM.") for word in pair]


def few_shot(planner: Planner, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    request = planner.request
    yield from planner.stage0(trainer, seed, datasets)
    for data in datasets:
        needs = planner.before.get((trainer, seed, data in EMBEDDED))
        for shots in map(str, request.shots or SHOTS):
            detail = f"seed {seed}, {shots} shot{'s' * (shots != '1')}"
            yield planner.job("few_shot", trainer, [data, seed, *request.overrides], detail, {"SHOTS": shots}, needs)


def transfer(planner: Planner, trainer: str, seed: int, datasets: Sequence[str]) -> Iterator[Job]:
    """Cross-dataset transfer and domain generalisation: one training on the source, a test on each of the data."""
    request = planner.request
    variables = {"SOURCE": request.source, **one_number_of(request.shots)}
    words = [request.source, seed, *request.overrides]
    training = planner.job("xd_train", trainer, words, f"seed {seed}, training", variables)
    yield training
    for data in datasets:
        words = [data, seed, *request.overrides]
        yield planner.job("xd_test", trainer, words, f"seed {seed}, test", variables, training)


def one_number_of(shots: Sequence[int]) -> dict[str, str]:
    return {"SHOTS": str(shots[0])} if shots else {}
