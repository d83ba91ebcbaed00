"""``table --compare``: published rows, and what was measured and compares with them."""

import pytest

from anprompt.runs.measures import harmonic_mean
from anprompt.table.published import HEADER, published
from tests.table.rows import cells

ELEVEN = [
    "Caltech101", "DescribableTextures", "EuroSAT", "FGVCAircraft", "Food101", "ImageNet", "OxfordFlowers",
    "OxfordPets", "StanfordCars", "SUN397", "UCF101",
]  # fmt: skip


def config(backbone="ViT-B/16", **noise):
    trainer = {"NAME": "CoOp", "COOP": {"NOISE": {"GPT_DIR": noise.get("descriptions", "")}}}
    return {"MODEL": {"BACKBONE": {"NAME": backbone}}, "TRAINER": trainer}


def second(out):
    return cells(out.split("**Published")[1])


def test_published_hm_is_the_harmonic_mean_of_the_published_averages():
    rows = published()["rows"]
    assert len({row["method"] for row in rows}) == len(rows) > 40
    checked = 0
    for row in rows:
        for one in (row, *row.get("reruns", ())):
            assert one["source"], row["method"]
            if one["base"] is not None:
                checked += 1
                assert abs(harmonic_mean(one["base"], one["new"]) - one["HM"]) <= 0.01, row["method"]
            assert one["base"] is not None or "mark" not in one, "a marked row needs an HM that can be checked"
    assert checked > 45


def test_every_row_says_what_the_method_was_given():
    kinds = {
        "none",
        "none noted",
        "LLM text",
        "larger teacher",
        "unlabelled images",
        "generated images",
        "60 templates",
    }
    given = {row["method"]: row["extra"] for row in published()["rows"]}
    assert {kind for text in given.values() for kind in text.split(", ")} == kinds
    assert given["MMRL++"] == "none" and given["PromptKD"] == "larger teacher, unlabelled images"
    with_nothing = [row["HM"] for row in published()["rows"] if row["extra"] == "none" and row["HM"]]
    assert max(with_nothing) < 82.4


def test_reruns_stand_beside_the_authors_numbers(base2new, table):
    base2new()
    rows = {row[0]: row for row in second(table("--compare")[1])}
    assert rows["MMRL"][2:6] == ["85.68", "77.16", "81.20", "80.72/80.83"]
    assert rows["MMRL++"][2:6] == ["-", "-", "-", "81.43/81.39"]
    assert rows["PromptSRC"][2:6] == ["84.26", "76.10", "79.97", "79.73"]
    assert "MMRL, amp: 85.71/76.28/80.72" in table("--compare")[1]


def test_rows_of_a_third_party_carry_their_mark(base2new, table):
    base2new()
    out = table("--compare")[1]
    marked = {row[0] for row in second(out) if row[-1].endswith(" L")}
    assert marked == {"CAPT", "VaMP", "Promise on MMRL", "TAC"}
    assert "\nL: by a third party's note" in out


def test_what_does_not_compare_stays_in_a_table_of_its_own(base2new, table):
    base2new()
    _, out, _ = table("--compare")
    first = cells(out.split("**Published")[0])
    assert len(first) == 1 and first[0][3] == "DTD"
    assert "nothing measured here compares with them" in out
    assert len(second(out)) == len(published()["rows"])
    assert all(row[-1] != "here" for row in second(out))


@pytest.mark.parametrize(
    ("changes", "compares"),
    [
        ({}, True),
        ({"config": config("tiny")}, False),
        ({"shots": 4}, False),
        ({"split": "val"}, False),
        ({"without": "EuroSAT"}, False),
    ],
    ids=["same", "backbone", "shots", "validation", "data"],
)
def test_measured_averages_join_where_they_compare(base2new, table, changes, compares):
    """Base 80 on all, new 60 but 71 on the first: 61, and HM of the averages."""
    without = changes.pop("without", None)
    for name in ELEVEN:
        if name != without:
            accuracies = {"base": {1: 80.0}, "new": {1: 71.0 if name == ELEVEN[0] else 60.0}}
            base2new(dataset=name, accuracies=accuracies, **({"config": config()} | changes))
    rows = second(table("--compare")[1])
    ours = ["CoOp", "none", "80.00", "61.00", "69.22", "-", "here"]
    assert (rows[0] == ours) == compares
    assert (len(rows) == len(published()["rows"]) + 1) == compares


def test_descriptions_count_as_supervision(base2new, table):
    for name in ELEVEN:
        base2new(dataset=name, accuracies={"base": {1: 80.0}, "new": {1: 60.0}}, config=config(descriptions="/gpt"))
    assert second(table("--compare")[1])[0][:2] == ["CoOp", "LLM text"]


def test_both_tables_fit_a_terminal(base2new, table):
    base2new("ANPrompt", dataset="Shapes", stem="tiny", accuracies={"base": {1: 80, 2: 81}, "new": {1: 60, 2: 70}})
    out = table("--compare")[1]
    assert max(len(line) for line in out.splitlines()) <= 120


def test_other_formats_have_the_columns(base2new, table):
    base2new()
    published_table = table("--compare", "--format", "csv")[1].split("\n\n")[1]
    assert published_table.splitlines()[0] == "method,extra supervision,base,base ±,new,new ±,HM,HM ±,rerun,from"
    assert len(HEADER) == 7


def test_nothing_to_compare_with(write, table):
    write("few_shot/dtd/shots_1/CoOp/ep50/seed1", 50.0)
    for arguments in (("--compare",), ("--paired", "CoOp")):
        assert table(*arguments)[2] == "warning: there are no base-to-new results to compare with others\n"
