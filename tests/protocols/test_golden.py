"""What the scripts give is what they gave: calls of train.py, and the merged config of every one of their runs."""

import pytest

from tests.protocols import record

RENEW = "if this is meant: python -m tests.protocols.record, and look at the diff"
CALLS = record.read_calls()


@pytest.fixture(scope="module")
def golden():
    return record.read_configs()


def test_defaults(golden):
    """Keys may be added: a run has them with their defaults."""
    now = record.defaults()
    assert {key: now.get(key, "is gone") for key in golden[0]} == golden[0], RENEW


def test_every_script_of_a_method_is_recorded(golden):
    assert {name for name, *_ in record.run_names()} == golden[1].keys(), RENEW


@pytest.mark.parametrize("method", sorted({method for method, *_ in record.fronts()}))
def test_merged_configs(golden, method):
    names = [run for run in record.run_names() if run[0].startswith(f"{method}/")]
    assert names
    for name, found in record.all_configs(names).items():
        assert found == golden[1][name], f"{name}: {RENEW}"


@pytest.mark.parametrize("script", sorted({case["script"] for case in CALLS}))
def test_calls(script):
    for case in CALLS:
        if case["script"] == script:
            given = {key: case[key] for key in case if key not in ("calls", "reports", "threads", "error")}
            assert {**given, **record.answer(given)} == case, RENEW
