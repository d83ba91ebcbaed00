"""Time and memory of one training step and one test batch: the textbook formulation against this project's.

    python -m benchmarks.step                                       # all cases on the CPU, fp32
    python -m benchmarks.step --cases 5x4 50x4 --output step.json
    python -m benchmarks.step --device cuda --precision bf16 --markdown

A case is C classes and B images, ``50x4``. Times are taken in one process, both formulations in turn; memory in a
process for each. The weights are random, of ViT-B/16's shape. On two CPU cores all cases take half an hour, those of
batch 4 eight minutes; a formulation that does not fit into memory is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from anprompt.clip.encoders import end_of_text
from anprompt.engine.trainer import AUTOCAST_DTYPES, PRECISIONS
from anprompt.prompts.templates import prompts_for
from benchmarks import floor, measure
from benchmarks.cases import BACKBONES, CASES, Case, class_names, config, random_backbone, random_batch
from benchmarks.ours import VARIANTS, Ours, TextbookANPrompt, build
from benchmarks.report import step_table

WARM_UP = {"cpu": 1, "cuda": 5}
COUNTS = {
    "training": {"textbook": floor.textbook_step, "floor": floor.fewest_step},
    "evaluation": {"textbook": floor.textbook_eval, "floor": floor.fewest_eval},
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CxB", help=", ".join(CASES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--backbone", choices=BACKBONES, default="ViT-B/16")
    parser.add_argument("--repeats", type=int, help="timed steps of each formulation (default: fewer for large cases)")
    measure.add_output_options(parser)
    return parser


# ---------------------------------------------------------------------------------------------- in a child process


def prepare(case: Case, backbone: str, device: str, precision: str) -> tuple[Any, ...]:
    """Arguments of :func:`benchmarks.ours.build` but the first, and the batch."""
    if device == "cpu":
        measure.limit_memory()
    weights = random_backbone(backbone)
    batch = random_batch(case.batch, case.classes, weights.image_size, torch.device(device))
    return (config(case, backbone, device, precision), weights, class_names(case)), batch


def measure_memory(variant: str, case: Case, backbone: str, device: str, precision: str) -> dict[str, int] | None:
    parts, batch = prepare(case, backbone, device, precision)
    subject = build(variant, *parts)
    del parts  # the textbook formulation has its own copies of the weights
    return peak_of_step(subject, batch, torch.device(device))


def peak_of_step(subject: Any, batch: Mapping[str, Any], device: torch.device) -> dict[str, int] | None:
    """Memory of a training step, the optimiser's state being there already."""
    for parameter in subject.optim.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    subject.optim.step()
    subject.optim.zero_grad()
    return measure.peak_of(lambda: subject.train_step(batch), device)


def measure_time(
    variants: Sequence[str], case: Case, backbone: str, device: str, precision: str, repeats: int
) -> dict[str, Any]:
    """Training steps and test batches of all ``variants`` in turn, operations, and the rate of matrix products."""
    parts, batch = prepare(case, backbone, device, precision)
    ours = Ours(*parts)
    subjects: dict[str, Ours | TextbookANPrompt] = {"ours": ours}
    if "textbook" in variants:
        subjects = {"textbook": TextbookANPrompt(ours)} | subjects
    work, where = work_of(ours, case), torch.device(device)
    products = matrix_products(work, AUTOCAST_DTYPES.get(precision, torch.float32), where)  # timed among the steps
    bar = tqdm(total=2 * repeats * (len(subjects) + len(products)), desc=f"time of {case.name}", leave=False)

    def compare(kind: str, actions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        for action in actions.values():
            for _ in range(WARM_UP[device]):
                action()
        times = measure.interleaved({**actions, **products}, repeats, where, bar.update)
        counts = COUNTS[kind]
        with ours.eager():
            counted = measure.multiply_adds(actions["ours"])
        operations = {
            "textbook": sum(counts["textbook"](work).values()),
            "ours": counted,
            "floor": sum(counts["floor"](work).values()),
        }
        return measure.comparison({name: times[name] for name in actions}) | {
            "multiply_adds": operations,
            "floor": against_floor(times, counts["floor"](work), work),
        }

    training = compare("training", {name: partial(subject.train_step, batch) for name, subject in subjects.items()})
    with ours.evaluation():
        tests = {name: partial(subject.eval_batch, batch["img"]) for name, subject in subjects.items()}
        return {"training": training, "evaluation": compare("evaluation", tests)}


def work_of(ours: Ours, case: Case) -> floor.Work:
    prompts = prompts_for(case.dataset, ours.dm.dataset.classnames)
    lengths = (end_of_text(ours.backbone.tokenize(prompts)) + 1).tolist()
    first = (ours.model.text_layers[0], ours.model.vision_layers[0])
    shared = ours.model.classes.trunk.layout.shared
    return floor.Work.of(ours.model.clip, first, lengths, case.batch, ours.values.N_TOKENS, shared)


def product_rows(work: floor.Work) -> dict[str, int]:
    return {"text": sum(work.lengths), "vision": work.batch * (1 + work.patches + work.tokens)}


def matrix_products(work: floor.Work, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Each tower's product of ``[rows, D]`` and ``[D, 4 D]``."""
    products: dict[str, Callable[[], Any]] = {}
    for tower, rows in product_rows(work).items():
        width = getattr(work, tower).width
        left, weight = (torch.randn(size, width, device=device).to(dtype) for size in (rows, 4 * width))
        products[tower] = partial(torch.nn.functional.linear, left, weight)
    return products


def against_floor(times: dict[str, list[float]], fewest: floor.Counts, work: floor.Work) -> dict[str, Any]:
    """Time of the fewest multiply-adds at the measured rate of matrix products, and how many times that ours takes."""
    products = {tower: 4 * rows * getattr(work, tower).width ** 2 for tower, rows in product_rows(work).items()}
    rates = {tower: count / statistics.median(times[tower]) for tower, count in products.items()}
    least = sum(count / rates[tower] for tower, count in fewest.items())
    return {
        "multiply_adds_per_second": rates,
        "seconds": least,
        "ours_over_floor": statistics.median(times["ours"]) / least,
    }


# ---------------------------------------------------------------------------------------------- command line


def run_case(case: Case, backbone: str, device: str, precision: str, repeats: int | None) -> dict[str, Any]:
    where = (case, backbone, device, precision)
    memory = {variant: measure.in_child(measure_memory, variant, *where) for variant in VARIANTS}
    count = repeats or case.repeats
    times = measure.in_child(measure_time, VARIANTS, *where, count)
    if times is None:  # ours alone may fit
        times = measure.in_child(measure_time, ["ours"], *where, count)
    if all(memory.values()):
        memory["ratio"] = memory["textbook"]["added"] / memory["ours"]["added"]
    return {"classes": case.classes, "batch": case.batch, "longest": case.longest, "memory": memory, **(times or {})}


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda, but PyTorch finds no CUDA device: use --device cpu", file=sys.stderr)
        return 2
    settings = {"method": "ANPrompt", "backbone": args.backbone, "device": args.device, "precision": args.precision}
    cases: list[dict[str, Any]] = []
    result = measure.result_of("step", argv, **settings, cases=cases)
    for name in tqdm(args.cases, desc="cases"):
        cases.append(run_case(CASES[name], args.backbone, args.device, args.precision, args.repeats))
        measure.save(result, args.output)  # whatever happens to the next case
    measure.hand_over(result, args, step_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
