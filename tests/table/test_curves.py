"""The few-shot figures: what is drawn, by hand, and what is written."""

import builtins

import pytest
from PIL import Image

from anprompt.cli import main
from anprompt.runs.read_results import find_results
from anprompt.table import curves
from anprompt.table.core import Options, Stat
from anprompt.table.curves import draw_curves, few_shot_figures

TWO_SEEDS = {1: (40.0, 44.0), 16: (60.0, 61.0)}


@pytest.fixture
def few_shot(write):
    """Write runs of one trainer on one dataset: accuracies of the seeds, by shots."""

    def few_shot(accuracies, trainer="CoOp", dataset="DTD", stem="a"):
        for shots, values in accuracies.items():
            for seed, accuracy in enumerate(values, start=1):
                folder = f"few_shot/{dataset}/shots_{shots}/{trainer}/{stem}/seed{seed}"
                write(folder, accuracy, seed, trainer, dataset, shots=shots)

    return few_shot


@pytest.fixture
def figures(tmp_path):
    """Figures of everything written, and the warnings."""

    def figures():
        warnings = []
        options = Options(warnings.append)
        return few_shot_figures(find_results([tmp_path], warnings.append), options), warnings

    return figures


def test_means_and_deviations_by_shots(few_shot, figures):
    few_shot(TWO_SEEDS)
    assert figures() == ({"DTD": {"CoOp": {1: Stat(42.0, 2.0), 16: Stat(60.5, 0.5)}}}, [])


def test_the_average_is_over_all_datasets_or_left_out(few_shot, figures):
    few_shot(TWO_SEEDS)
    few_shot({16: (90.0,)}, dataset="EuroSAT")
    few_shot({16: (50.0,)}, trainer="MMRL")
    found, warnings = figures()
    assert list(found) == ["DTD", "EuroSAT", "average of 2"]
    assert found["average of 2"] == {"CoOp": {16: Stat(75.25)}}
    assert warnings == [
        "CoOp: not on all data sets, hence not in the average: 1 shot",
        "MMRL: not on all data sets, hence not in the average: 16 shots",
    ]


def test_files_that_compete_have_curves_of_their_own(few_shot, figures):
    few_shot({1: (40.0,)})
    few_shot({1: (50.0,)}, stem="b")
    assert figures()[0] == {"DTD": {"CoOp (a)": {1: Stat(40.0)}, "CoOp (b)": {1: Stat(50.0)}}}


def test_other_protocols_are_not_drawn(few_shot, figures, base2new, write):
    few_shot({1: (40.0,)})
    base2new()
    write("few_shot/DTD/shots_-1/CoOp/a/seed1", 99.0, shots=-1)
    assert figures()[0] == {"DTD": {"CoOp": {1: Stat(40.0)}}}


def test_what_is_drawn_are_the_numbers(few_shot, figures):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    few_shot(TWO_SEEDS)
    few_shot({2: (50.0,)}, trainer="MMRL")
    found, _ = figures()
    axes = figure.add_subplot()
    draw_curves(axes, found["DTD"], curves.styles_of(found), Options(print))
    coop, mmrl = axes.containers
    assert coop.lines[0].get_xydata().tolist() == [[1, 42], [16, 60.5]]
    assert [bar.tolist() for bar in coop.lines[2][0].get_segments()] == [[[1, 40], [1, 44]], [[16, 60], [16, 61]]]
    assert mmrl.lines[0].get_xydata().tolist() == [[2, 50]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "16"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training images per class", "accuracy (%)")
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["CoOp", "MMRL"]
    assert legend.get_title().get_text() == "mean ± deviation over seeds"


def test_png_and_pdf_of_every_dataset_and_the_average(few_shot, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    few_shot(TWO_SEEDS)
    few_shot(TWO_SEEDS, dataset="EuroSAT")
    out = tmp_path / "deep" / "figures"
    assert main(["plot", str(tmp_path), "--output", str(out), "--ci95"]) == 0
    names = ["DTD", "EuroSAT", "average_of_2"]
    expected = [str(out / f"few_shot_{name}.{suffix}") for name in names for suffix in ("png", "pdf")]
    assert capsys.readouterr().out.splitlines() == expected
    for name in names:
        with Image.open(out / f"few_shot_{name}.png") as picture:
            assert picture.size == (840, 680)
        assert (out / f"few_shot_{name}.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_to_draw_is_an_error(base2new, tmp_path, capsys):
    base2new()
    assert main(["plot", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no few-shot results here")


def test_without_matplotlib_the_command_says_what_to_do(few_shot, tmp_path, capsys, monkeypatch):
    def without(name, *arguments, original=builtins.__import__, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **more)

    few_shot(TWO_SEEDS)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "figures")]) == 2
    assert capsys.readouterr().err == "error: figures need matplotlib: pip install matplotlib\n"
