"""The CoOp family's command line: train and test one trainer on one dataset with one seed.

    python train.py --root DATA --seed 1 --trainer ANPrompt \
        --dataset-config-file configs/datasets/caltech101.yaml \
        --config-file configs/trainers/ANPrompt/vit_b16.yaml \
        --output-dir output/caltech101 DATASET.NUM_SHOTS 16

`torchrun --nproc_per_node N train.py ...` shares the run among N GPUs (docs/running.md).
Later wins: defaults, dataset file, trainer file, flags, trailing KEY VALUE pairs. A mistake of the user is answered
with one line and exit status 2; set ANPROMPT_TRACEBACK=1 to see where it was found. Several runs may share the start of
a process: put --then between their arguments. The next one starts after success only.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch
from yacs.config import CfgNode

from anprompt.engine.trainer import PromptTrainer
from anprompt.protocols.scripts import THEN
from anprompt.runs.run_folder import CONFIG, RESULTS, alone, check_continuation, check_replaced, stored_result
from anprompt.utils import distributed
from anprompt.utils.config import YAML_DATA, as_plain, merge_file, merge_overrides, require, require_text
from anprompt.utils.files import atomic_path, remove_leftovers
from anprompt.utils.suggest import require_known, suggest
from anprompt.utils.text import printable_lines, show_anything
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import collect_env_info, set_random_seed, setup_logger

USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError, AssertionError)  # Dassl asserts
ExtendCfg = Callable[[CfgNode], None]
MESSAGES_OF = ("anprompt", "datasets", "trainers")  # packages whose log messages are shown


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds the datasets")
    parser.add_argument("--output-dir", help="folder of the log, checkpoints and results (default: ./output)")
    parser.add_argument("--resume", help="folder of the run to continue (default: the output folder)")
    parser.add_argument("--seed", type=int, help="random seed; negative: unseeded (default)")
    parser.add_argument("--source-domains", nargs="+", help="source domains of DA/DG datasets")
    parser.add_argument("--target-domains", nargs="+", help="target domains of DA/DG datasets")
    parser.add_argument("--transforms", nargs="+", help="training transforms")
    parser.add_argument("--config-file", help="YAML file of the trainer")
    parser.add_argument("--dataset-config-file", help="YAML file of the dataset")
    parser.add_argument("--trainer", help="name of the trainer")
    parser.add_argument("--backbone", help="name of the CLIP model")
    parser.add_argument("--head", help="name of the head (Dassl's classifiers)")
    parser.add_argument("--eval-only", action="store_true", help="only test the model in --model-dir")
    parser.add_argument("--model-dir", default="", help="output folder of the run to test, with --eval-only")
    parser.add_argument("--load-epoch", type=int, help="epoch of the checkpoint to test (default: the best model)")
    parser.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    parser.add_argument(
        "--skip-finished",
        action="store_true",
        help="print the stored result of a finished run with the same config; refuse to mix two configs in one folder",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, last")
    return parser


# ---------------------------------------------------------------------------------------------- config


def reset_cfg(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Copy the flags that were given."""
    flags = (
        (cfg.DATASET, "ROOT", args.root),
        (cfg, "OUTPUT_DIR", args.output_dir),
        (cfg, "RESUME", args.resume),
        (cfg, "SEED", args.seed),
        (cfg.DATASET, "SOURCE_DOMAINS", args.source_domains),
        (cfg.DATASET, "TARGET_DOMAINS", args.target_domains),
        (cfg.INPUT, "TRANSFORMS", args.transforms),
        (cfg.TRAINER, "NAME", args.trainer),
        (cfg.MODEL.BACKBONE, "NAME", args.backbone),
        (cfg.MODEL.HEAD, "NAME", args.head),
    )
    for node, key, value in flags:
        if value is not None:  # 0 is a seed
            setattr(node, key, value)


def setup_cfg(args: argparse.Namespace, extend_cfg: ExtendCfg) -> CfgNode:
    """The frozen config of this run. Checks that its trainer and its dataset exist.

    Args:
        extend_cfg: adds the keys that are not Dassl's, and registers trainers and datasets.
    """
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    reset_cfg(cfg, args)
    merge_overrides(cfg, args.opts)
    require_text(cfg)
    require(cfg.SEED < 2**32, f"SEED {cfg.SEED}: expected less than 2**32, as NumPy's generator takes it")
    require_named("trainer", cfg.TRAINER.NAME, "--trainer", TRAINER_REGISTRY.registered_names())
    if cfg.DATASET.NAME in YAML_DATA and not cfg.DATASET.ID and args.dataset_config_file:
        cfg.DATASET.ID = Path(args.dataset_config_file).stem
    require_named("dataset", cfg.DATASET.NAME, "--dataset-config-file", DATASET_REGISTRY.registered_names())
    cfg.freeze()
    return cfg


def require_named(kind: str, name: str, flag: str, known: Sequence[str]) -> None:
    if not name:
        raise ValueError(f"no {kind} was named: use {flag}; {suggest('', known)}")
    require_known(kind, name, known)


# ---------------------------------------------------------------------------------------------- log and config


@contextlib.contextmanager
def logged(cfg: CfgNode, eval_only: bool) -> Iterator[None]:
    """Entered while a run writes ``log.txt``. A test that fails leaves no log and no config: they tell of no run."""
    folder, console = Path(cfg.OUTPUT_DIR), sys.stdout
    before = {name: (folder / name).is_file() for name in (CONFIG, RESULTS)}
    aside = start_log(cfg, eval_only)
    stream: Any = sys.stdout  # Dassl's Logger
    log = Path(stream.file.name)
    try:
        yield
    except BaseException:
        if eval_only and before[RESULTS] == (folder / RESULTS).is_file():
            end_log(console)
            log.unlink(missing_ok=True)
            if aside is not None:
                aside.replace(log)
            if not before[CONFIG]:
                (folder / CONFIG).unlink(missing_ok=True)
        raise


def start_log(cfg: CfgNode, eval_only: bool) -> Path | None:
    """Begin ``log.txt`` and ``config.json``; where an earlier log is now, if it made room.

    Parsers read only ``log.txt``, where the result is to appear: the log of an interrupted run or of an earlier
    evaluation steps aside. Beside a finished training run, the new log gets the longer name, as always with Dassl.
    """
    folder = Path(cfg.OUTPUT_DIR)
    remove_leftovers(folder)
    log, aside = folder / "log.txt", None
    unfinished = not (folder / RESULTS).is_file()
    if log.is_file() and (unfinished or (eval_only and not is_training_log(log))):
        last_line = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(log.stat().st_mtime))
        aside = log.replace(folder / f"log.txt-{last_line}")
    setup_logger(cfg.OUTPUT_DIR)
    show_anything(getattr(sys.stdout, "file", None))
    with atomic_path(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(as_plain(cfg), indent=2) + "\n", encoding="utf-8")
    show_messages()
    return aside


def is_training_log(log: Path) -> bool:
    return "\nFinish training\n" in log.read_text(encoding="utf-8", errors="replace")


class PrintableFormatter(logging.Formatter):
    """Messages name files and classes, whose names may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def show_messages() -> None:
    """Send this project's log messages where the printed lines go: to the terminal and ``log.txt``."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    for name in MESSAGES_OF:
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).handlers = [handler]


# ---------------------------------------------------------------------------------------------- the run


def print_args(args: argparse.Namespace, cfg: CfgNode) -> None:
    for title, lines in (
        ("** Arguments **", [f"{key}: {value}" for key, value in sorted(vars(args).items())]),
        ("** Config **", [str(cfg)]),
    ):
        rule = "*" * len(title)
        print(rule, title, rule, *map(printable_lines, lines), sep="\n")


def check_shared_run(cfg: CfgNode) -> None:
    """Find out whether the processes that torchrun has started can do one run together, and give each its GPU.

    Raises:
        ValueError: they cannot.
    """
    if not issubclass(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), PromptTrainer):
        raise ValueError(
            f"{cfg.TRAINER.NAME} cannot share a run among {distributed.size()} processes: only trainers based on "
            "anprompt.api.PromptTrainer can. Use python instead of torchrun"
        )
    if cfg.SEED < 0:
        raise ValueError(
            f"SEED {cfg.SEED}: without a seed, the {distributed.size()} processes of torchrun would draw different "
            "batches. Give --seed N"
        )
    if cfg.USE_CUDA:
        distributed.take_gpu()


def run(args: argparse.Namespace, extend_cfg: ExtendCfg) -> None:
    cfg = setup_cfg(args, extend_cfg)
    if distributed.size() > 1:
        check_shared_run(cfg)
    if args.skip_finished:
        result = distributed.from_main(lambda: stored_result(cfg, args))
        if result is not None:
            remove_leftovers(cfg.OUTPUT_DIR)
            print(printable_lines(result))
            return
    with contextlib.ExitStack() as stack:
        distributed.from_main(lambda: stack.enter_context(alone(cfg)))
        run_alone(args, cfg, stack)


def run_alone(args: argparse.Namespace, cfg: CfgNode, stack: contextlib.ExitStack) -> None:
    """The run itself, while no other one writes to its output folder. ``stack`` ends with it."""
    if not args.no_train:
        distributed.from_main(lambda: check_replaced(cfg) if args.eval_only else check_continuation(cfg))
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    distributed.from_main(lambda: stack.enter_context(logged(cfg, args.eval_only)))
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    print_args(args, cfg)
    print("Collecting env info ...")
    print(f"** System info **\n{collect_env_info()}\n")

    trainer = build_trainer(cfg)
    trainer.config_file = args.config_file  # by which results tell this trainer's configurations apart
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        trainer.train()


def is_finished(words: Sequence[str], extend_cfg: ExtendCfg) -> bool:
    """Whether one run's output folder holds its result. Whatever is wrong, the run itself will tell."""
    args = build_parser().parse_args(words)
    try:
        return stored_result(setup_cfg(args, extend_cfg), args) is not None
    except USER_ERRORS:
        return False


def report(error: BaseException) -> None:
    """One line for the user, on the terminal and at the end of ``log.txt``."""
    line = f"error: {printable_lines(error)}"
    who = f"process {distributed.rank()}: " if distributed.size() > 1 else ""
    print(f"{who}{line} (ANPROMPT_TRACEBACK=1 shows where)", file=sys.stderr)
    log = getattr(sys.stdout, "file", None)  # Dassl's Logger
    if log is not None:
        log.write(f"{line}\n")


def split_runs(words: Sequence[str]) -> list[list[str]]:
    """The arguments of every run of a command line."""
    runs: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            runs.append([])
        else:
            runs[-1].append(word)
    return runs


def main(argv: Sequence[str], extend_cfg: ExtendCfg) -> int:
    """Run the command line ``argv``; the exit status. ``extend_cfg`` as in :func:`setup_cfg`."""
    show_anything(sys.stdout)
    show_anything(sys.stderr)
    runs = split_runs(argv)
    parsed = [build_parser().parse_args(words) for words in runs]
    distributed.start()
    for args in parsed:
        console = sys.stdout
        try:
            status = run_and_report(args, extend_cfg)
        finally:
            end_log(console)
        if status:
            return status
    distributed.end()
    return 0


def end_log(console: TextIO) -> None:
    """Leave no trace of a run in what the next one prints and measures."""
    log: Any = sys.stdout
    sys.stdout = console
    if log is not console and getattr(log, "file", None) is not None:
        log.file.close()  # not the Logger itself: Dassl's closes the console, too
        log.file = None
    gc.collect()  # trainers and models refer to each other
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def run_and_report(args: argparse.Namespace, extend_cfg: ExtendCfg) -> int:
    """One run; its exit status."""
    try:
        run(args, extend_cfg)
    except USER_ERRORS as error:
        if os.environ.get("ANPROMPT_TRACEBACK"):
            raise
        report(error)
        return 2
    except KeyboardInterrupt:
        if distributed.is_main():
            print("interrupted: the same command continues after the last finished epoch", file=sys.stderr)
        return 130
    return 0


def leave(status: int) -> NoReturn:
    """End the process."""
    gc.freeze()  # or Python looks for garbage in all that was imported: most of a second
    sys.exit(status)
