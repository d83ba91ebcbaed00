"""Clips in every trainer: loaders, the evaluator, and what is averaged over views."""

import json
from pathlib import Path

import pytest
import torch

import datasets
from anprompt.data.loaders import StayingLoader
from anprompt.engine.video_classification import VideoClassification
from anprompt.video.clips import VideoDatasetWrapper
from anprompt.video.items import VideoDatum
from tests.helpers import fake_clips, video_data
from tests.helpers.runs import assert_equal, finish, start, weights

datasets.register_all()

TRAINERS = {
    "CoOp": (), "KgCoOp": (), "MaPLe": (), "MMRL": (), "MMRLpp": (), "ANPrompt": (), "E2MIM": (),
    "PromptSRC": ("TRAINER.PROMPTSRC.GPA_MEAN", "2.0", "TRAINER.PROMPTSRC.GPA_STD", "1.5"),
    "GA2CLIP": ("TRAINER.GA2CLIP.HARD.ENABLED", "False", "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False"),
}  # fmt: skip
ONE_EPOCH = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0")


@pytest.fixture
def clip_cfg(make_cfg):
    def make(trainer, *options, **others):
        return make_cfg(*fake_clips.OPTIONS, *TRAINERS.get(trainer, ()), *options, trainer=trainer, **others)

    return make


@pytest.fixture(autouse=True)
def few_templates(monkeypatch):
    monkeypatch.setattr("trainers.promptsrc.TEMPLATES", 3)


@pytest.mark.parametrize("name", TRAINERS)
def test_every_method_trains_and_tests_with_its_tiny_yaml(clip_cfg, name):
    trainer = start(clip_cfg(name, *ONE_EPOCH))
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert before.keys() == after.keys() and any(not torch.equal(before[key], after[key]) for key in before)
    results = json.loads(Path(trainer.cfg.OUTPUT_DIR, "results.json").read_text())
    assert results["total"] == 4 and results["top5_accuracy"] == 100.0
    assert {"accuracy", "error_rate", "macro_f1"} < results.keys()


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "ZeroshotCLIP2"])
def test_zero_shot(clip_cfg, name):
    assert 0 <= start(clip_cfg(name)).test() <= 100


def test_one_method_is_refused_in_one_line(clip_cfg):
    with pytest.raises(ValueError, match="^CoCoOp writes its prompts for one image, and FakeClips has clips"):
        start(clip_cfg("CoCoOp"))


def test_loaders_are_dassls_with_items_of_clips(clip_cfg):
    trainer = start(clip_cfg("CoOp"))
    assert type(trainer.train_loader_x) is StayingLoader
    for loader in (trainer.train_loader_x, trainer.test_loader):
        assert type(loader.dataset) is VideoDatasetWrapper
    assert trainer.train_loader_x.dataset.is_train and not trainer.test_loader.dataset.is_train
    batch = next(iter(trainer.train_loader_x))
    assert batch["img"].shape == (4, 3, 3, 64, 64) and batch["img"].dtype == torch.float32
    assert set(batch) == {"label", "domain", "impath", "index", "img"}
    assert trainer.num_classes == 2 and trainer.lab2cname == {0: "red square", 1: "blue square"}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_test_ends_at_a_broken_clip_with_one_line(clip_cfg, tmp_path, workers):
    trainer = start(clip_cfg("CoOp", "DATALOADER.NUM_WORKERS", workers))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no clip")
    trainer.test_loader.dataset.data_source[1] = VideoDatum(str(broken))
    with pytest.raises(ValueError, match=r'^the clip ".*broken\.npz" is damaged .*: write it again$'):
        trainer.test()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_ends_with_the_same_weights(clip_cfg, workers):
    more = ("TEST.NO_TEST", "True", "DATALOADER.NUM_WORKERS", workers)
    whole = finish(clip_cfg("CoOp", *more, output="whole"))
    finish(clip_cfg("CoOp", *more, "OPTIM.MAX_EPOCH", "2", output="parts"))
    trainer = start(clip_cfg("CoOp", *more, "OPTIM.MAX_EPOCH", "3", output="again"))
    trainer.train()
    assert_equal(weights(whole), weights(trainer))
    assert whole.drawing_workers() == int(workers)


# ------------------------------------------------------------------ evaluation


def test_the_evaluator_of_clips(clip_cfg, make_cfg, capsys):
    cfg = clip_cfg("CoOp")
    evaluator = VideoClassification(cfg, lab2cname={})
    logits = torch.eye(8).roll(1, 0) + torch.linspace(0, 0.5, 8)  # the best is one off; the largest classes follow
    evaluator.process(logits[:4], torch.arange(4))
    evaluator.process(logits[4:], torch.tensor([4, 5, 6, 6]))
    results = evaluator.evaluate()
    among = [label in logits[i].topk(5).indices for i, label in enumerate([0, 1, 2, 3, 4, 5, 6, 6])]
    assert next(iter(results)) == "accuracy" and results["accuracy"] == 12.5
    assert results["top5_accuracy"] == 100 * sum(among) / 8 and 0 < sum(among) < 8
    assert f"* top5_accuracy: {results['top5_accuracy']:.1f}%" in capsys.readouterr().out
    evaluator.reset()
    evaluator.process(torch.eye(3), torch.arange(3))
    assert evaluator.evaluate()["top5_accuracy"] == 100
    assert type(start(cfg).evaluator) is VideoClassification
    assert type(start(make_cfg(output="images", trainer="CoOp")).evaluator) is not VideoClassification


def views(trainer, count=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, count, 2, 3, 64, 64, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("name", ["MMRL", "CoOp"])
def test_probabilities_of_views_are_averaged_where_that_is_asked_for(clip_cfg, name):
    trainer = start(clip_cfg(name, "VIDEO.VIEW_FUSION", "prob"))
    images = views(trainer)
    heads = trainer.head_logits(images)
    for head, logits in heads.items():
        each = [trainer.model.head_logits(images[:, view])[head].softmax(dim=1) for view in range(2)]
        assert torch.allclose(logits.softmax(dim=1), sum(each) / 2, rtol=0, atol=1e-5)
        assert torch.allclose(logits.exp().sum(dim=1), torch.ones(3), rtol=0, atol=1e-5)
    assert torch.equal(trainer.model_inference(images), heads[trainer.headline()])
    alone = images[:, 0]
    assert torch.equal(trainer.model_inference(alone), trainer.model.head_logits(alone)[trainer.headline()])


@torch.no_grad()
def test_else_their_features_are(clip_cfg):
    trainer = start(clip_cfg("CoOp"))
    images = views(trainer)
    flat = trainer.model_inference(images.flatten(1, 2))  # all frames of all views as one clip
    assert torch.allclose(trainer.model_inference(images), flat, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fusion", ["embedding", "prob"])
def test_a_whole_test_of_several_views(clip_cfg, fusion):
    crops = ("VIDEO.TEST_CLIPS", "2", "VIDEO.TEST_CROPS", "3", "VIDEO.VIEW_FUSION", fusion)
    trainer = start(clip_cfg("CoOp", *crops))
    assert next(iter(trainer.test_loader))["img"].shape == (4, 6, 3, 3, 64, 64)
    assert 0 <= trainer.test() <= 100


@pytest.mark.parametrize("name", ["CoOp", "GA2CLIP"])
def test_no_method_trains_with_the_clips_of_the_test(make_cfg, tmp_path, name):
    """New classes have no others. With anchors, these are not what is missing."""
    video_data.make(tmp_path / "clips")
    options = ("DATASET.NAME", "HMDB51Video", "DATASET.ROOT", f"{tmp_path}/clips", *fake_clips.OPTIONS[2:])
    trainer = start(make_cfg(*options, trainer=name, classes="new"))
    message = "^DATASET.SUBSAMPLE_CLASSES new of HMDB51Video has no clips but those of the test: train with base or all"
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert not list(Path(trainer.cfg.OUTPUT_DIR).rglob("*.pth.tar*"))
