"""The default tree, key by key, and what yacs lets an override change."""

import pytest
from yacs.config import CfgNode

from dassl.config import clean_cfg, get_cfg_default
from tests.toolbox.toy import GOLDEN


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_recorded(value):
    return {"type": type(value).__name__, "value": list(value) if isinstance(value, tuple) else value}


@pytest.fixture
def cfg():
    return get_cfg_default()


def test_every_default_has_the_recorded_type_and_value(cfg):
    assert {key: as_recorded(value) for key, value in leaves(cfg)} == GOLDEN["cfg_defaults"]


def test_copies_do_not_share_anything(cfg):
    cfg.INPUT.PIXEL_MEAN.append(1.0)
    cfg.TRAINER.MINE = CfgNode({"A": 1})
    fresh = get_cfg_default()
    assert fresh.INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]
    assert "MINE" not in fresh.TRAINER


def test_the_tree_is_mutable_until_frozen(cfg):
    cfg.INPUT.TRANSFORMS = ["normalize"]
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1


@pytest.mark.parametrize("change, expected", GOLDEN["yacs_merge"].items())
def test_an_override_is_decoded_and_checked(cfg, change, expected):
    cfg.TRAINER.X = CfgNode({"S": "", "B": False, "I": 4, "F": 1.0, "L": []})
    key, value = change.split(" <- ")
    if expected.startswith("ERR "):
        with pytest.raises((ValueError, AssertionError)) as error:
            cfg.merge_from_list([key, value])
        assert error.type.__name__ == expected.removeprefix("ERR ")
    else:
        cfg.merge_from_list([key, value])
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert repr(node) == expected


def test_an_unknown_key_in_a_file_is_an_error(cfg, tmp_path):
    (tmp_path / "cfg.yaml").write_text("OPTIM:\n  LEARNING_RATE: 0.1\n")
    with pytest.raises(KeyError, match="OPTIM.LEARNING_RATE"):
        cfg.merge_from_file(str(tmp_path / "cfg.yaml"))


def test_clean_cfg_keeps_the_node_of_one_method(cfg):
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_the_printed_tree_is_sorted_and_indented_by_two(cfg):
    assert str(cfg).startswith(
        "DATALOADER:\n  K_TRANSFORMS: 1\n  NUM_WORKERS: 4\n  RETURN_IMG0: False\n  TEST:\n    BATCH"
    )
