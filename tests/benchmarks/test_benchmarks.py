"""The benchmarks compare the same mathematics, count what they say, and write what they measured. No test is timed."""

import gc
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from anprompt.clip.backbone import Backbone
from anprompt.prompts.templates import prompts_for
from benchmarks import cases, data, floor, measure, report, run, step, video, video_step
from benchmarks.cases import CASES, Case, class_names, random_batch
from benchmarks.ours import Ours, OursOnClips, TextbookANPrompt, TextbookGA2CLIP, build

SMALL = Case(classes=7, batch=3, dataset="EuroSAT", longest=12, repeats=1)


def settings(size=32):
    """The tiny config on the two last layers of the small random CLIP."""
    cfg = cases.config(SMALL, "tiny", "cpu", "fp32").clone()
    cfg.defrost()
    cfg.INPUT.SIZE = (size, size)
    cfg.TRAINER.ANPROMPT.LAYERS = [3, 4]
    return cfg


@pytest.fixture
def variants(clip):
    """Both formulations in double precision, with a learner off its start, so that no gradient vanishes."""
    cfg = settings()
    backbone = Backbone(clip, "small", "", 32, tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD))
    ours = Ours(cfg, backbone, class_names(SMALL))
    ours.model.double()
    ours.weak_noise = ours.weak_noise.double()
    with torch.no_grad():
        for parameter in ours.model.learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return ours, TextbookANPrompt(ours)


@pytest.fixture
def batch():
    made = random_batch(SMALL.batch, SMALL.classes, 32, torch.device("cpu"))
    return {"img": made["img"].double(), "label": made["label"]}


CLIPS = video_step.Shape(Case(classes=7, batch=3, dataset="HMDB51Video", longest=12, repeats=1), anchors=2, frames=2)


@pytest.fixture
def on_clips(clip):
    """The same of GA2-CLIP; the small CLIP has 4 layers, of which 3 get text prompts and 2 vision prompts."""
    cfg = video_step.config(CLIPS, "tiny").clone()
    cfg.defrost()
    cfg.INPUT.SIZE = (32, 32)
    cfg.TRAINER.GA2CLIP.PROMPT_DEPTH_TEXT, cfg.TRAINER.GA2CLIP.PROMPT_DEPTH_VISION = 3, 2
    backbone = Backbone(clip, "small", "", 32, tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD))
    ours = OursOnClips(cfg, backbone, class_names(CLIPS.case))
    ours.model.double()
    with torch.no_grad():
        for parameter in ours.model.learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return ours, TextbookGA2CLIP(ours)


@pytest.fixture
def clips():
    made = video_step.random_clips(CLIPS, 32)
    return made | {"img": made["img"].double(), "anchors": {"img": made["anchors"]["img"].double()}}


def gradients(learner):
    return {name: parameter.grad for name, parameter in learner.named_parameters()}


def test_textbook_step_has_our_loss_and_all_our_gradients(variants, batch):
    ours, textbook = variants
    own, plain = ours.train_step(batch), textbook.train_step(batch)
    # The reported numbers pass through fp32; the loss itself is compared below.
    assert own["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert own["acc"] == pytest.approx(plain["acc"])
    expected = gradients(textbook.learner)
    for name, gradient in gradients(ours.model.learner).items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-9), name
    for parameter, plain_parameter in zip(ours.model.learner.parameters(), textbook.learner.parameters(), strict=True):
        assert torch.allclose(parameter, plain_parameter, rtol=0, atol=1e-9)  # after the update


def test_textbook_loss_and_test_logits_are_ours(variants, batch):
    ours, textbook = variants
    terms, logits = ours.loss_terms(ours.parse_batch_train(batch))
    loss, class_logits = textbook.loss(batch["img"], batch["label"])
    assert torch.allclose(sum(terms.values()), loss, rtol=0, atol=1e-9)
    assert torch.allclose(logits, class_logits, rtol=0, atol=1e-9)
    with ours.evaluation():
        heads = ours.eval_batch(batch["img"])
    plain = textbook.eval_batch(batch["img"])
    assert heads.keys() == plain.keys()
    for name, head in heads.items():
        assert torch.allclose(head, plain[name], rtol=0, atol=1e-9), name


def test_textbook_shares_nothing_that_is_trained_or_run(variants):
    ours, textbook = variants
    weights = {id(parameter) for parameter in ours.model.parameters()}
    for module in (textbook.learner, textbook.student, textbook.teacher):
        assert not weights & {id(parameter) for parameter in module.parameters()}
    assert not {id(p) for p in textbook.student.parameters()} & {id(p) for p in textbook.teacher.parameters()}


def test_textbook_alone_holds_nothing_of_ours(clip):
    cfg = settings()
    backbone = Backbone(clip, "small", "", 32, tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD))
    alone = build("textbook", cfg, backbone, class_names(SMALL))
    assert isinstance(alone, TextbookANPrompt)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Ours]


@pytest.mark.parametrize("recompute", [False, True])
def test_textbook_step_on_clips_has_our_loss_and_all_our_gradients(on_clips, clips, recompute):
    ours, textbook = on_clips
    ours.model.recompute = recompute
    parsed = ours.parse_batch_train(clips)
    terms, logits = ours.loss_terms(parsed)
    loss, plain_logits = textbook.loss(clips["img"], clips["label"], clips["anchors"]["img"], parsed["kept"])
    assert set(terms) == {"loss_ce", "loss_anchor"}
    assert torch.allclose(sum(terms.values()), loss, rtol=0, atol=1e-9)
    assert torch.allclose(logits, plain_logits, rtol=0, atol=1e-9)
    textbook.generators["dropout"].set_state(ours.generator("dropout").get_state())
    own, plain = ours.train_step(clips), textbook.train_step(clips)
    assert own["loss"] == pytest.approx(plain["loss"], rel=1e-5) and own["acc"] == pytest.approx(plain["acc"])
    expected = gradients(textbook.learner)
    for name, gradient in gradients(ours.model.learner).items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-9), name


# ---------------------------------------------------------------------------------------------- operations


def counted(action):
    with sdpa_kernel(SDPBackend.MATH):  # no product is recomputed
        return measure.multiply_adds(action)


def test_counts_of_the_textbook_are_those_of_pytorch(variants, batch):
    ours, textbook = variants
    work = step.work_of(ours, SMALL)
    found = counted(lambda: textbook.train_step(batch))
    assert found == pytest.approx(sum(floor.textbook_step(work).values()), rel=0.01)
    found = counted(lambda: textbook.eval_batch(batch["img"]))
    assert found == pytest.approx(sum(floor.textbook_eval(work).values()), rel=0.01)


def test_the_floor_lies_below_what_runs(variants, batch):
    ours, _ = variants
    work = step.work_of(ours, SMALL)
    with ours.evaluation():
        found = counted(lambda: ours.eval_batch(batch["img"]))
    assert sum(floor.fewest_eval(work).values()) < found < sum(floor.textbook_eval(work).values())
    found = counted(lambda: ours.train_step(batch))
    assert sum(floor.fewest_step(work).values()) < found < sum(floor.textbook_step(work).values())


def test_counts_of_a_step_on_clips(on_clips, clips):
    """The textbook's are PyTorch's; the floor lies below ours, and that below the textbook's."""
    ours, textbook = on_clips
    work = video_step.work_of(ours, CLIPS)
    plain, own = (counted(lambda subject=subject: subject.train_step(clips)) for subject in (textbook, ours))
    assert plain == pytest.approx(sum(floor.textbook_clips(work).values()), rel=0.01)
    assert 0.5 * own < sum(floor.fewest_clips(work, video_step.depths_of(ours)).values()) < own < plain


def test_fewest_vision_operations_on_clips_by_hand():
    """One frame of one patch, 1 prompt in 2 of 3 layers, D = 1. Layer 2's prompt is read by layer 3 as it comes out."""
    tower = floor.Tower(width=1, depth=3, first=1)
    work = floor.Work(tower, tower, lengths=(4,), batch=1, tokens=1, context=77, patches=1, patch_values=1)
    first = 3 * 2 + 2 + 9 * 2 + 2 * (2 * 3)  # the prompt has no query
    second = 3 * 3 + 9 * 3 + 2 * (3 * 3)
    last = 1 + 2 * 3 + 9 + 2 * 3
    back_first = 2 + 9 * 2 + 2 * 3 + 2 * 2
    back_second = 3 * 3 + 9 * 3 + 4 * (3 * 3)
    back_last = 1 + 2 * 3 + 9 + 4 * 3
    assert floor._frames(work, 2) == (first + second + last, back_first + back_second + back_last)
    twice = floor.Work(tower, tower, lengths=(4,), batch=2, tokens=1, context=77, patches=1, patch_values=1)
    once = 2 * 1 + 3 * 1  # keys and values of layer 1's prompt; all three of layer 2's
    assert floor._frames(twice, 2)[0] == 2 * floor._frames(work, 2)[0] - once
    # Text: what layer 2 makes of the prompt is read in layer 3: its query and the rest, and two pairs.
    assert floor._below_fresh(work, 2) == 2 * (1 + 9) + (2 + 4) * 2 and floor._below_fresh(work, 3) == 0


def test_fewest_text_operations_by_hand():
    """One prompt of 4 tokens, 1 learnable token, D = 1, tokens in both layers: every product counted one by one."""
    tower = floor.Tower(width=1, depth=2, first=1)
    work = floor.Work(tower, tower, lengths=(4,), batch=1, tokens=1, context=77, patches=1, patch_values=1)
    pairs = 3 + 4 + 5  # each word sees the start, the token, and the words up to itself
    first = 2 * 1 + 3 * 9 + 2 * pairs
    last = 2 * 1 + (1 + 2 * 3) + 9 + 2 * 5
    back_first = 2 * 1 + 3 * 9 + pairs + 2 * 3
    back_last = 2 * 1 + (1 + 2 * 3) + 9 + 4 * 5
    assert floor._prompts(work) == (first + last, back_first + back_last)


# ---------------------------------------------------------------------------------------------- cases and clocks


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_class_names_are_different_and_as_long_as_stated(case):
    names = class_names(case)
    assert len(set(names)) == case.classes and names == class_names(case)
    tokenizer = cases.SimpleTokenizer()
    lengths = [2 + len(tokenizer.encode(prompt)) for prompt in prompts_for(case.dataset, names)]
    assert max(lengths) == case.longest and min(lengths) < sum(lengths) / len(lengths) < case.longest - 1


def test_random_backbone_is_the_same_every_time(monkeypatch):
    small = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"width": 8, "heads": 2, "layers": 1},
    }
    monkeypatch.setattr(cases.open_clip, "get_model_config", {"ViT-B-16": small}.__getitem__)
    first, second = (cases.random_backbone("ViT-B/16") for _ in range(2))
    assert first.image_size == 32 and not any(p.requires_grad for p in first.model.parameters())
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ratios_are_of_runs_side_by_side():
    compared = measure.comparison({"textbook": [2.0, 30.0, 4.0], "ours": [1.0, 10.0, 4.0]})
    assert compared["ratio"] == {"median": 2.0, "low": 1.5, "high": 2.5}
    assert compared["ours"]["median"] == 4.0
    assert "ratio" not in measure.comparison({"ours": [1.0]})


def test_interleaved_runs_all_in_turn():
    order = []
    actions = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.interleaved(actions, 2, torch.device("cpu"), lambda: None)
    assert sorted(order[:2]) == sorted(order[2:]) == ["a", "b"] and order[:2] != order[2:]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def peak_of_a_tensor(size):
    return measure.peak_of(lambda: torch.ones(size // 4).sum(), torch.device("cpu"))


def test_peak_of_memory_sees_what_is_freed_again():
    size = 64 * 2**20
    found = measure.in_child(peak_of_a_tensor, size)  # where no other test's memory is given back meanwhile
    if found is None:
        pytest.skip("this system does not tell")
    assert 0.9 * size < found["added"] < 2 * size


def test_a_child_that_lacks_memory_is_no_error_and_any_other_mistake_is():
    assert measure.in_child(bytearray, 2**62) is None
    with pytest.raises(ZeroDivisionError):
        measure.in_child(divmod, 1, 0)


# ---------------------------------------------------------------------------------------------- command lines


def test_step_writes_results_that_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "in_child", lambda function, *args: function(*args))
    monkeypatch.setattr(measure, "limit_memory", lambda: None)  # it would hold for all tests to come
    monkeypatch.setattr(measure, "peak_of", lambda action, device: action() and {"level": 1, "added": 2**20})
    monkeypatch.setattr(step, "CASES", {"7x3": SMALL})
    monkeypatch.setattr(step.argparse.ArgumentParser, "parse_args", parse_with_case("7x3"))
    file = tmp_path / "step.json"
    assert step.main(["--backbone", "tiny", "--repeats", "2", "--output", str(file), "--markdown"]) == 0
    result = json.loads(file.read_text())
    (case,) = result["cases"]
    for kind in ("training", "evaluation"):
        assert len(case[kind]["ours"]["seconds"]) == len(case[kind]["textbook"]["seconds"]) == 2
        counts = case[kind]["multiply_adds"]
        assert 0 < counts["floor"] < counts["ours"] < counts["textbook"]
    shown = capsys.readouterr().out
    assert shown.strip() == report.step_table(result).strip()
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nkept\n")
    for _ in range(2):  # the second time replaces
        assert report.main([str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Title\n\nkept\n") and text.count("### Step") == 1 and shown.strip() in text


def parse_with_case(name):
    original = step.argparse.ArgumentParser.parse_args

    def parse(self, argv=None):
        args = original(self, argv)
        return SimpleNamespace(**{**vars(args), "cases": [name]}) if hasattr(args, "cases") else args

    return parse


def test_cuda_without_cuda_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert step.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: --device cuda")


def test_a_case_that_does_not_fit_is_shown_as_such():
    case = {"classes": 1000, "batch": 32, "longest": 18, "memory": {"textbook": None, "ours": {"added": 2**30}}}
    ours = {
        "ours": {"median": 1, "low": 1, "high": 2},
        "multiply_adds": {"textbook": 3e12, "ours": 2e12, "floor": 1e12},
        "floor": {"seconds": 0.5, "ours_over_floor": 2.0},
    }
    assert report.memory_row(case) == ["1000", "32", "does not fit", "1,024", ""]
    assert report.times_row(case, ours)[3:6] == ["does not fit", "1,000 (1,000 to 2,000)", ""]


# ---------------------------------------------------------------------------------------------- input and whole run


def test_data_measures_the_loaders_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "CLASSES", 2)
    monkeypatch.setattr(data, "SHOTS", 4)
    training, test = data.dassls_loaders("SyntheticPhotos", str(tmp_path), 0)
    assert len(list(tmp_path.glob("synthetic_photos/*.jpg"))) == 8
    assert data.Image.open(next(tmp_path.glob("*/*.jpg"))).size == data.PHOTO_SIZE
    (first, second) = list(training)
    assert first["img"].shape == (4, 3, 224, 224) and second["img"].shape == first["img"].shape
    ours = data.with_kept_images(training), data.with_cached_images(test)
    for _ in range(2):
        assert [len(list(loader)) for loader in ours] == [2, 1]
    assert ours[0].dataset.kept and ours[1].dataset.images is not None  # what is measured is at work
    monkeypatch.setattr(data, "Shapes", data.SyntheticPhotos)
    capsys.readouterr()
    file = tmp_path / "data.json"
    assert data.main(["--workers", "0", "--root", str(tmp_path), "--output", str(file), "--markdown"]) == 0
    result = json.loads(file.read_text())
    (row, _) = result["loaders"]
    speeds = [row[key] for key in ("decode", "transform", "collate")]
    passes = [row[use][who] for use in ("training", "test") for who in ("dassl", "ours")]
    speeds += [speed for found in passes for speed in found.values()]
    assert len(speeds) == 11 and min(speeds) > 0
    shown = capsys.readouterr().out
    assert shown.strip() == report.data_table(result).strip() and all(f"{speed:,.0f}" in shown for speed in speeds)


def test_video_measures_the_same_frames_both_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video, "SIZE", (64, 48))
    monkeypatch.setattr(video, "CLIPS", 2)
    file = tmp_path / "video.json"
    arguments = ["--seconds", "6", "--frames", "3", "--repeats", "2", "--workers", "0", "--output", str(file)]
    assert video.main(["--parts", "reading", *arguments, "--markdown"]) == 0
    result = json.loads(file.read_text())
    for group in result["decoding"]:
        for use in ("test", "training"):
            assert 3 <= group[use]["decoded"] < group[use]["frames"] == 150
            assert len(group[use]["ours"]["seconds"]) == len(group[use]["textbook"]["seconds"]) == 2
    assert all(row[use] > 0 for row in result["loaders"] for use in ("test", "training"))
    assert capsys.readouterr().out.strip() == report.video_table(result).strip()


def test_video_measures_a_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "in_child", lambda function, *args: function(*args))
    monkeypatch.setattr(measure, "limit_memory", lambda: None)  # it would hold for all tests to come
    monkeypatch.setattr(measure, "peak_of", lambda action, device: action() and {"level": 1, "added": 2**20})
    monkeypatch.setattr(video, "measure_step", partial(video_step.measure_step, shape=CLIPS))
    file = tmp_path / "video.json"
    arguments = ["--parts", "step", "--backbone", "tiny", "--repeats", "2", "--output", str(file), "--markdown"]
    assert video.main(arguments) == 0
    result = json.loads(file.read_text())
    found = result["step"]
    assert set(found["times"]) == set(found["memory"]) == set(video_step.VARIANTS)
    assert all(len(times["seconds"]) == 2 for times in found["times"].values())
    counts = found["multiply_adds"]
    assert counts["floor"] < counts["ours"] < counts[video_step.RECOMPUTING] < counts["textbook"]
    assert capsys.readouterr().out.strip() == report.video_table(result).strip()
    assert "decoding" not in result


def test_steps_that_do_not_fit_are_one_line(monkeypatch):
    monkeypatch.setattr(measure, "in_child", lambda *_: None)
    with pytest.raises(SystemExit, match="error: the steps on ViT-B/16 do not fit"):
        video_step.measure_step("ViT-B/16", 1)


def test_video_stops_where_the_frames_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "SIZE", (64, 48))
    path = video.write_clip(tmp_path / "a.mp4", seconds=1, group=50)
    textbook = video.decode_every_frame
    monkeypatch.setattr(video, "decode_every_frame", lambda path, indices: textbook(path, [0 * i for i in indices]))
    with pytest.raises(SystemExit, match="are not those of decoding all of it"):
        video.measure_decoding(path, 3, 1, lambda: None)


def test_phases_nest_and_add_up(monkeypatch):
    now = iter([3.0, 4.0, 9.0, 11.0, 12.0])
    monkeypatch.setattr(run.time, "time", lambda: next(now))
    inner = SimpleNamespace(work=lambda: "done")
    outer = SimpleNamespace(work=lambda: inner.work())
    phases = run.Phases(started=1.0)
    phases.watch(inner, "work", "inner")
    phases.watch(outer, "work", "outer")
    assert outer.work() == "done"
    phases.switch()
    assert phases.seconds == {run.REST: 2.0 + 1.0, "outer": 1.0 + 2.0, "inner": 5.0}


def test_users_overrides_come_last():
    words = run.in_order(["--seed", "2", "OPTIM.MAX_EPOCH", "5"])
    assert words == ["--seed", "2", *run.OVERRIDES, "OPTIM.MAX_EPOCH", "5"]
    assert run.in_order([]) == run.OVERRIDES


@pytest.mark.slow
def test_a_whole_run_is_split_into_its_phases(tmp_path):
    file = tmp_path / "run.json"
    assert run.main(["--output", str(file), "--", "OPTIM.MAX_EPOCH", "1"]) == 0
    result = json.loads(file.read_text())
    assert {"weights", "training", "evaluation", "noise", "checkpoints"} <= set(result["phases"])
    assert min(result["phases"].values()) > 0
    assert result["total"] == pytest.approx(sum(result["phases"].values()))


@pytest.mark.slow
def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(SystemExit, match="unknown trainer|ANPromt"):
        run.measure_run(str(tmp_path), str(tmp_path), ["--trainer", "ANPromt"])
