"""``table --compare`` on video: the published rows by data set, and what was measured in the same setting."""

import pytest

from anprompt.runs.measures import harmonic_mean
from anprompt.table.published_video import published_video
from tests.table.rows import cells


def config(frames=32, backbone="ViT-B/16"):
    return {"MODEL": {"BACKBONE": {"NAME": backbone}}, "VIDEO": {"NUM_FRAMES": frames}, "TRAINER": {"NAME": "GA2CLIP"}}


def published_part(out):
    return cells(out.split("**Published")[1])


def test_published_hm_agree_with_base_and_new_as_they_were_rounded():
    rows = published_video()["base_to_new"]
    assert len({(row["method"], row["data"]) for row in rows}) == len(rows) == 11
    for row in rows:
        assert abs(harmonic_mean(row["base"], row["new"]) - row["HM"]) <= 0.1, row


def test_measured_rows_stand_first_where_data_frames_and_backbone_are_the_same(base2new, table):
    base2new(trainer="GA2CLIP", dataset="HMDB51Video", stem="vit_b16", config=config())
    _, out, _ = table("--compare")
    assert published_part(out)[0] == ["GA2CLIP (vit_b16)", "HMDB51Video", *published_part(out)[0][2:5], "here"]
    assert published_part(out)[0][2].startswith("82.00")
    assert ["GA2-CLIP", "HMDB51Video", "78.30", "58.90", "67.20", "GA2-CLIP README"] in published_part(out)
    assert "best epoch on the test split" in out


@pytest.mark.parametrize("other", [config(frames=8), config(backbone="ViT-B/32"), config(backbone="tiny")])
def test_other_settings_do_not_compare(base2new, table, other):
    base2new(trainer="GA2CLIP", dataset="HMDB51Video", stem="vit_b16", config=other)
    _, out, _ = table("--compare")
    assert len(published_part(out)) == 11 and all(row[-1] != "here" for row in published_part(out))


def test_the_embedded_clips_show_what_is_published_on_video_and_images_what_is_on_images(base2new, table):
    base2new(trainer="GA2CLIP", dataset="Moves", stem="tiny", config=config(frames=8, backbone="tiny"))
    assert "results on video" in table("--compare")[1] and "11 data sets" not in table("--compare")[1]
    base2new(trainer="CoOp")
    out = table("--compare")[1]
    assert "results on video" in out and "11 data sets" in out


def test_top_5_of_both_halves_stands_beside_top_1_where_runs_have_it(base2new, table):
    base2new(trainer="GA2CLIP", dataset="Moves", top5_accuracy=96.5)
    base2new(trainer="CoOp")
    header, *_ = cells(table()[1], skip=0)
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in cells(table()[1])}
    assert [rows["GA2CLIP"][name] for name in ("base, top 5", "new, top 5")] == ["96.50 ± 0.00"] * 2
    assert [rows["CoOp"][name] for name in ("base, top 5", "new, top 5")] == ["-", "-"]


def test_few_shot_by_clips_per_class(write, table):
    for shots, accuracy in ((2, 60.0), (16, 70.0)):
        folder = f"few_shot/HMDB51Video/shots_{shots}/GA2CLIP/vit_b16_few_shot/seed1"
        write(folder, accuracy, trainer="GA2CLIP", dataset="HMDB51Video", shots=shots, config=config())
    _, out, err = table("--compare")
    first, *_ = published_part(out)
    assert first == ["GA2CLIP (vit_b16_few_shot)", "HMDB51Video", "60.00", "-", "-", "70.00", "here"]
    assert ["GA2-CLIP", "HMDB51Video", "61.90", "64.30", "68.10", "70.80", "GA2-CLIP README"] in published_part(out)
    assert "no base-to-new" not in err
