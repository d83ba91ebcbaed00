"""Clocks, memory, the machine, and how a benchmark hands over its results."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from anprompt.runs.results import versions

MEMORY_SHARE = 0.9  # of the free memory: beyond, the system would end processes, and not only ours
STATUS = Path("/proc/self/status")
CPU_ATTENTION = {  # PyTorch's counter does not know the CPU's fused attention
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


# ---------------------------------------------------------------------------------------------- time


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time until the device has finished, launches included: at batch 4 they are most of it."""
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def interleaved(
    actions: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, tick: Callable[[], Any]
) -> dict[str, list[float]]:
    """Time all actions ``repeats`` times in turn, so that a slow minute of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats):
        for name in list(actions)[:: 1 if repeat % 2 else -1]:  # whoever comes second may find warmer caches
            times[name].append(seconds(actions[name], device))
            tick()
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def comparison(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Seconds of each variant, and the ratio textbook / ours of the runs that stood side by side."""
    result: dict[str, Any] = {name: {"seconds": values, **spread(values)} for name, values in times.items()}
    if {"textbook", "ours"} <= set(times):
        result["ratio"] = spread([a / b for a, b in zip(times["textbook"], times["ours"], strict=True)])
    return result


# ---------------------------------------------------------------------------------------------- operations


def multiply_adds(action: Callable[[], Any]) -> float:
    """Multiply-adds of the matrix products that ``action`` runs."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operator that the counter cannot see into
    try:
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            action()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() / 2


# ---------------------------------------------------------------------------------------------- memory


def peak_of(action: Callable[[], Any], device: torch.device) -> dict[str, int] | None:
    """Bytes before ``action`` (weights, optimiser; on a CPU also the interpreter) and the most that it added.

    CUDA: of the allocated tensors. CPU: resident memory of this process, which only Linux lets us reset; else None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        level = torch.cuda.memory_allocated(device)
        action()
        return {"level": level, "added": torch.cuda.max_memory_allocated(device) - level}
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # sets the high-water mark to the present level
    level = _kernel(STATUS, "VmHWM")
    action()
    return {"level": level, "added": _kernel(STATUS, "VmHWM") - level}


def _kernel(file: Path, key: str) -> int:
    """Bytes that a file of ``/proc`` gives for ``key``."""
    return 1024 * next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{key}:"))


def limit_memory() -> None:
    """Make a CPU process fail where it would eat up the machine's free memory. Only Linux tells and obeys."""
    information = Path("/proc/meminfo")
    if information.exists():
        import resource

        limit = int(MEMORY_SHARE * _kernel(information, "MemAvailable"))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Result of ``function(*args)`` in a fresh process: peaks of memory outlive what caused them.

    Returns None where the machine's memory does not suffice.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:  # ended by the system
            return None
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                return None
            raise


# ---------------------------------------------------------------------------------------------- machine


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on; nothing that names the computer."""
    described = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "versions": versions(),
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    return described


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------------------------------------- results


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--markdown", action="store_true", help="print what docs/performance.md shows")


def result_of(benchmark: str, argv: Sequence[str] | None, **values: Any) -> dict[str, Any]:
    """``values`` of a benchmark, with the command line and the machine that they come from."""
    words = sys.argv[1:] if argv is None else argv
    command = " ".join([f"python -m benchmarks.{benchmark}", *words])
    return {"benchmark": benchmark, **values, "command": command, "machine": machine(values.get("device", "cpu"))}


def save(result: Mapping[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def hand_over(result: dict[str, Any], args: argparse.Namespace, table: Callable[[dict[str, Any]], str]) -> None:
    """Save the results and print them, as :func:`add_output_options` lets the user choose."""
    save(result, args.output)
    print(table(result) if args.markdown else json.dumps(result, indent=1))
