"""A reconstruction is called one wherever a person reads its results."""

import pytest

from anprompt.table.core import Table
from anprompt.table.names import shown, with_shown_names


@pytest.mark.parametrize("style", ["md", "csv", "latex"])
def test_a_table_names_the_reconstruction(base2new, table, style):
    base2new("E2MIM", parameters=512)
    base2new("CoOp")
    _, out, _ = table("--format", style)
    assert out.count("E2MIM") == out.count("E2MIM (reconstruction)") >= 1
    assert "CoOp (reconstruction)" not in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("E2MIM", "E2MIM (reconstruction)"),
        ("E2MIM (vit_b16_ep100)", "E2MIM (reconstruction) (vit_b16_ep100)"),
        ("Heads: CoOp: class; E2MIM: class.", "Heads: CoOp: class; E2MIM (reconstruction): class."),
        ("TRAINER.E2MIM.TEST.ENSEMBLE 0.5", "TRAINER.E2MIM.TEST.ENSEMBLE 0.5"),
        ("output/E2MIM/tiny", "output/E2MIM/tiny"),
        ("MyE2MIM", "MyE2MIM"),
    ],
)
def test_what_is_shown(text, expected):
    assert shown(text) == expected


def test_numbers_and_gaps_of_a_table_stay():
    table = Table("E2MIM", ["trainer", "base"], [["E2MIM", 1.5], [None, None]], ["of E2MIM"])
    name = "E2MIM (reconstruction)"
    assert with_shown_names(table) == Table(name, ["trainer", "base"], [[name, 1.5], [None, None]], [f"of {name}"])
