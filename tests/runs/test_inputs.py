"""A run is more than its config: weights, data lists, sentences, workers, the length of its schedule, its folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train
from anprompt.clip import backbone
from anprompt.data.loaders import drawing_workers
from anprompt.engine.trainer import LEARNER
from anprompt.runs import inputs
from anprompt.runs.run_folder import LOCK, alone, stored_result
from anprompt.utils.files import locked
from tests.helpers import REPOSITORY
from tests.helpers.other_inputs import other_weights
from tests.helpers.runs import Killed, assert_equal, fewer_test_images, start, weights

QUICK = (
    "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.TEST.BATCH_SIZE", "20",
    "TRAIN.CHECKPOINT_FREQ", "1",
)  # fmt: skip


@pytest.fixture
def cfg_of(make_cfg):
    def make(*options, trainer="KgCoOp", **more):
        return make_cfg(*QUICK, *options, trainer=trainer, **more)

    return make


def finish(cfg):
    trainer = fewer_test_images(start(cfg))
    trainer.train()
    return trainer


def stop_after_an_epoch(cfg):
    """Leave the output folder as a run does that is killed in its second epoch."""
    trainer = fewer_test_images(start(cfg))
    before = trainer.before_epoch

    def before_epoch():
        if trainer.epoch == 1:
            raise Killed
        before()

    trainer.before_epoch = before_epoch
    with pytest.raises(Killed):
        trainer.train()


def results_of(cfg):
    return json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())


def shown(cfg, *words):
    return stored_result(cfg, train.build_parser().parse_args([*words]))


def without_entries(cfg, *names):
    """As an earlier version wrote them."""
    for path in Path(cfg.OUTPUT_DIR, LEARNER).glob("model.pth.tar-*"):
        state = torch.load(path, weights_only=True)
        torch.save({key: value for key, value in state.items() if key not in names}, path)


LATER = ("data", "sentences", "workers", "max_epoch", "earlier_schedules")


# ------------------------------------------------------------------ a finished run


def test_what_a_result_tells_of_its_inputs(cfg_of):
    cfg = cfg_of(trainer="ANPrompt")
    finish(cfg)
    told, stat = results_of(cfg)["inputs"], backbone.TINY_FILE.stat()
    assert told["backbone"] == {
        "sha256": backbone.TINY_DIGEST,
        "path": str(backbone.TINY_FILE.resolve()),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    assert told["data"].keys() == {"train", "unlabelled", "val", "test"} and len(set(told["data"].values())) == 4
    assert told["workers"] == 0 and len(told["sentences"]) == 64 and results_of(cfg)["earlier_schedules"] == []
    assert shown(cfg).startswith("already finished") and "\n" not in shown(cfg)


def test_a_finished_run_of_other_weights_is_not_shown(cfg_of, tmp_path, monkeypatch):
    cfg = cfg_of()
    finish(cfg)
    other = other_weights(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"finished run with other inputs: the weights file sha256 \w+ -> sha256 \w+ "):
        shown(cfg_of("MODEL.BACKBONE.PATH", other))
    copy = shutil.copy(backbone.TINY_FILE, str(tmp_path / "copy.safetensors"))  # the same weights elsewhere
    assert "could not" not in shown(cfg_of("MODEL.BACKBONE.PATH", copy))
    shutil.copyfile(other, copy)  # in its place, of the same size
    os.utime(copy, ns=(1, 1))
    with pytest.raises(ValueError, match="the weights file"):
        shown(cfg_of("MODEL.BACKBONE.PATH", copy))
    monkeypatch.setattr(backbone, "_sha256", lambda file: pytest.fail("the file that it was need not be read"))
    assert shown(cfg)


def test_what_is_not_there_is_not_compared_and_that_is_said(cfg_of, tmp_path, monkeypatch):
    cfg = cfg_of()
    finish(cfg)

    def nowhere(cfg):
        raise FileNotFoundError("no folder of data\nmore of it")

    monkeypatch.setattr(inputs, "build_dataset", nowhere)
    lines = shown(cfg_of("MODEL.BACKBONE.PATH", str(tmp_path / "gone"))).splitlines()
    assert lines[0].startswith("already finished") and len(lines) == 3
    assert "weights could not be compared: no weights file for tiny" in lines[1]
    assert lines[2].endswith("data could not be compared: no folder of data")


def test_a_finished_run_of_other_hard_prompts_is_not_shown(cfg_of, tmp_path):
    source = tmp_path / "source.pth"
    torch.save({"ctx": torch.zeros(4, 128)}, source)
    options = ("TRAINER.GA2CLIP.HARD.SOURCE", str(source), "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False")
    cfg = cfg_of(*options, trainer="GA2CLIP")
    finish(cfg)
    assert len(results_of(cfg)["inputs"]["start"]) == 64
    torch.save({"epoch": 3, "state_dict": {"ctx": torch.zeros(4, 128)}}, source)  # another file, the same prompts
    assert shown(cfg).startswith("already finished") and "\n" not in shown(cfg)
    torch.save({"ctx": torch.ones(4, 128)}, source)
    with pytest.raises(ValueError, match=r"other inputs: the prompts that it started from sha256 \w+ -> sha256 \w+ "):
        shown(cfg)
    assert "\n" not in shown(cfg, "--eval-only")  # the model that is tested has its own
    source.unlink()
    assert "start could not be compared: TRAINER.GA2CLIP.HARD.SOURCE: no file or folder" in shown(cfg).splitlines()[1]


def test_hard_prompts_of_words_are_not_compared(cfg_of):
    options = ("TRAINER.GA2CLIP.HARD.SOURCE", "template", "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False")
    cfg = cfg_of(*options, trainer="GA2CLIP")
    finish(cfg)
    assert results_of(cfg)["inputs"]["start"] is None and "\n" not in shown(cfg)


@pytest.mark.parametrize("part", ["train_x", "test", "classnames", "val", "train_u"])
def test_a_finished_run_on_other_data_is_not_shown(cfg_of, monkeypatch, part):
    cfg = cfg_of()
    finish(cfg)
    build = inputs.build_dataset

    def changed(cfg):
        dataset = build(cfg)
        if part == "classnames":
            dataset._classnames = [*dataset.classnames[:-1], "another"]
        elif part == "train_u":
            dataset._train_u = dataset.train_x[:1]
        else:
            setattr(dataset, f"_{part}", getattr(dataset, part)[:-1])
        return dataset

    monkeypatch.setattr(inputs, "build_dataset", changed)
    if part == "val":  # nothing was chosen on it
        assert shown(cfg).startswith("already finished")
        return
    with pytest.raises(ValueError, match="finished run with other inputs: (the list of|class )"):
        shown(cfg)
    if part == "train_x":
        assert shown(cfg, "--eval-only")  # a test reads other lists


def test_to_compare_draws_nothing_and_prints_nothing(cfg_of, capsys):
    cfg = cfg_of()
    finish(cfg)
    capsys.readouterr()
    before = torch.get_rng_state()
    assert shown(cfg)
    assert torch.equal(torch.get_rng_state(), before) and capsys.readouterr() == ("", "")


def test_a_finished_run_of_other_workers_is_shown_with_a_line(cfg_of):
    cfg = cfg_of()
    finish(cfg)
    line, note = shown(cfg_of("DATALOADER.NUM_WORKERS", "2")).splitlines()
    assert line == shown(cfg)
    assert "NUM_WORKERS 0, now it is 2" in note


def test_results_of_earlier_versions_are_shown(cfg_of, tmp_path):
    cfg = cfg_of()
    finish(cfg)
    content = results_of(cfg)
    del content["inputs"], content["earlier_schedules"]
    Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(content))
    other = other_weights(tmp_path / "other.safetensors")
    assert "\n" not in shown(cfg_of("MODEL.BACKBONE.PATH", other))
    assert "NUM_WORKERS 0, now it is 2" in shown(cfg_of("DATALOADER.NUM_WORKERS", "2"))


# ------------------------------------------------------------------ a resume


def test_a_resume_does_not_mix_two_weights_files(cfg_of, tmp_path, capsys):
    cfg = cfg_of()
    stop_after_an_epoch(cfg)
    other = cfg_of("MODEL.BACKBONE.PATH", other_weights(tmp_path / "other.safetensors"))
    before = {path: path.read_bytes() for path in Path(cfg.OUTPUT_DIR, LEARNER).iterdir()}
    with pytest.raises(ValueError, match=r"another weights file of tiny: sha256 \w+, now sha256 \w+ \(MODEL.BACKBONE"):
        finish(other)
    assert {path: path.read_bytes() for path in Path(cfg.OUTPUT_DIR, LEARNER).iterdir()} == before
    finish(cfg)
    tester = fewer_test_images(start(other))  # a test may: the same weights come in several formats
    tester.load_model(cfg.OUTPUT_DIR)
    assert "Warning: " in capsys.readouterr().out


@pytest.mark.parametrize("attribute", ["_train_x", "_val"])
def test_a_resume_does_not_mix_two_data_lists(cfg_of, attribute):
    cfg = cfg_of()
    stop_after_an_epoch(cfg)
    trainer = fewer_test_images(start(cfg))
    images = getattr(trainer.dm.dataset, attribute)
    images[0], images[1] = images[1], images[0]
    if attribute == "_val":  # nothing is chosen on it
        trainer.train()
        return
    with pytest.raises(ValueError, match=r"another list of images of Shapes \(train\)"):
        trainer.train()


def test_a_resume_draws_with_as_many_workers(cfg_of):
    cfg = cfg_of()
    stop_after_an_epoch(cfg)
    other = cfg_of("DATALOADER.NUM_WORKERS", "1")
    with pytest.raises(ValueError, match="NUM_WORKERS 0, and 1 would draw other augmentations"):
        finish(other)
    resumed = weights(finish(cfg))
    assert_equal(resumed, weights(finish(cfg_of(output="straight"))))
    assert results_of(cfg)["inputs"] == results_of(cfg_of(output="straight"))["inputs"]
    finish(other)  # no epoch is left to draw for
    assert results_of(cfg)["inputs"]["workers"] == 0


def test_where_nothing_is_drawn_their_number_does_not_matter(cfg_of):
    fixed = ("INPUT.TRANSFORMS", "('normalize',)")
    cfg = cfg_of(*fixed)
    stop_after_an_epoch(cfg)
    resumed = finish(cfg_of(*fixed, "DATALOADER.NUM_WORKERS", "1"))
    assert resumed.workers is None and drawing_workers(resumed.train_loader_x) is None
    assert_equal(weights(resumed), weights(finish(cfg_of(*fixed, output="straight"))))


@pytest.mark.parametrize("resample", [False, True])
def test_a_resume_and_a_result_have_one_set_of_sentences(cfg_of, tmp_path, resample):
    names = start(cfg_of(output="names")).dm.dataset.classnames
    folder = tmp_path / "hpt"
    folder.mkdir()

    def write(text):
        entries = {name: [f"{text} {number} {name}" for number in range(5)] for name in names}
        (folder / "Shapes.json").write_text(json.dumps(entries))

    options = ("TRAINER.ANPROMPT.NOISE.HPT_DIR", str(folder), "TRAINER.ANPROMPT.NOISE.RESAMPLE", str(resample))
    cfg = cfg_of(*options, trainer="ANPrompt")
    write("one")
    stop_after_an_epoch(cfg)
    write("other")
    with pytest.raises(ValueError, match=r"description sentences of this run were sha256 \w+, now they are sha256"):
        finish(cfg)
    write("one")
    finish(cfg)
    assert shown(cfg).startswith("already finished")
    write("other")
    with pytest.raises(ValueError, match=r"other inputs: the description sentences sha256"):
        shown(cfg)


def test_a_longer_run_says_so_and_keeps_it(cfg_of, capsys):
    finish(cfg_of())
    longer = cfg_of("OPTIM.MAX_EPOCH", "3")
    finish(longer)
    assert capsys.readouterr().out.count("OPTIM.MAX_EPOCH was 2, now it is 3. The first 2 epochs followed") == 1
    assert results_of(longer)["earlier_schedules"] == [{"max_epoch": 2, "epochs": 2}]
    test = cfg_of(output="test", classes="new")
    tester = fewer_test_images(start(test))
    tester.load_model(longer.OUTPUT_DIR)
    tester.test()
    assert results_of(test)["earlier_schedules"] == [{"max_epoch": 2, "epochs": 2}]
    finish(longer)
    assert results_of(longer)["earlier_schedules"] == [{"max_epoch": 2, "epochs": 2}]  # said once


def test_checkpoints_of_earlier_versions_are_resumed(cfg_of):
    cfg = cfg_of()
    stop_after_an_epoch(cfg)
    without_entries(cfg, *LATER)
    resumed = finish(cfg_of("DATALOADER.NUM_WORKERS", "1"))  # they do not tell
    assert resumed.workers == 1 and results_of(cfg)["earlier_schedules"] == []


# ------------------------------------------------------------------ one run at a time


def test_a_second_run_keeps_out_of_a_folder(tmp_path, make_cfg, capsys):
    cfg = make_cfg()
    words = ["--dataset-config-file", f"{REPOSITORY}/configs/datasets/shapes.yaml", "--trainer", "CoOp"]
    with alone(cfg):
        assert train.main([*words, "--output-dir", cfg.OUTPUT_DIR]) == 2
        assert f"error: another run is at work in {cfg.OUTPUT_DIR}: wait for its end" in capsys.readouterr().err
        assert os.listdir(cfg.OUTPUT_DIR) == [LOCK]
        with alone(make_cfg(output="other")):
            pass
    with alone(cfg):
        pass
    assert os.listdir(cfg.OUTPUT_DIR) == []


@contextmanager
def at_work(cfg):
    """train.py in another process, which trains as ``cfg`` says and is halted once it has taken its folder."""
    words = words_of(cfg)
    process = subprocess.Popen([sys.executable, "train.py", *words], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        while not Path(cfg.OUTPUT_DIR, LOCK).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def words_of(cfg):
    """The command line of a run with one epoch and the smallest set of images."""
    words = ["--root", cfg.DATASET.ROOT, "--output-dir", cfg.OUTPUT_DIR, "--seed", str(cfg.SEED), "--trainer", "KgCoOp"]
    words += ["--dataset-config-file", f"{REPOSITORY}/configs/datasets/shapes.yaml"]
    words += ["--config-file", f"{REPOSITORY}/configs/trainers/KgCoOp/tiny.yaml"]
    return [*words, "DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "new", "OPTIM.MAX_EPOCH", "1"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_of_two_processes_the_second_is_refused_and_the_first_finishes(make_cfg, capsys):
    """With other seeds, such as in a job array whose output folder lacks the seed."""
    first = make_cfg(seed=1)
    with at_work(first) as process:
        before = os.listdir(first.OUTPUT_DIR)
        assert train.main(words_of(make_cfg(seed=2))) == 2
        assert capsys.readouterr().err == (
            f"error: another run is at work in {first.OUTPUT_DIR}: wait for its end, or choose another output folder "
            "(ANPROMPT_TRACEBACK=1 shows where)\n"
        )
        assert os.listdir(first.OUTPUT_DIR) == before
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    assert results_of(first)["seed"] == 1 and not Path(first.OUTPUT_DIR, LOCK).exists()


HOLDER = """
import os, sys, time
from pathlib import Path
from anprompt.utils.files import locked
with locked(Path(sys.argv[1]), "busy"):
    if os.fork() == 0:  # a worker
        time.sleep(60)
    print("here", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_and_not_with_what_it_forked(tmp_path):
    path = tmp_path / LOCK
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == b"here\n"
        time.sleep(0.2)  # the child closes its copy
        with pytest.raises(BlockingIOError, match="busy"), locked(path, "busy"):
            pass
        assert path.is_file()
        holder.kill()
        holder.wait()
        with locked(path, "busy"):
            pass
        assert not path.exists()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_the_lock_of_a_killed_process_does_not_block_the_next_run(make_cfg):
    """Whole runs are killed in tests/scripts."""
    cfg = make_cfg(seed=1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{cfg.OUTPUT_DIR}/{LOCK}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout.readline() == b"here\n"
    assert train.main(words_of(cfg)) == 2
    os.killpg(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert Path(cfg.OUTPUT_DIR, LOCK).exists()
    assert train.main(words_of(cfg)) == 0
    assert results_of(cfg)["seed"] == 1 and not Path(cfg.OUTPUT_DIR, LOCK).exists()
