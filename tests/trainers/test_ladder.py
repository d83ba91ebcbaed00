"""The rungs between MMRL and ANPrompt: YAML files, the page that lists them, and where they meet the other trainers."""

import re

import pytest
import yaml

from dassl.config import get_cfg_default
from tests.conftest import small_clip
from tests.helpers import REPOSITORY
from trainers import anprompt, mmrl, mmrlpp

CONFIGS = REPOSITORY / "configs" / "trainers" / "ANPrompt"
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (REPOSITORY / "docs" / "ladder.md").read_text().split("\n## ")[0].splitlines()
    if line.startswith("| ")
]
KEYS, RUNGS = TABLE[0][1:-1], {row[0].strip("`"): row[1:-1] for row in TABLE[1:]}
NODES = {"SIM_W": "LOSS.SIM_W", "WA_W": "LOSS.WA_W"}


def stem(rung):
    return rung if rung.startswith("tiny") else f"tiny_ladder_{rung}"


def values(rung, dataset="Shapes"):
    """The node of a rung's file on data without an entry in the table of datasets."""
    cfg = get_cfg_default()
    anprompt.add_anprompt_cfg(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{stem(rung)}.yaml"))
    cfg.DATASET.NAME = dataset
    anprompt.SETTINGS.check(cfg)
    return anprompt.SETTINGS.values(cfg)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_page_says_what_the_file_sets(rung):
    node = values(rung)
    for key, cell in zip(KEYS, RUNGS[rung], strict=True):
        value = node
        for part in NODES.get(key, key).split("."):
            value = value[part]
        assert str(value) == cell.strip("*"), key


@pytest.mark.parametrize(("above", "rung"), list(zip(RUNGS, list(RUNGS)[1:], strict=False)))
def test_a_rung_differs_from_the_one_above_in_what_is_bold(above, rung):
    changed = [before.strip("*") != cell.strip("*") for before, cell in zip(RUNGS[above], RUNGS[rung], strict=True)]
    assert changed == [bool(re.fullmatch(r"\*\*.+\*\*", cell)) for cell in RUNGS[rung]] and any(changed)


def test_rungs_share_all_but_the_method():
    files = [yaml.safe_load((CONFIGS / f"{stem(rung)}.yaml").read_text()) for rung in RUNGS]
    for file in files:
        file.pop("TRAINER")
    assert all(file == files[0] for file in files)


@pytest.mark.parametrize(
    ("rung", "learner"),
    [("0_mmrl", mmrl.RepresentationLearner), ("4_beta", mmrlpp.SharedRepresentationLearner)],
)
def test_where_the_ladder_meets_the_other_trainers(rung, learner):
    clip, node = small_clip(), values(rung)
    ours = anprompt.TokenLearner(clip, node).state_dict()
    theirs = learner(clip, node.N_TOKENS, node.REP_DIM, len(node.LAYERS)).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: one.shape for name, one in theirs.items()}
