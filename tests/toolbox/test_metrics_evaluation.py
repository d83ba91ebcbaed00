"""Accuracy, distances, and the printed result of the evaluator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from dassl.evaluation import Classification, build_evaluator
from dassl.evaluation.evaluator import confusion_matrix, macro_f1
from dassl.metrics import compute_accuracy, compute_distance_matrix
from tests.toolbox.toy import GOLDEN, get_cfg_default

ACCURACY = GOLDEN["compute_accuracy"]
LOGITS, LABELS = torch.tensor(ACCURACY["logits"]), torch.tensor(ACCURACY["labels"])
RECORDED = GOLDEN["evaluator"]


# ---------------------------------------------------------------------------------------------- metrics


def test_top1_accuracy():
    (accuracy,) = compute_accuracy(LOGITS, LABELS)
    assert [accuracy.tolist()] == ACCURACY["top1"]
    assert list(accuracy.shape) == ACCURACY["shape"]
    assert str(accuracy.dtype) == ACCURACY["dtype"]


def test_topk_accuracy():
    accuracies = compute_accuracy(LOGITS, LABELS, topk=(1, 2))
    assert [accuracy.item() for accuracy in accuracies] == ACCURACY["topk_1_2_intended"]


@pytest.mark.parametrize("container", [tuple, list])
def test_accuracy_of_the_first_of_several_outputs(container):
    (accuracy,) = compute_accuracy(container([LOGITS, -LOGITS]), LABELS)
    assert accuracy.tolist() == ACCURACY["tuple_input"]


@pytest.mark.parametrize("metric, expected", [("euclidean", [[25.0, 2.0]]), ("cosine", [[0.0, 0.04]])])
def test_distances(metric, expected):
    distances = compute_distance_matrix(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [4.0, 3.0]]), metric)
    assert distances.tolist() == [pytest.approx(expected[0], abs=1e-6)]


def test_unknown_distance():
    with pytest.raises(ValueError, match="euclidean or cosine, got 'manhattan'"):
        compute_distance_matrix(LOGITS, LOGITS, "manhattan")


# ---------------------------------------------------------------------------------------------- evaluator


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def evaluate(evaluator):
    logits, labels = torch.tensor(RECORDED["input"]["logits"]).float(), torch.tensor(RECORDED["input"]["labels"])
    evaluator.reset()
    for part in (slice(0, 4), slice(4, 7)):
        evaluator.process(logits[part], labels[part])
    return evaluator.evaluate()


def lab2cname():
    return {int(label): name for label, name in RECORDED["input"]["lab2cname"].items()}


@pytest.mark.parametrize("key, detailed", [("plain", False), ("perclass_cmat", True)])
def test_recorded_results_and_lines(key, detailed, cfg, capsys):
    cfg.TEST.PER_CLASS_RESULT = cfg.TEST.COMPUTE_CMAT = detailed
    evaluator = build_evaluator(cfg, lab2cname=lab2cname())
    assert capsys.readouterr().out == RECORDED[key]["build_printed"]
    results = evaluate(evaluator)
    assert capsys.readouterr().out.replace(cfg.OUTPUT_DIR, "<OUTPUT_DIR>") == RECORDED[key]["printed"]
    assert list(results) == [name for name, _ in RECORDED[key]["results"]]
    assert list(results.values()) == pytest.approx([value for _, value in RECORDED[key]["results"]], rel=1e-12)
    assert {type(value) for value in results.values()} == {float}


def test_the_confusion_matrix_loads_as_plain_data(cfg):
    cfg.TEST.COMPUTE_CMAT = True
    evaluate(Classification(cfg))
    matrix = torch.load(f"{cfg.OUTPUT_DIR}/cmat.pt", weights_only=True)
    assert matrix.dtype == torch.float64
    assert matrix.tolist() == RECORDED["cmat"]


def test_reset_forgets(cfg):
    evaluator = Classification(cfg)
    evaluator.process(torch.eye(2), torch.tensor([1, 0]))
    assert dict(evaluate(evaluator)) == pytest.approx(dict(RECORDED["plain"]["results"]))


def test_counts_have_thousands_separators(cfg, capsys):
    evaluator = Classification(cfg)
    evaluator.process(torch.eye(2).repeat(600, 1), torch.tensor([0, 1]).repeat(600))
    evaluator.evaluate()
    assert "* total: 1,200\n* correct: 1,200\n" in capsys.readouterr().out


def test_results_per_class_need_names(cfg):
    cfg.TEST.PER_CLASS_RESULT = True
    with pytest.raises(AssertionError, match="needs lab2cname"):
        Classification(cfg)


@pytest.mark.parametrize("batches", [0, 1])
def test_an_empty_evaluation_is_an_error(batches, cfg):
    evaluator = Classification(cfg)
    for _ in range(batches):
        evaluator.process(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="not one image was processed"):
        evaluator.evaluate()


def test_unknown_evaluator(cfg):
    cfg.TEST.EVALUATOR = "Clasification"
    with pytest.raises(ValueError, match="did you mean 'Classification'"):
        build_evaluator(cfg)


PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_macro_f1_equals_scikit_learn(pairs):
    predictions, labels = torch.tensor(pairs).T
    occurring = labels.unique().numpy()
    expected = metrics.f1_score(labels, predictions, average="macro", labels=occurring)
    assert macro_f1(predictions, labels) == pytest.approx(expected)


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_confusion_matrix_equals_scikit_learn(pairs):
    predictions, labels = torch.tensor(pairs).T
    occurring = torch.cat([labels, predictions]).unique().tolist()
    expected = metrics.confusion_matrix(labels, predictions, labels=range(5), normalize="true")
    assert confusion_matrix(predictions, labels).numpy() == pytest.approx(expected[np.ix_(occurring, occurring)])
