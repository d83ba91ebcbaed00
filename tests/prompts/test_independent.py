"""Prompts of their own for every layer of both towers."""

import pytest
import torch

from anprompt.api import IndependentLearner
from trainers import promptsrc


def learner(*depths):
    torch.manual_seed(0)
    return IndependentLearner(torch.ones(3, 8), depths, (2, 12))


@pytest.mark.parametrize("depths", [(1, 0), (1, 1), (3, 2), (2, 4)])
def test_layers_count_from_the_first(depths):
    prompts = learner(*depths)
    text, vision = prompts.text_tokens(), prompts.vision_tokens()
    assert [*text] == [*range(1, depths[0] + 1)] and [*vision] == [*range(1, depths[1] + 1)]
    assert all(rows.shape == (3, 8) for rows in text.values())
    assert all(rows.shape == (2, 12) for rows in vision.values())
    assert torch.equal(text[1], torch.ones(3, 8))


def test_names_and_start_are_those_of_promptsrcs_checkpoints():
    assert promptsrc.IndependentLearner is IndependentLearner
    prompts = learner(3, 2)
    assert [*prompts.state_dict()] == ["ctx", "deep_text.0", "deep_text.1", "vision.0", "vision.1"]
    torch.manual_seed(0)
    for name, rows in prompts.state_dict().items():
        if name != "ctx":
            assert torch.equal(rows, 0.02 * torch.randn(*rows.shape)), name
