"""Which protocol a result says it belongs to, and what tells two trainings apart."""

import pytest
import torch

from anprompt.runs.identity import asked_protocol, protocol_of
from anprompt.runs.results import weights_digest


def data(name, *classnames):
    return {"dataset": name, "classnames": list(classnames)}


@pytest.mark.parametrize(
    ("classes", "tested_on", "trained_on", "protocol"),
    [
        ("base", data("DTD", "a"), data("DTD", "a"), "base2new"),
        ("new", data("DTD", "b"), data("DTD", "a"), "base2new"),
        ("all", data("DTD", "a", "b"), data("DTD", "a", "b"), "few_shot"),
        ("all", data("DTD", "a", "b"), data("ImageNet", "c"), "target"),
        ("all", data("V2", "a", "b"), data("V1", "a", "b"), "target"),
        ("all", data("DTD", "a", "b"), data("DTD", "a"), None),
        ("new", data("DTD", "b"), data("ImageNet", "c"), None),
    ],
)
def test_the_protocol_that_fits(monkeypatch, classes, tested_on, trained_on, protocol):
    monkeypatch.delenv("ANPROMPT_PROTOCOL", raising=False)
    assert protocol_of(classes, tested_on, trained_on) == protocol


@pytest.mark.parametrize("name", ["base2new", "few_shot", "source", "target"])
def test_the_protocol_that_was_asked_for(monkeypatch, name):
    monkeypatch.setenv("ANPROMPT_PROTOCOL", name)
    assert protocol_of("all", data("DTD", "a"), data("DTD", "a")) == name


def test_an_unknown_protocol_is_refused_and_none_is_none(monkeypatch):
    monkeypatch.setenv("ANPROMPT_PROTOCOL", "fewshot")
    with pytest.raises(ValueError, match="ANPROMPT_PROTOCOL 'fewshot': did you mean few_shot"):
        asked_protocol()
    monkeypatch.setenv("ANPROMPT_PROTOCOL", "")
    assert asked_protocol() is None


STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5)}


@pytest.mark.parametrize(
    "other",
    [
        {"b": STATE["b"] + torch.eye(2, 3) * 1e-6, "a": STATE["a"]},
        {"b": STATE["b"].reshape(3, 2), "a": STATE["a"]},
        {"b": STATE["b"].double(), "a": STATE["a"]},
        {"c": STATE["b"], "a": STATE["a"]},
        {"b": STATE["b"]},
    ],
    ids=["value", "shape", "type", "name", "number"],
)
def test_the_digest_sees_every_difference(other):
    assert weights_digest(other) != weights_digest(STATE)


def test_the_digest_does_not_depend_on_order_or_layout():
    strided = STATE["b"].T.contiguous().T
    assert not strided.is_contiguous()
    assert weights_digest({"a": STATE["a"], "b": strided}) == weights_digest(STATE)


def test_every_type_of_learnables_has_a_digest():
    digests = {weights_digest({"a": torch.ones(2, dtype=kind)}) for kind in (torch.float16, torch.bfloat16)}
    assert len(digests) == 2
