"""What results.json is made from: counts, calibration and the digest of the subset, each counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix

from anprompt.runs.results import CALIBRATION_BINS, Tally, peak_memory, subset_digest, versions
from tests.helpers.peer_oracle import expected_calibration_error

CPU = torch.device("cpu")


def tally_of(logits, labels, batches=(), classes=None):
    tally = Tally("class", classes or logits.shape[1], CPU)
    bounds = [0, *batches, len(labels)]
    for low, high in zip(bounds, bounds[1:], strict=False):
        tally.add({"other": -logits[low:high], "class": logits[low:high]}, labels[low:high])
    return tally


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (500,), generator=generator)
    logits = 2 * torch.randn(500, 7, generator=generator)  # no image of the last class
    logits[torch.arange(500), labels] += 1.5
    return logits, labels


def test_hits_of_every_head(predictions):
    logits, labels = predictions
    tally = tally_of(logits, labels, batches=(3, 400))
    assert tally.total == 500
    assert tally.correct() == {
        "class": accuracy_score(labels, logits.argmax(1), normalize=False),
        "other": accuracy_score(labels, logits.argmin(1), normalize=False),
    }


def test_per_class(predictions):
    logits, labels = predictions
    table = confusion_matrix(labels, logits.argmax(1), labels=range(7))
    rows = tally_of(logits, labels, batches=(100,)).per_class("abcdefg")
    assert [row["class"] for row in rows] == list("abcdefg")
    assert [row["total"] for row in rows] == table.sum(1).tolist() and rows[6]["total"] == 0
    assert [row["correct"] for row in rows] == np.diag(table).tolist()


def test_calibration_error(predictions):
    logits, labels = predictions
    shares = np.exp(logits.double().numpy())
    confidences = (shares / shares.sum(1, keepdims=True)).max(1).tolist()
    correct = (logits.argmax(1) == labels).tolist()
    expected = 100 * expected_calibration_error(confidences, correct, 15)
    assert expected > 1
    assert tally_of(logits, labels, batches=(7, 123)).calibration_error() == pytest.approx(expected, rel=1e-12)


def test_full_confidence_belongs_to_the_last_bin():
    """Softmax of logits this far apart is exactly one."""
    logits = torch.tensor([[1000.0, 0.0], [1000.0, 0.0], [0.0, 1000.0], [0.0, 1000.0]])
    tally = tally_of(logits, torch.tensor([0, 0, 1, 0]))
    assert tally.bins[-1].tolist() == [4, 3, 4] and tally.bins[:-1].abs().sum() == 0
    assert tally.calibration_error() == 25.0


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower():
    edge = 2 * torch.ones(1, 3)  # exactly 1/3 = 5/15
    tally = tally_of(edge, torch.tensor([0]))
    assert tally.bins[:, 0].nonzero().tolist() == [[4]]
    assert tally.calibration_error() == pytest.approx(100 * 2 / 3)


def test_perfect_calibration_is_zero():
    """Three of four right at a confidence of three quarters."""
    logits = torch.tensor([[3.0, 1.0]]).double().log().expand(4, 2)
    assert tally_of(logits, torch.tensor([0, 0, 1, 0])).calibration_error() == pytest.approx(0, abs=1e-12)


def test_opposite_errors_in_one_bin_cancel_but_not_across_bins():
    sure, unsure = torch.tensor([[0.9, 0.1]]).log().double(), torch.tensor([[0.6, 0.4]]).log().double()
    tally = tally_of(torch.cat([sure, unsure]), torch.tensor([1, 0]))
    assert tally.calibration_error() == pytest.approx(100 * (0.9 + 0.4) / 2)


def test_nothing_counted_is_no_error():
    tally = Tally("class", 3, CPU)
    assert (tally.total, tally.correct(), tally.calibration_error()) == (0, {}, 0.0)
    assert tally.per_class("abc") == [{"class": name, "total": 0, "correct": 0} for name in "abc"]


def test_half_precision_logits_are_calibrated_in_full(predictions):
    """Softmax of fp16 logits in fp16 would be off in the third digit."""
    logits, labels = predictions[0].half(), predictions[1]
    full = tally_of(logits.double(), labels).calibration_error()
    assert tally_of(logits, labels).calibration_error() == pytest.approx(full, rel=1e-12)


def item(path, label):
    return SimpleNamespace(impath=path, label=label)


def test_digest_does_not_depend_on_where_the_data_is():
    here = subset_digest([item("/here/x/a.jpg", 0), item("/here/x/b.jpg", 1)], "/here")
    there = subset_digest([item("/mnt/data/x/a.jpg", 0), item("/mnt/data/x/b.jpg", 1)], "/mnt/data/")
    assert here == there and len(here) == 64


@pytest.mark.parametrize(
    "other",
    [
        [item("/d/a.jpg", 0), item("/d/c.jpg", 1)],
        [item("/d/a.jpg", 1), item("/d/b.jpg", 1)],
        [item("/d/b.jpg", 1), item("/d/a.jpg", 0)],
        [item("/d/a.jpg", 0)],
    ],
    ids=["image", "label", "order", "number"],
)
def test_digest_sees_every_difference(other):
    assert subset_digest(other, "/d") != subset_digest([item("/d/a.jpg", 0), item("/d/b.jpg", 1)], "/d")


def test_number_of_bins_is_the_usual_one():
    assert CALIBRATION_BINS == 15


def test_memory_and_versions_are_told():
    memory = peak_memory(CPU)
    assert memory["memory_of"] == "process" and memory["peak_memory_bytes"] > 2**20
    assert versions()["torch"].startswith(torch.__version__.split("+")[0])
