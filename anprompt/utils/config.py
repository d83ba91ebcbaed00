"""The keys that all trainers here share, merging with errors that help, and comparing the configs of two runs."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from yacs.config import CfgNode

from anprompt.utils import strict_yaml
from anprompt.utils.files import require_file
from anprompt.utils.suggest import suggest

# Where a run's files are and how it is watched: none of it changes what the run computes, but for the content of the
# weights file and for NUM_WORKERS: anprompt/runs/inputs.py and a resume compare what these decide.
CIRCUMSTANCES = (
    "DATALOADER.CACHE_TEST", "DATALOADER.KEEP_TRAIN_GB", "DATALOADER.NUM_WORKERS", "DATASET.ANCHOR.CHECK_LEAK",
    "DATASET.ANCHOR.VIDEO_DIR", "DATASET.LIST_DIR", "DATASET.ROOT", "DATASET.VIDEO_DIR", "MODEL.BACKBONE.PATH",
    "OUTPUT_DIR", "RESUME", "TRAIN.CUDA_GRAPH", "TRAIN.PRINT_FREQ", "USE_CUDA", "VERBOSE", "VIDEO.MAX_RETRIES",
)  # fmt: skip
DESCRIPTION_FOLDERS = (".NOISE.GPT_DIR", ".NOISE.HPT_DIR")
FOLDERS_OF_RUNS = (".HARD.SOURCE",)  # in which another run has left what this one starts from
YAML_DATA = ("ImageFolder", "VideoList")  # DATASET.NAME of data that nothing but a YAML file describes
WHOLE = re.compile(r"[+-]?\d+")
YAML_SUFFIXES = (".yaml", ".yml", "")
AS_MANY = ("INPUT.SIZE", "INPUT.RRCROP_SCALE", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD", "VIDEO.RRC_SCALE")  # numbers
# What Python's reader of literals raises, besides ValueError, for "{[]: 1}" and for thousands of brackets.
UNREADABLE = (TypeError, RecursionError, MemoryError)


SHARED_KEYS: dict[str, dict[str, Any]] = {
    "DATASET": {
        "SUBSAMPLE_CLASSES": "all",  # all, base or new
        "TEMPLATE": "",  # prompt with {} for the class name; empty: the one of the dataset in templates.py
        "FOLDER": "",  # DATASET.NAME ImageFolder or VideoList: the folder of your data, below DATASET.ROOT
        "SPLIT": "",  # DATASET.NAME ImageFolder: a CSV or JSON file in it that lists them; empty: train/<class>/
        "ID": "",  # what results call the data; empty: NAME, of these two the YAML file's stem (train.py) or FOLDER
        # Of clips only:
        "LIST_DIR": "",  # folder of the lists and label files; empty: the data set's own place below DATASET.ROOT
        "VIDEO_DIR": "",  # folder of the clips that the lists name; empty: likewise
        "SPLIT_SEED": 0,  # which list of 16 clips per class: 1 is s1; 0: that of the run's SEED
        "CLASSNAME_STYLE": "raw",  # raw, or split: "BasketballDunk" becomes "basketball dunk"
    },
    "DATASET.ANCHOR": {  # irrelevant clips, which are train_u
        "LIST": "",  # empty: the data set's own, if it has any
        "VIDEO_DIR": "",  # empty: that of the data set
        "CHECK_LEAK": "warn",  # what to do where an anchor is a clip of an evaluation list: warn, error or off
    },
    "VIDEO": {
        "NUM_FRAMES": 32,  # T: frames that are taken of a clip
        "TRAIN_SAMPLING": "segment",  # segment: one frame at random of each of T equal parts; segment_vifi: ViFi-CLIP's
        "TEST_SAMPLING": "center",  # of each part the frame in the middle, or at its start
        "TEST_CLIPS": 1,  # test views in time, whose frames lie between each other
        "TEST_CROPS": 1,  # test views in space: 1 in the middle, or 3 along the longer side
        "VIEW_FUSION": "embedding",  # what is averaged over the views: embedding or prob
        "BACKEND": "auto",  # what is read for an entry of a list: the file it names (pyav), its frames, its npz
        "SHORT_SIDE": 256,  # pixels to which the shorter side is scaled before a crop
        "RESIZE": (),  # height and width to scale to instead, whatever the shape: (240, 320) for SSv2
        "CROP": "rrc",  # of training: random resized crop, or multiscale
        "RRC_SCALE": (0.08, 1.0),  # share of the area
        "FLIP_P": 0.5,  # 0.0 where left and right make classes, as in SSv2
        "GRAY_P": 0.2,
        "MAX_RETRIES": 10,  # clips that a training draws in place of one that cannot be read; an evaluation ends there
    },
    "DATALOADER": {
        "KEEP_TRAIN_GB": 2.0,  # decoded training images stay in memory if they take no more (10^9 bytes); 0: never
        "AUGMENT_ON_GPU": False,  # keep and augment training images on the GPU; not bit-equal to the CPU's augmentation
        "CACHE_TEST": True,  # decoded test images stay on disk, in anprompt/test_images/ of the user's cache folder
    },
    "MODEL.BACKBONE": {"PATH": ""},  # weights file; empty: the usual places for MODEL.BACKBONE.NAME
    "TRAIN": {
        "CUDA_GRAPH": False,  # replay each step's kernels as one CUDA graph; without effect on a CPU
        "ACCUMULATE": 1,  # batches whose gradients make one update; an epoch's last update may have fewer
    },
    "TEST": {"TARGET_SETTINGS": False},  # let a test use other settings than its training, which the result then says
}


def add_shared_cfg(cfg: CfgNode) -> None:
    """Add the keys that all trainers here read, where the caller's ``train.py`` has not added them."""
    for path, keys in SHARED_KEYS.items():
        node = cfg
        for part in path.split("."):
            node = node.setdefault(part, CfgNode())
        for key, value in keys.items():
            if key not in node:
                node[key] = value


def dataset_id(cfg: CfgNode) -> str:
    """What results call the data. ``ImageFolder`` is only the name of a kind of data: two of them are told apart."""
    data = cfg.DATASET
    return data.ID or (data.FOLDER if data.NAME in YAML_DATA else "") or data.NAME


def add_trainer_node(cfg: CfgNode, name: str) -> CfgNode:
    """Add ``TRAINER.<name>`` with the precision, which all trainers have, and the shared keys; the new node."""
    add_shared_cfg(cfg)
    node = cfg.TRAINER[name] = CfgNode()
    node.PREC = "amp"  # fp32, amp (fp16 with loss scaling) or bf16
    return node


def require(condition: bool, message: str) -> None:
    """Raise a ValueError for a configuration mistake."""
    if not condition:
        raise ValueError(message)


def require_number(key: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise a ValueError unless ``value`` is a number in ``low..high``; ``key`` names it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(number and low <= value <= high, f"{key}: expected a number in {low}..{high}, got {value!r}")


def merge_file(cfg: CfgNode, path: str) -> None:
    """``cfg.merge_from_file`` for users; a whole number is taken where the config has a float.

    Raises:
        FileNotFoundError: names the YAML files of that folder that come close.
        ValueError: not YAML, or YAML that contradicts itself (see :mod:`strict_yaml`), an unknown key (names close
            ones), no value, or a value of another type.
    """
    file = Path(path)
    require_file(file, "the config file")
    if not file.is_file():
        raise FileNotFoundError(f"no config file {path}; {_near(file)}")
    if file.suffix not in YAML_SUFFIXES:  # yacs would run a .py
        raise ValueError(
            f"the config file {path} has another ending than .yaml or .yml: only YAML is read, and no Python"
        )
    try:
        given = CfgNode(strict_yaml.load(file.read_text(encoding="utf-8")))  # an AttributeError without keys
        _refuse_misfits(given, cfg)
        _widen(given, cfg)
        cfg.merge_from_other_cfg(given)
    except KeyError as error:
        raise ValueError(f"{path}: {unknown_key(_named_key(error), cfg)}") from error
    except AttributeError as error:
        raise ValueError(f"{path}: expected YAML keys such as OPTIM: with values below them") from error
    except (ValueError, AssertionError, *UNREADABLE) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """``cfg.merge_from_list`` for users: ``KEY VALUE`` pairs, as typed after all flags; whole numbers as in files.

    Raises:
        ValueError: an odd number of words, an unknown key (names close ones), no value, or one of another type.
    """
    flags = [word for word in overrides if word.startswith("--")]
    if flags:
        raise ValueError(f"{flags[0]} comes after the first config override: put all flags before the KEY VALUE pairs")
    if len(overrides) % 2:
        raise ValueError(f"config overrides are pairs of KEY VALUE, got {len(overrides)} words: {' '.join(overrides)}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in dict(leaves(cfg)):
            raise ValueError(unknown_key(key, cfg))
        old = dict(leaves(cfg))[key]
        try:
            cfg.merge_from_list([key, f"{value}.0" if isinstance(old, float) and WHOLE.fullmatch(value) else value])
        except (ValueError, *UNREADABLE) as error:
            raise ValueError(f"{key} takes {_kind(old)}, got {value!r:.80}") from error
        _require_fit(key, dict(leaves(cfg))[key], old)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}, such as {value!r}"


def _refuse_misfits(given: CfgNode, cfg: CfgNode, section: str = "") -> None:
    """What yacs takes, or answers with a whole tree: a value in place of a section, the reverse, and no value."""
    for name, value in given.items():
        key = f"{section}{name}"
        if name not in cfg:
            continue  # for yacs to refuse, unless the node takes new keys
        old = cfg[name]
        if isinstance(old, CfgNode):
            require(isinstance(value, CfgNode), f"{key} is a section: expected keys below it, found {value!r:.80}")
            _refuse_misfits(value, old, f"{key}.")
        elif old is not None:
            require(not isinstance(value, CfgNode), f"{key} takes {_kind(old)}, found a section with keys below it")
            _require_fit(key, value, old)


def _require_fit(key: str, value: Any, old: Any) -> None:
    """yacs takes None for everything, and a sequence of any length."""
    require(value is not None or old is None, f"{key} has no value: it takes {_kind(old)}")
    if key in AS_MANY and isinstance(value, list | tuple):
        numbers = all(isinstance(number, int | float) for number in value)
        require(numbers and len(value) == len(old), f"{key} takes {len(old)} numbers, such as {old!r}, got {value!r}")
    if key == "OPTIM.STEPSIZE" and isinstance(value, list | tuple):
        whole = bool(value) and all(type(number) is int for number in value)
        require(whole, f"{key} takes whole epochs, such as {old!r}, got {value!r}")


def _near(file: Path) -> str:
    """What is there in place of ``file``; where its folder is missing, the folders beside it: those of trainers."""
    folder, near = file.parent, file.parent.parent
    if folder.is_dir() or not near.is_dir():
        return f"in {folder}: {suggest(file.stem, [other.stem for other in folder.glob('*.yaml')])}"
    return f"folders in {near}: {suggest(folder.name, [other.name for other in near.iterdir() if other.is_dir()])}"


def _widen(given: CfgNode, cfg: CfgNode) -> None:
    """Turn whole numbers into floats where ``cfg`` has floats: the family's files say ``GPA_MEAN: 15``."""
    for key, value in given.items():
        old = cfg.get(key)
        if isinstance(value, CfgNode) and isinstance(old, CfgNode):
            _widen(value, old)
        elif type(value) is int and isinstance(old, float):
            given[key] = float(value)


def require_text(cfg: CfgNode) -> None:
    """Raise a ValueError where a value holds what no path has, or bytes that are not UTF-8, as the shell gave them."""
    for key, value in leaves(cfg):
        for text in value if isinstance(value, list | tuple) else [value]:
            encodable = not isinstance(text, str) or text == text.encode("utf-8", "replace").decode()
            require(encodable, f"{key} {text!r} is not UTF-8: rename the file or folder")
            require(not isinstance(text, str) or "\0" not in text, f"{key} {text!r} has a zero byte: leave it out")


def unknown_key(key: str, cfg: CfgNode) -> str:
    """Message for a key that ``cfg`` does not have."""
    method = key.split(".")[1] if key.startswith("TRAINER.") else ""
    if method and method not in cfg.TRAINER:
        return (
            f"no trainer declares the config node TRAINER.{method}: {suggest(method, cfg.TRAINER)} "
            "(a file in trainers/ declares its node in a function extend_cfg(cfg))"
        )
    return f"unknown config key {key}: {suggest(key, dict(leaves(cfg)))}"


def _named_key(error: KeyError) -> str:
    return str(error.args[0]).rsplit(": ", maxsplit=1)[-1]  # yacs: "Non-existent config key: A.B"


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("OPTIM.LR", 0.002)`` and so on, for every value of a config tree."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The tree as JSON keeps it (tuples become lists), as stored in ``config.json`` and ``results.json``."""
    return json.loads(json.dumps(cfg))


def differences(stored: Mapping[str, Any], cfg: CfgNode) -> list[str]:
    """``KEY stored -> present`` of every value in which two configs differ.

    Left out are circumstances of the run, the nodes of other trainers, and keys that only one of the two has: those
    came with another version or with a file dropped into ``trainers/``.
    """
    before, now = compared(stored, cfg.TRAINER.NAME), compared(as_plain(cfg), cfg.TRAINER.NAME)
    keys = sorted(before.keys() & now.keys())
    return [f"{key} {before[key]} -> {now[key]}" for key in keys if not same_value(key, before[key], now[key])]


def compared(config: Mapping[str, Any], trainer: str) -> dict[str, Any]:
    """Of a stored config, what decides the numbers of a run of ``trainer``: value by key."""
    own = ("TRAINER.NAME", f"TRAINER.{trainer.upper()}.")
    return {
        key: value
        for key, value in leaves(config)
        if key not in CIRCUMSTANCES and (key.startswith(own) or not key.startswith("TRAINER."))
    }


def same_value(key: str, old: Any, new: Any) -> bool:
    """Whether two values of a key in :func:`compared` decide the same numbers."""
    if key.endswith(DESCRIPTION_FOLDERS):  # they may move, like the data
        return bool(old) == bool(new)
    if key.endswith(FOLDERS_OF_RUNS):
        return _kind_of_run(old) == _kind_of_run(new)
    return old == new


def _kind_of_run(folder: str) -> object:
    """Its data, trainer and YAML file: results may move, and every seed starts from a run of its own."""
    parts = PurePath(folder).parts
    return parts[-5:-1] if parts and re.fullmatch(r"seed\d+", parts[-1]) else folder
