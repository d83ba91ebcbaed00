"""``table --paired``: differences over common seeds, against scipy's paired test and by hand."""

import csv

import pytest
from scipy import stats

from tests.table.rows import cells

OURS = {"base": {1: 80.0, 2: 84.0, 3: 82.0, 4: 79.0, 5: 81.0}, "new": {1: 70.0, 2: 72.0, 3: 77.0, 4: 71.0, 5: 70.0}}
THEIRS = {"base": {1: 78.0, 2: 81.5, 3: 80.5, 4: 76.0, 5: 79.0}, "new": {1: 71.0, 2: 71.0, 3: 78.0, 4: 70.5, 5: 71.0}}


def hm(one):
    return {seed: 2 * base * one["new"][seed] / (base + one["new"][seed]) for seed, base in one["base"].items()}


@pytest.fixture
def paired(table):
    """Rows of the second table as dictionaries, and the warnings."""

    def run(name="ANPrompt"):
        status, out, err = table("--paired", name, "--format", "csv")
        assert status == 0, err
        return list(csv.DictReader(out.split("\n\n")[1].splitlines())), err

    return run


def test_differences_and_intervals_are_scipy_s(base2new, paired):
    base2new("ANPrompt", accuracies=OURS)
    base2new("MMRL", accuracies=THEIRS)
    (row,), err = paired()
    assert (row["trainer"], row["against"], row["seeds"]) == ("ANPrompt (ep50)", "MMRL (ep50)", "1 2 3 4 5")
    for measure, ours, theirs in (
        ("base", OURS["base"], THEIRS["base"]),
        ("new", OURS["new"], THEIRS["new"]),
        ("HM", hm(OURS), hm(THEIRS)),
    ):
        test = stats.ttest_rel(list(ours.values()), list(theirs.values()))
        low, high = test.confidence_interval(0.95)
        assert float(row[measure]) == pytest.approx((low + high) / 2, abs=1e-9)
        assert float(row[f"{measure} ±"]) == pytest.approx((high - low) / 2, abs=1e-9)
        expected = "higher" if test.pvalue < 0.05 else "no difference shown"
        assert row[f"{measure}: shown"] == expected
    assert {row["base: shown"], row["new: shown"]} == {"higher", "no difference shown"}
    assert err == ""


def test_the_other_way_round_is_lower(base2new, paired):
    base2new("ANPrompt", accuracies=THEIRS)
    base2new("MMRL", accuracies=OURS)
    assert paired()[0][0]["base: shown"] == "lower"


def test_only_seeds_that_both_have_count(base2new, paired):
    base2new("ANPrompt", accuracies=OURS)
    base2new("MMRL", accuracies={half: {2: 50.0, 3: 60.0, 9: 1.0} for half in ("base", "new")})
    (row,), _ = paired()
    assert (row["seeds"], float(row["base"])) == ("2 3", (34 + 22) / 2)


def test_the_average_is_paired_by_seed(base2new, paired):
    """Differences of 10 and 2, then of 0 and 8: each seed's average is 5, so there is no spread."""
    for data, pair in (("DTD", (10.0, 2.0)), ("EuroSAT", (0.0, 8.0))):
        base2new("ANPrompt", data, accuracies={half: {1: 50 + pair[0], 2: 50 + pair[1]} for half in ("base", "new")})
        base2new("MMRL", data, accuracies={half: {1: 50.0, 2: 50.0} for half in ("base", "new")})
    rows, _ = paired()
    assert [row["data"] for row in rows] == ["DTD", "EuroSAT", "average of 2"]
    assert (float(rows[2]["HM"]), float(rows[2]["HM ±"]), rows[2]["HM: shown"]) == (5.0, 0.0, "higher")
    assert rows[0]["base: shown"] == "no difference shown"


def test_every_other_setting_and_shots_that_compare(base2new, write, paired):
    """Another YAML file of the trainer counts once; other shots never; what learns nothing always."""
    base2new("ANPrompt", accuracies=OURS)
    base2new("ANPrompt", stem="ep5", accuracies=THEIRS)
    base2new("MMRL", accuracies=THEIRS)
    base2new("Other", accuracies=THEIRS)
    for half in ("base", "new"):
        write(f"{half}/four/seed1", 70.0, trainer="Four", classes=half, shots=4)
        write(f"{half}/zero/seed1", 70.0, trainer="Zero", classes=half, shots=-1)
    rows, _ = paired()
    assert [(row["trainer"], row["against"]) for row in rows] == [
        (f"ANPrompt ({stem})", other)
        for stem, others in (
            ("ep5", ["ANPrompt (ep50)", "MMRL (ep50)", "Other (ep50)", "Zero (zero)"]),
            ("ep50", ["MMRL (ep50)", "Other (ep50)", "Zero (zero)"]),
        )
        for other in others
    ]


def test_one_seed_has_no_interval_and_shows_nothing(base2new, table):
    base2new("ANPrompt", accuracies={"base": {1: 80}, "new": {1: 60}})
    base2new("MMRL", accuracies={"base": {1: 70}, "new": {1: 65}})
    _, out, err = table("--paired", "ANPrompt")
    row = cells(out.split("**ANPrompt minus others")[1])[0]
    assert row[4:] == ["1", "+10.00", "-", "-5.00", "-", "+1.16", "-"]
    assert err == ""


def test_a_claim_from_three_seeds_is_warned_of(base2new, paired):
    def seeds(count, shift):
        return {half: {seed: 60.0 + shift + 0.1 * seed for seed in range(1, count + 1)} for half in ("base", "new")}

    for count, warned in ((3, True), (4, False)):
        base2new("ANPrompt", accuracies=seeds(count, 5))
        base2new("MMRL", accuracies=seeds(count, 0))
        (row,), err = paired()
        assert row["base: shown"] == "higher"
        assert ("too few for what is claimed of ANPrompt (ep50) - MMRL (ep50) on DTD" in err) == warned


@pytest.mark.parametrize("style", ["md", "latex"])
def test_other_formats_say_it_too(base2new, table, style):
    base2new("ANPrompt", accuracies=OURS)
    base2new("MMRL", accuracies=THEIRS)
    out = table("--paired", "ANPrompt", "--format", style)[1]
    assert "no difference shown" in out and "+2.20 " in out
    assert "which does not show that there is none" in out


def test_trainers_that_are_not_there_and_nothing_to_compare_with(base2new, write, table):
    base2new("ANPrompt", accuracies=OURS)
    status, _, err = table("--paired", "ANPromt")
    assert status == 2 and "did you mean ANPrompt" in err
    _, out, err = table("--paired", "ANPrompt")
    assert out.count("**") == 2
    assert err == "warning: --paired ANPrompt: no other setting has results on the same data with the same seeds\n"
