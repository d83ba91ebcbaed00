"""``python -m anprompt video-lists``: lists of a few clips per class, drawn from those of all."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from anprompt.utils.files import at_home, atomic_path
from anprompt.utils.text import printable
from anprompt.video.dataset import SUBSETS
from anprompt.video.lists import draw_shots, read_list

HELP = "draw few-shot lists of clips"
DESCRIPTION = """
Draw K random clips of each class from base_train.txt into fs_base_s1.txt and so on, one for each seed, and from
train.txt into few_shot_K.txt, with the first seed. Lists that are there are left as they are.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("video-lists", help=HELP, description=DESCRIPTION)
    parser.add_argument("folder", metavar="LIST_DIR", type=at_home, help="folder of the lists of a data set of clips")
    parser.add_argument("--shots", metavar="K", type=int, default=16, help="clips of each class (default: 16)")
    parser.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[1, 2, 3], help="seeds of the draws (default: 1 2 3)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.shots < 1 or min(args.seeds) < 1:
        raise ValueError(f"--shots {args.shots} --seeds {' '.join(map(str, args.seeds))}: expected numbers from 1 on")
    drawn = dict(wanted(args.folder, args.shots, args.seeds))
    if not drawn:
        names = " and no ".join(f"{subset.train}.txt" for subset in SUBSETS.values() if subset.train)
        raise ValueError(f"there is no {names} in {args.folder}: nothing to draw from; name the folder of the lists")
    for path, (source, seed) in drawn.items():
        if path.exists():
            print(printable(f"{path} is there, and left as it is"))
            continue
        entries = read_list(source, args.folder)
        lines = source.read_text(encoding="utf-8-sig").split("\n")
        # As they were written, whatever their form and wherever their paths lead from.
        line_of = dict(zip(entries, (line.strip() for line in lines if line.strip()), strict=True))
        chosen = draw_shots(list(line_of), args.shots, seed)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line_of[entry]}\n" for entry in chosen), encoding="utf-8", newline="\n")
        classes = len({entry.label for entry in chosen})
        print(printable(f"{path}: {len(chosen):,} clips of {classes:,} classes, drawn from {source.name}"))
    return 0


def wanted(folder: Path, shots: int, seeds: list[int]) -> Iterator[tuple[Path, tuple[Path, int]]]:
    """Each list to be drawn, with the list that it is drawn from and the seed."""
    for subset in SUBSETS.values():
        source = folder / f"{subset.train}.txt"
        if subset.train and source.is_file():
            for seed in seeds:
                path = folder / f"{subset.few.format(shots=shots, seed=seed)}.txt"
                if "{seed}" in subset.few or seed == seeds[0]:
                    yield path, (source, seed)
