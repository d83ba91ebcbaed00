"""2,000 odd inputs through the commands, as a user would give them: it works, or one line names the key or the file."""

import copy
import json
import logging
import random
import sys
from pathlib import Path

import pytest
import torch
import yaml

import train
from anprompt import cli
from anprompt.commands import train as command
from anprompt.engine.trainer import LEARNER
from anprompt.utils.config import add_shared_cfg, leaves
from dassl.config import get_cfg_default
from tests.helpers import REPOSITORY, fakes
from tests.helpers.runs import fewer_test_images, start

pytestmark = pytest.mark.slow

SEED = 13
OVERRIDES, FILES, LISTS, CHECKPOINTS, RESULTS = 350, 350, 200, 550, 550
assert OVERRIDES + FILES + LISTS + CHECKPOINTS + RESULTS == 2000

WORDS = [
    "None", "", "()", "(0.5,)", "(1,2)", "(224,224)", "[1,2,3]", "['a']", "{}", "{1:2}", "{[]:1}", "1e400", "-1e400",
    "nan", "-0", "0", "1", "-1", "2", "3", "0.5", "-0.5", "1e-300", "010", "1_0", "1j", "b'x'", "'a'", "True", "False",
    "lambda:0", "...", "\u6a2b", "(" * 300, "9" * 5000, "9" * 12, "\0", "\udc80", "--seed", "all", "base", "best_val",
    "sgd", "cosine", "single_step", "/dev/null", "~nobody/x", "a\x1b[2Jb",
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, -1, 2, 2**40, -(2**70), 0.5, -1.5, float("nan"), float("inf"), "", "x", "1", "None", [],
    [1], [0.5, 0.5], [1, "a"], [[]], {}, {"a": 1}, {"LR": {"LR": 1}}, "\u6a2b\u200b", "a\nb", "../..", "/",
]  # fmt: skip
STAND = {"OUTPUT_DIR", "DATASET.ROOT"}  # where the test writes and reads


def tree():
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    return cfg


KEYS = [key for key, _ in leaves(tree()) if key not in STAND and (key == "TRAINER.NAME" or "TRAINER" not in key)]
KEYS += ["TRAINER.KGCOOP.W", "TRAINER.KGCOOP.CTX_INIT", "TRAINER.KGCOOP.N_CTX", "TRAINER.KGCOOP.PREC"]


@pytest.fixture
def told(data_root, tmp_path, monkeypatch, capsys):
    """Call ``train.py`` without training; the status, and what stderr got. A traceback fails the test."""
    monkeypatch.setattr(command, "collect_env_info", lambda: "a machine")
    monkeypatch.setattr(command.gc, "collect", lambda: 0)  # most of the time of a run that is refused
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.chdir(tmp_path)
    files = REPOSITORY / "configs"
    base = ["--root", str(data_root), "--seed", "1", "--trainer", "KgCoOp"]
    base += ["--dataset-config-file", str(files / "datasets/shapes.yaml")]
    base += ["--config-file", str(files / "trainers/KgCoOp/tiny.yaml"), "--output-dir", str(tmp_path / "out")]
    quick = ["DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.NUM_SHOTS", "1", "DATALOADER.NUM_WORKERS", "0"]

    def call(*words, flags=("--no-train",)):
        status = train.main([*base, *flags, *quick, *words])
        return status, capsys.readouterr().err

    yield call
    for name in command.MESSAGES_OF:
        logging.getLogger(name).handlers.clear()


def answered(status, err, *names):
    """Whether it worked; if not, one line says so, and names one of ``names``."""
    if status == 0:
        return True
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and "Traceback" not in err, err
    assert any(name in err for name in names), (names, errors)
    return False


def parts(key):
    """How a message may name a key: in full, or the choice that it stands for."""
    section, _, last = key.rpartition(".")
    return [key, f"{last} ", last.lower(), *({"NAME": [section.rpartition(".")[2].lower()]}.get(last, []))]


def test_overrides(told):
    dice = random.Random(SEED)
    worked = 0
    for _ in range(OVERRIDES):
        key, value = dice.choice(KEYS), dice.choice(WORDS)
        worked += answered(*told(key, value), *parts(key), *([value] if value.startswith("--") else []))
    assert 20 < worked < OVERRIDES - 30


def test_config_files(told, tmp_path):
    dice = random.Random(SEED)
    whole = (REPOSITORY / "configs/trainers/KgCoOp/tiny.yaml").read_text()
    path = tmp_path / "odd.yaml"
    worked = 0
    for turn in range(FILES):
        key = dice.choice(KEYS)
        if turn % 2:
            value = dice.choice(VALUES)
            content = yaml.safe_load(whole)
            *sections, last = key.split(".")
            node = content
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = copy.deepcopy(value)
            text = yaml.safe_dump(content, allow_unicode=True).encode()
        else:
            text = damaged(dice, whole.encode())
        path.write_bytes(text)
        # What a cut file no longer says, is missed by the name of its key.
        names = parts(key) if turn % 2 else ["MODEL.", "INPUT.", "OPTIM.", "TRAINER.", "DATALOADER.", "backbone"]
        worked += answered(*told("INPUT.INTERPOLATION", "bicubic", flags=["--no-train", "--config-file", str(path)]),
                           "odd.yaml", *names)  # fmt: skip
    assert 30 < worked < FILES - 30


def damaged(dice, content):
    """Cut, or with some bytes exchanged or put in."""
    place = dice.randrange(len(content))
    if dice.random() < 0.3:
        return content[:place]
    noise = dice.choice([b"\t", b"\0", b":", b"{", b"&a *a", b"\xff", b"- ", b"'", b"\n", b"010", b"!!int x", b"9"])
    return content[:place] + noise + content[place + dice.choice([0, len(noise)]) :]


def test_lists(told, tmp_path):
    dice = random.Random(SEED)
    fakes.make_folders(tmp_path)
    folder = tmp_path / "mine"
    images = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.suffix in (".png", ".jpg"))
    rows = [(part, image, Path(image).parent.name) for part in ("train", "test") for image in images if part in image]
    (tmp_path / "mine.yaml").write_text("DATASET: {NAME: ImageFolder, FOLDER: mine, SPLIT: list.json}\n")
    names = sorted({name for *_, name in rows})
    whole = {"train": [], "val": [], "test": []}
    for part, image, name in rows:
        whole[part].append([image, names.index(name), name])
    path = folder / "list.json"
    for turn in range(LISTS):
        content = copy.deepcopy(whole)
        if turn % 3 == 0:
            path.write_bytes(damaged(dice, json.dumps(content).encode()))
        else:
            mutate(dice, content)
            path.write_text(json.dumps(content))
        flags = ["--no-train", "--root", str(tmp_path), "--dataset-config-file", str(tmp_path / "mine.yaml")]
        answered(*told(flags=flags), "list.json", str(folder), "ImageFolder")
    path.write_text(json.dumps(whole))
    assert told(flags=flags)[0] == 0


def mutate(dice, content):
    """Exchange, remove or add one value somewhere in nested containers."""
    places = [content]
    while dice.random() < 0.75:
        node = places[-1]
        inner = [
            value for value in (node.values() if isinstance(node, dict) else node) if isinstance(value, dict | list)
        ]
        if not inner:
            break
        places.append(dice.choice(inner))
    node = places[-1]
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    what = dice.random()
    if not keys or what < 0.15:
        node.update({"odd": 1}) if isinstance(node, dict) else node.append(dice.choice(VALUES))
    elif what < 0.4:
        del node[dice.choice(keys)]
    else:
        node[dice.choice(keys)] = copy.deepcopy(dice.choice(VALUES))


def test_checkpoints(make_cfg, tmp_path):
    """Loaded for a test, resumed from, and started from."""
    dice = random.Random(SEED)
    options = ("OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "OPTIM.LR_SCHEDULER", "cosine")
    trainer = fewer_test_images(start(make_cfg(*options, trainer="KgCoOp")))
    trainer.train()
    folder = Path(trainer.output_dir, LEARNER)
    path = folder / "model.pth.tar-1"
    whole, state = path.read_bytes(), torch.load(path)
    ways = [
        lambda: trainer.load_model(trainer.output_dir, epoch=1),
        lambda: trainer.resume_model_if_exist(trainer.output_dir),
        lambda: trainer.start_from_weights(str(path)),
    ]
    worked = 0
    for turn in range(CHECKPOINTS):
        if turn % 3 == 0:
            path.write_bytes(damaged(dice, whole))
        else:
            odd = copy.deepcopy(state)
            mutate(dice, odd)
            torch.save(odd, path)
        try:
            dice.choice(ways)()
            worked += 1
        except command.USER_ERRORS as error:
            assert "model.pth.tar-1" in str(error) and "\n" not in str(error), repr(error)
    assert worked < CHECKPOINTS - 10
    path.write_bytes(whole)
    for way in ways:
        way()


def test_results(make_cfg, tmp_path, capsys):
    """One odd file among good ones is named, and the table of the others stays."""
    dice = random.Random(SEED)
    trainer = fewer_test_images(
        start(make_cfg("DATALOADER.NUM_WORKERS", "0", trainer="ZeroshotCLIP", output="a/seed1"))
    )
    trainer.train()
    whole = json.loads((tmp_path / "a/seed1/results.json").read_text())
    path = tmp_path / "a/seed2/results.json"
    path.parent.mkdir()
    capsys.readouterr()
    for turn in range(RESULTS):
        content = copy.deepcopy(whole)
        if turn % 3 == 0:
            path.write_bytes(damaged(dice, json.dumps(content).encode()))
        else:
            for _ in range(dice.randrange(1, 4)):
                mutate(dice, content)
            path.write_text(json.dumps(content))
        status = cli.main(["table", str(tmp_path / "a"), "--format", dice.choice(["md", "csv", "latex"])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert status == 0 and (out or str(tmp_path) in err) or (status == 2 and "results.json" in err), (status, err)
