"""Average the results of runs that differ in the seed, from their logs.

    python parse_test_res.py DIR               DIR holds seed1/, seed2/, ..., each with the log.txt of a training run
    python parse_test_res.py DIR --test-log    the same for --eval-only runs
    python parse_test_res.py DIR --multi-exp   DIR holds experiments, each of which holds seed1/, seed2/, ...
    python parse_test_res.py BASE NEW          also the harmonic mean of both averages; NEW holds --eval-only runs
    python parse_test_res.py DIR --exact       unrounded numbers from results.json (logs are rounded to 0.1 %)

A folder that holds the log itself counts as one run. BASE and NEW must hold the same seeds. Deviations are those of the
population, as in the CoOp family. Intervals (--ci95) are Student's, as in `python -m anprompt table`; the family's,
1.96 sigma / sqrt(n), is too narrow for a few seeds and is named beside them.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from anprompt.runs.measures import harmonic_mean
from anprompt.runs.run_folder import RESULTS
from anprompt.table.core import Stat

END_OF_TRAINING = ("Finish training", "Finished training")  # Dassl since 0.6.1, before 0.6.1
RESULT = ("=> result",)


@dataclass
class Source:
    """Where a run's number is read: the name of its file, and how to look into it."""

    keyword: str
    test_log: bool
    exact: bool

    @property
    def file(self) -> str:
        return RESULTS if self.exact else "log.txt"

    def read(self, folder: Path) -> float:
        """The run's number in per cent; ValueError where the run has not finished."""
        path = folder / self.file
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the run has not started or not finished")
        return self.read_results(path) if self.exact else self.read_log(path)

    def read_results(self, path: Path) -> float:
        key = {"error": "error_rate"}.get(self.keyword, self.keyword)  # logs say error
        try:
            value = dict(json.loads(path.read_text(encoding="utf-8"))).get(key)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it and run again") from error
        if not isinstance(value, int | float):
            raise ValueError(f"{path} has no number called {self.keyword!r}")
        return float(value)

    def read_log(self, path: Path) -> float:
        """Last ``* keyword: x%`` after the line that ends the training (or, of a test log, begins the result)."""
        signals = RESULT if self.test_log else END_OF_TRAINING
        pattern = re.compile(rf"\* {re.escape(self.keyword)}: ([\d.eE+-]+)%")
        armed, found = False, None
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            armed = armed or line.strip() in signals
            match = pattern.search(line) if armed else None
            if match:
                found = float(match.group(1))
        if found is None:
            if armed:
                wanted = f"* {self.keyword}: ...%"
                raise ValueError(
                    f"{path}: no {wanted!r}: the run has not finished, or {self.keyword} is none of its metrics"
                )
            hint = "" if self.test_log else " (logs of --eval-only runs need --test-log)"
            raise ValueError(f"{path}: no line {signals[0]!r}: the run has not finished{hint}")
        return found


@dataclass
class Summary:
    """Mean over runs, in per cent, and the seeds that it is over, as far as they are known."""

    mean: float
    seeds: list[str]


def seed_of(folder: Path) -> list[str]:
    """From the name ``seedN``; empty where the folder is called otherwise."""
    return re.findall(r"^seed(-?\d+)$", folder.resolve().name)


def visible_folders(directory: Path) -> list[Path]:
    """Sub-folders that are not hidden; files beside them are of no interest."""
    if not directory.is_dir():
        raise FileNotFoundError(f"no folder {directory}")
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def summarise(directory: Path, source: Source, ci95: bool) -> Summary:
    """Print and average the runs of one experiment."""
    folders = [directory] if (directory / source.file).is_file() else visible_folders(directory)
    if not folders:
        raise FileNotFoundError(f"no runs in {directory}: expected folders such as seed1/ with {source.file}")
    values = []
    for folder in folders:
        values.append(source.read(folder))
        print(f"{folder / source.file}: {source.keyword} {values[-1]:.2f}%")
    print("===", f"{directory}: {len(values)} run{'s' * (len(values) > 1)}", sep="\n")
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    if ci95 and len(values) > 1:
        family = 1.96 * deviation / math.sqrt(len(values))
        print(f"95 % confidence interval: Student's t; the CoOp family's 1.96 sigma / sqrt(n) is +- {family:.2f}%")
        deviation = Stat.of(values, ci95=True).spread or 0.0
    elif ci95:
        print("one run has no confidence interval")
    print(f"* {source.keyword}: {mean:.2f}% +- {deviation:.2f}%")
    return Summary(mean, [seed for folder in folders for seed in seed_of(folder)])


def average(directory: Path, source: Source, args: argparse.Namespace) -> Summary:
    """Average over the runs in ``directory``, or over its experiments' averages."""
    if not args.multi_exp:
        return summarise(directory, source, args.ci95)
    experiments = visible_folders(directory)
    if not experiments:
        raise FileNotFoundError(f"no experiments in {directory}")
    summaries = {folder.name: summarise(folder, source, args.ci95) for folder in experiments}
    overall = statistics.fmean(one.mean for one in summaries.values())
    print(f"Average over {len(summaries)} experiments of {directory}", f"* {source.keyword}: {overall:.2f}%", sep="\n")
    return Summary(overall, [f"{name} {seed}" for name, one in summaries.items() for seed in one.seeds])


def check_seeds(base: Summary, new: Summary) -> None:
    """The halves of HM are of the same runs.

    Raises:
        ValueError: the folders say otherwise.
    """
    if base.seeds and new.seeds and sorted(base.seeds) != sorted(new.seeds):
        there = f"base has {', '.join(base.seeds)}, new has {', '.join(new.seeds)}"
        raise ValueError(f"no HM over different seeds: {there}. Run what is missing, or name the same seeds' folders")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of the runs")
    parser.add_argument("new_directory", type=Path, nargs="?", help="folder of the same runs' tests on new classes")
    parser.add_argument("--ci95", action="store_true", help="95 %% confidence interval (Student), not deviation")
    parser.add_argument("--test-log", action="store_true", help="the logs are those of --eval-only runs")
    parser.add_argument("--multi-exp", action="store_true", help="the folder holds several experiments")
    parser.add_argument("--keyword", default="accuracy", help="the number to average: accuracy, error, macro_f1, ...")
    parser.add_argument("--exact", action="store_true", help="read results.json instead of log.txt")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    args = build_parser().parse_args(argv)
    try:
        base = average(args.directory, Source(args.keyword, args.test_log, args.exact), args)
        if args.new_directory:
            new = average(args.new_directory, Source(args.keyword, True, args.exact), args)
            check_seeds(base, new)
            row = [base.mean, new.mean, harmonic_mean(base.mean, new.mean)]
            print(tabulate([row], headers=["base", "new", "HM"], floatfmt=".2f"))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
