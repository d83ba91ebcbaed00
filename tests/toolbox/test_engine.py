"""The trainer's life cycle, log, files and resuming, against runs recorded with the reference Dassl."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, SimpleNet, TrainerBase, TrainerX, TrainerXU
from dassl.modeling import BACKBONE_REGISTRY, HEAD_REGISTRY, Backbone, build_network
from tests.toolbox.toy import GOLDEN, GOLDEN_DIR, Toy, ToyTrainer, start, toy_items

RUNS = GOLDEN["runs"]
BEST_VAL = ("TEST.FINAL_MODEL", "best_val")
OPTIONS_B = (*BEST_VAL, "TEST.PER_CLASS_RESULT", True, "TEST.COMPUTE_CMAT", True, "TRAIN.CHECKPOINT_FREQ", 2)
LOSS_TOLERANCE = float(GOLDEN["_meta"]["tolerances"]["loss in log lines"].removeprefix("absolute "))
LR_TOLERANCE = float(GOLDEN["_meta"]["tolerances"]["lr"].removeprefix("absolute "))
ACCURACY_A = pytest.approx(100 * 11 / 30)

NOTICE = "No event files are written: tensorboard is not installed (pip install tensorboard)"


def run(root, output, *overrides, trainer="ToyTrainer"):
    """Train to the end; the trainer."""
    with contextlib.redirect_stdout(io.StringIO()):
        built = start(root, output, *overrides, trainer=trainer)
        built.train()
    return built


@pytest.fixture(scope="module")
def run_a(toy_root, tmp_path_factory):
    return run(toy_root, tmp_path_factory.mktemp("out") / "A", trainer="ToyCoOpStyle")


@pytest.fixture(scope="module")
def run_b(toy_root, tmp_path_factory):
    return run(toy_root, tmp_path_factory.mktemp("out") / "B", *OPTIONS_B)


@pytest.fixture
def recorded(request, run_a, run_b):
    return {"A": (run_a, RUNS["A"]), "B": (run_b, RUNS["B"])}[request.param]


both_runs = pytest.mark.parametrize("recorded", ["A", "B"], indirect=True)


def copy_of(trainer, target):
    """The output folder of a run, for another run to continue. Returns the new folder."""
    shutil.copytree(trainer.output_dir, target)
    return target


def log(trainer):
    """log.txt with the folder of the run named as in the recording."""
    folder = Path(trainer.output_dir)
    return (folder / "log.txt").read_text(encoding="utf-8").replace(str(folder.parent), "<OUT>")


# ---------------------------------------------------------------------------------------------- recorded runs


@both_runs
def test_life_cycle(recorded):
    trainer, golden = recorded
    assert trainer.events == golden["life_cycle"]


@both_runs
def test_batches(recorded):
    trainer, golden = recorded
    assert without_rate(trainer.seen) == without_rate(golden["train_batches"])


@both_runs
def test_rates(recorded):
    trainer, golden = recorded
    rates = [batch["lr_at_entry"] for batch in golden["train_batches"]]
    assert [batch["lr_at_entry"] for batch in trainer.seen] == pytest.approx(rates, abs=LR_TOLERANCE)


def without_rate(batches):
    return [{name: value for name, value in batch.items() if name != "lr_at_entry"} for batch in batches]


@both_runs
def test_files(recorded):
    trainer, golden = recorded
    folder = Path(trainer.output_dir)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {name for name in golden["files"] if not name.startswith("tensorboard/")}
    assert {name for name in files if not name.startswith("tensorboard/")} == expected
    assert (folder / "prompt_learner" / "checkpoint").read_text() == golden["checkpoint_file_text"]


TIMES = re.compile(r"(time|data) [\d.]+ \([\d.]+\)")
CLOCK = re.compile(r"(eta|Elapsed:) \d+:\d\d:\d\d")
LOSS = re.compile(r"loss ([\d.]+) \(([\d.]+)\)")


def timeless(line):
    return CLOCK.sub(r"\1 <clock>", TIMES.sub(r"\1 <t> (<t>)", line))


def losses(lines):
    return [float(number) for line in lines for found in LOSS.findall(line) for number in found]


@both_runs
def test_log_lines(recorded):
    trainer, golden = recorded
    lines = [timeless(line) for line in log(trainer).splitlines()]
    expected = [timeless(line) for line in golden["log_after_env_info"].splitlines()]
    lines.remove("Finished training")  # the one line more
    (writer,) = (line for line in expected if line.startswith("Initialize tensorboard"))
    if importlib.util.find_spec("tensorboard") is None:
        expected[expected.index(writer)] = NOTICE
    assert losses(lines) == pytest.approx(losses(expected), abs=LOSS_TOLERANCE)
    assert [LOSS.sub("loss", line) for line in lines] == [LOSS.sub("loss", line) for line in expected]


def parsed(text, end_signal):
    """What a log parser of the family reads: the last accuracy after the line of the end signal."""
    armed, value = False, None
    for line in map(str.strip, text.splitlines()):
        armed |= line == end_signal
        match = re.search(GOLDEN["log_parsers"]["metric_regex"].format(keyword="accuracy"), line)
        if armed and match:
            value = float(match.group(1))
    return value


@both_runs
@pytest.mark.parametrize("parser", GOLDEN["log_parsers"]["end_signal"])
def test_every_parser_of_the_family_finds_the_result(recorded, parser):
    trainer, _ = recorded
    name = Path(trainer.output_dir).name
    expected = GOLDEN["log_parsers"]["verified"][f"run {name} log with CoOp parser"]
    assert parsed(log(trainer), GOLDEN["log_parsers"]["end_signal"][parser]) == expected


def test_evaluation_of_a_stored_epoch(run_a, toy_root, tmp_path):
    """Run D: a new process loads epoch 3 of run A, with the loading code of the family, and tests."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = start(toy_root, tmp_path / "D", trainer="ToyCoOpStyle")
        trainer.load_model(run_a.output_dir, epoch=3)
        trainer.test()
    text = log(trainer).replace(str(Path(run_a.output_dir).parent), "<OUT>")
    assert text.strip() == RUNS["D"]["log_after_env_info"].strip()
    assert trainer.events == RUNS["D"]["life_cycle"]


def test_continuing_a_finished_run_with_more_epochs(run_a, toy_root, tmp_path):
    """Run C: batches and life cycle as recorded; the rates are those of an uninterrupted run, where Dassl's freeze."""
    folder = copy_of(run_a, tmp_path / "C")
    trainer = run(toy_root, folder, "OPTIM.MAX_EPOCH", 6, trainer="ToyCoOpStyle")
    assert trainer.events == RUNS["C"]["life_cycle"]
    assert without_rate(trainer.seen) == without_rate(RUNS["C"]["train_batches"])
    (later_log,) = folder.glob("log.txt-*")
    lines = later_log.read_text().replace(str(tmp_path), "<OUT>").splitlines()
    first = lines.index("Found checkpoint at <OUT>/C (will resume training)")
    expected = RUNS["C"]["log_after_env_info"].splitlines()
    same = expected[expected.index(lines[first]) :][:6]  # up to the number of the epoch
    assert lines[first : first + 6] == same
    assert rates_by_epoch(trainer) == pytest.approx(uninterrupted("constant_warmup1", 3), abs=LR_TOLERANCE)


def rates_by_epoch(trainer):
    return {batch["epoch"]: batch["lr_at_entry"] for batch in trainer.seen}


def uninterrupted(kind, epoch):
    return {int(e): rate for e, rate in GOLDEN["resume"][f"{kind}_uninterrupted"].items() if int(e) >= epoch}


# ---------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_is_plain_data_in_the_usual_order(run_a):
    content = torch.load(f"{run_a.output_dir}/prompt_learner/model.pth.tar-3", weights_only=True)
    layout = GOLDEN["checkpoint_layout_real_dassl"]
    assert list(content) == layout["top_level_keys_in_order"]
    assert list(content["state_dict"]) == layout["state_dict_keys_toy"]
    assert (content["epoch"], content["val_result"]) == (3, None)
    json.dumps(content["scheduler"])


def test_best_checkpoint_holds_its_validation_result(run_b):
    content = torch.load(f"{run_b.output_dir}/prompt_learner/model-best.pth.tar", weights_only=True)
    layout = GOLDEN["checkpoint_layout_real_dassl"]
    assert content["val_result"] == layout["val_result_model-best_run_B"]
    assert content["epoch"] == layout["epoch_in_model-best_run_B"]


def test_a_validation_result_of_any_float_type_is_stored_as_plain_data(tmp_path):
    trainer = base_trainer(a=nn.Linear(1, 1))
    trainer.save_model(0, str(tmp_path), val_result=np.float64(12.5))
    assert torch.load(tmp_path / "a" / "model.pth.tar-1", weights_only=True)["val_result"] == 12.5


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("kind, warmup", [("constant_warmup1", (1, "constant")), ("linear_warmup3", (3, "linear"))])
@pytest.mark.parametrize("stop", [2, 3])
def test_an_interrupted_run_continues_the_schedule(kind, warmup, stop, toy_root, tmp_path, monkeypatch):
    options = ("OPTIM.MAX_EPOCH", 6, "OPTIM.WARMUP_EPOCH", warmup[0], "OPTIM.WARMUP_TYPE", warmup[1])
    options += ("TRAIN.CHECKPOINT_FREQ", 1)

    def interrupt(self):
        if self.epoch == stop:
            raise Interrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(ToyTrainer, "before_epoch", interrupt)
        run(toy_root, tmp_path / "run", *options)
    trainer = run(toy_root, tmp_path / "run", *options)
    assert rates_by_epoch(trainer) == pytest.approx(uninterrupted(kind, stop), abs=LR_TOLERANCE)


def test_a_run_of_real_dassl_continues_with_the_right_rate(toy_root, tmp_path):
    folder = tmp_path / "run" / "prompt_learner"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN_DIR / "legacy_torch2.4.1_runA_model.pth.tar-3", folder / "model.pth.tar-3")
    (folder / "checkpoint").write_text("model.pth.tar-3\n")
    trainer = run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 6)
    assert rates_by_epoch(trainer) == pytest.approx(uninterrupted("constant_warmup1", 3), abs=LR_TOLERANCE)


LEGACY = {
    "legacy_torch2.4.1_runA_model.pth.tar-3": ("model.pth.tar-3", 3, 100 * 11 / 30, "epoch=3, val_result=None"),
    "legacy_torch2.4.1_runB_model-best.pth.tar": ("model-best.pth.tar", None, 30.0, "epoch=2, val_result=40.0"),
}


@pytest.mark.parametrize("fixture", LEGACY)
def test_models_of_real_dassl_load_and_score_the_same(fixture, toy_root, tmp_path, capsys):
    name, epoch, accuracy, shown = LEGACY[fixture]
    folder = tmp_path / "trained" / "prompt_learner"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN_DIR / fixture, folder / name)
    trainer = start(toy_root, tmp_path / "run")
    trainer.load_model(str(folder.parent), epoch=epoch)
    assert capsys.readouterr().out.endswith(f"Load {folder / name} to prompt_learner ({shown})\n")
    assert trainer.test() == pytest.approx(accuracy)


def test_a_finished_run_is_only_tested_again(run_a, toy_root, tmp_path):
    trainer = run(toy_root, copy_of(run_a, tmp_path / "A"))
    assert (trainer.seen, trainer.epoch) == ([], 0)
    assert trainer.events[-2:] == ["after_train", "test(split=None)"]


def test_resume_from_another_folder_saves_in_the_own_one(run_a, toy_root, tmp_path):
    before = sorted(Path(run_a.output_dir, "prompt_learner").iterdir())
    trainer = run(toy_root, tmp_path / "own", "RESUME", run_a.output_dir, "OPTIM.MAX_EPOCH", 4)
    assert list(rates_by_epoch(trainer)) == [3]
    assert (tmp_path / "own" / "prompt_learner" / "model.pth.tar-4").is_file()
    assert sorted(Path(run_a.output_dir, "prompt_learner").iterdir()) == before


def test_a_folder_without_pointer_is_no_run(toy_root, tmp_path, capsys):
    (tmp_path / "run" / "prompt_learner").mkdir(parents=True)
    trainer = start(toy_root, tmp_path / "run")
    assert trainer.resume_model_if_exist(str(tmp_path / "run")) == 0
    assert capsys.readouterr().out.endswith("No checkpoint found, train from scratch\n")


def test_a_resumed_run_keeps_a_better_earlier_model(run_b, toy_root, tmp_path):
    folder = copy_of(run_b, tmp_path / "B")
    best = folder / "prompt_learner" / "model-best.pth.tar"
    content = torch.load(best, weights_only=True)
    torch.save({**content, "val_result": 100.0}, best)
    trainer = run(toy_root, folder, *OPTIONS_B, "OPTIM.MAX_EPOCH", 4)
    assert trainer.best_result == 100.0
    assert torch.load(best, weights_only=True)["epoch"] == 2


def test_models_saved_at_different_epochs_do_not_resume(tmp_path):
    trainer = TrainerBase()
    for name, epoch in (("a", 1), ("b", 2)):
        trainer.register_model(name, nn.Linear(1, 1))
        single = TrainerBase()
        single.register_model(name, nn.Linear(1, 1))
        single.save_model(epoch - 1, str(tmp_path))
    with pytest.raises(ValueError, match=r"different epochs \(\{'a': 1, 'b': 2\}\)"):
        trainer.resume_model_if_exist(str(tmp_path))


def test_loading_without_a_folder_is_skipped(toy_root, tmp_path, capsys):
    trainer = start(toy_root, tmp_path / "run")
    before = trainer.model.prompt_learner.fc.weight.clone()
    capsys.readouterr()
    trainer.load_model("")
    assert "skipped" in capsys.readouterr().out
    assert torch.equal(trainer.model.prompt_learner.fc.weight, before)


def test_a_missing_model_file_is_named_with_those_that_are_there(run_a, toy_root, tmp_path):
    trainer = start(toy_root, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"model-best.pth.tar\". There are: model.pth.tar-3. Name the epoch"):
        trainer.load_model(run_a.output_dir)


def test_a_missing_model_folder_is_named(toy_root, tmp_path):
    trainer = start(toy_root, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="is this the OUTPUT_DIR of the training run"):
        trainer.load_model(str(tmp_path / "nowhere"))


# ---------------------------------------------------------------------------------------------- evaluation


def test_accuracy_is_returned_unrounded(run_a):
    assert ToyTrainer.test(run_a) == ACCURACY_A


@pytest.mark.parametrize("options, split", [({}, "test"), ({"split": "val"}, "val"), ({"split": "train"}, "test")])
def test_split_to_evaluate(options, split, run_a, capsys):
    TrainerX.test(run_a, **options)
    assert f"Evaluate on the *{split}* set\n" in capsys.readouterr().out


def test_a_result_on_the_test_images_where_others_were_asked_for_says_so(run_a, capsys, monkeypatch):
    TrainerX.test(run_a, split="val")
    assert "Note: " not in capsys.readouterr().out
    monkeypatch.setattr(run_a, "val_loader", None)
    monkeypatch.setattr(run_a, "cfg", run_a.cfg.clone())
    run_a.cfg.merge_from_list(["TEST.SPLIT", "val"])
    TrainerX.test(run_a)
    note, evaluate = capsys.readouterr().out.splitlines()[:2]
    assert note == "Note: TEST.SPLIT is val, but there are no validation images: the result is that of the test images"
    assert evaluate == "Evaluate on the *test* set"


def test_is_final_is_accepted(run_a):
    assert TrainerX.test(run_a, is_final=True) == ACCURACY_A


def test_evaluation_is_without_gradients_in_evaluation_mode(run_a, monkeypatch):
    seen = set()

    def inference(images):
        seen.add((torch.is_grad_enabled(), run_a.model.prompt_learner.training))
        return run_a.model(images)

    run_a.set_model_mode("train")
    monkeypatch.setattr(run_a, "model_inference", inference)
    TrainerX.test(run_a)
    assert seen == {(False, False)}


def test_progress_bar_stays_out_of_the_log(run_a, capsys):
    TrainerX.test(run_a)
    assert "it/s" not in capsys.readouterr().out


@pytest.fixture
def no_val_dataset():
    def build(cfg):
        dataset = Toy(cfg)
        dataset._val = None
        return dataset

    build.__name__ = "NoVal"
    DATASET_REGISTRY.register(build, force=True)
    return ("DATASET.NAME", "NoVal")


def test_best_val_without_validation_set_is_refused_before_training(no_val_dataset, toy_root, tmp_path):
    trainer = start(toy_root, tmp_path / "run", *no_val_dataset, *BEST_VAL)
    with pytest.raises(ValueError, match="best_val needs a validation set, which NoVal has not"):
        trainer.train()
    assert trainer.seen == []


def test_evaluation_alone_needs_no_validation_set(no_val_dataset, toy_root, tmp_path):
    assert 0 <= start(toy_root, tmp_path / "run", *no_val_dataset, *BEST_VAL).test() <= 100


def test_no_test_trains_and_saves_only(toy_root, tmp_path):
    trainer = run(toy_root, tmp_path / "run", "TEST.NO_TEST", True, *BEST_VAL)
    assert [event for event in trainer.events if event.startswith(("test", "save"))] == ["save_model(epoch=2,{})"]


# ---------------------------------------------------------------------------------------------- progress


def printed_batches(trainer):
    return re.findall(r"epoch \[1/\d\] batch \[(\d)/5\]", log(trainer))


@pytest.mark.parametrize("frequency, printed", [(3, "3"), (5, "5"), (10, "12345"), (0, "")])
def test_print_frequency(frequency, printed, toy_root, tmp_path):
    trainer = run(toy_root, tmp_path / "run", "TRAIN.PRINT_FREQ", frequency, "OPTIM.MAX_EPOCH", 1)
    assert "".join(printed_batches(trainer)) == printed


def test_eta_covers_all_epochs_that_remain(toy_root, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 2))  # two seconds between any two looks: load 2, step 2, and 2 in between
    monkeypatch.setattr("dassl.engine.trainer.time", SimpleNamespace(time=lambda: next(clock)))
    trainer = run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 2, "TRAIN.PRINT_FREQ", 4)
    lines = [line for line in log(trainer).splitlines() if line.startswith("epoch")]
    assert "epoch [1/2] batch [4/5] time 4.000 (4.000) data 2.000 (2.000) loss" in lines[0]
    assert [line.split()[-1] for line in lines] == ["0:00:24", "0:00:04"]  # 6 and 1 batches of 4 s


def test_forward_backward_may_return_nothing(toy_root, tmp_path, monkeypatch):
    forward_backward = ToyTrainer.forward_backward
    monkeypatch.setattr(ToyTrainer, "forward_backward", lambda self, batch: forward_backward(self, batch) and None)
    trainer = run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    assert re.search(r"data [\d.]+ \([\d.]+\)  lr 1.0000e-05", log(trainer))


@pytest.mark.parametrize("frequency", [0, 2, 10])
def test_numbers_may_stay_on_the_device_between_two_lines(frequency, toy_root, tmp_path, monkeypatch):
    """Tensors give the lines and curves that numbers give, and are fetched once per line."""
    forward_backward, stack = ToyTrainer.forward_backward, torch.stack
    written, fetched = [], []

    def as_tensors(self, batch):
        return {name: torch.tensor(value) for name, value in forward_backward(self, batch).items()}

    monkeypatch.setattr(ToyTrainer, "write_scalar", lambda self, *scalar: written.append(scalar))
    options = ("OPTIM.MAX_EPOCH", 1, "TRAIN.PRINT_FREQ", frequency, "TEST.NO_TEST", True)
    run(toy_root, tmp_path / "numbers", *options)
    expected, written[:] = list(written), []
    monkeypatch.setattr(ToyTrainer, "forward_backward", as_tensors)

    def counting(tensors, *args, **kwargs):
        if tensors[0].shape == ():
            fetched.append(len(tensors))
        return stack(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "stack", counting)
    run(toy_root, tmp_path / "tensors", *options)
    assert written == [(tag, pytest.approx(value, rel=1e-6), step) for tag, value, step in expected]
    assert fetched == {0: [10], 2: [4, 4, 2], 10: [2] * 5}[frequency]  # five batches of two numbers


class Announced:
    """A loader that yields fewer batches than its length says: with some samplers, epochs differ."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 100

    def __iter__(self):
        return iter(self.loader)


def test_numbers_of_a_shorter_epoch_are_written(toy_root, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(ToyTrainer, "write_scalar", lambda self, *scalar: written.append(scalar))
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = start(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1, "TRAIN.PRINT_FREQ", 3, "TEST.NO_TEST", True)
        trainer.train_loader_x = Announced(trainer.train_loader_x)
        trainer.train()
    assert [step for tag, _, step in written if tag == "train/loss"] == [0, 1, 2, 3, 4]


def test_numbers_that_wait_hold_no_graph(toy_root, tmp_path, monkeypatch):
    """Activations of all batches since the last line would not be freed."""
    forward_backward, alive = ToyTrainer.forward_backward, []

    def with_graph(self, batch):
        weight = torch.ones(1, requires_grad=True)
        alive.append(weakref.ref(weight))
        return forward_backward(self, batch) | {"penalty": (2 * weight).sum()}

    def count(self, *args):
        counts.append(sum(reference() is not None for reference in alive))

    counts = []
    monkeypatch.setattr(ToyTrainer, "forward_backward", with_graph)
    monkeypatch.setattr(ToyTrainer, "write_scalar", count)
    run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1, "TRAIN.PRINT_FREQ", 0, "TEST.NO_TEST", True)
    assert len(alive) == 5 and counts[0] == 0


@pytest.mark.parametrize(
    "options, batches",
    [
        (("DATALOADER.NUM_WORKERS", 2), 5),
        (("DATALOADER.TRAIN_X.BATCH_SIZE", 64), 1),
    ],
)
def test_trains_with_workers_and_with_oversized_batches(options, batches, toy_root, tmp_path):
    trainer = run(toy_root, tmp_path / "run", *options, "OPTIM.MAX_EPOCH", 1)
    assert len(trainer.seen) == batches


# ---------------------------------------------------------------------------------------------- tensorboard


def test_curves(run_a):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{run_a.output_dir}/tensorboard")
    events.Reload()
    for tag in ("train/loss", "train/lr", "test/accuracy", "test/error_rate", "test/macro_f1"):
        golden = GOLDEN["tensorboard_run_A"][tag]
        points = [(event.step, event.value) for event in events.Scalars(tag)][: len(golden)]
        tolerance = LOSS_TOLERANCE if tag == "train/loss" else 1e-5
        assert [step for step, _ in points] == [step for step, _ in golden]
        assert [value for _, value in points] == pytest.approx([value for _, value in golden], abs=tolerance)


def test_the_writer_is_closed_after_training(toy_root, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(ToyTrainer, "close_writer", lambda self: closed.append(self.epoch))
    run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    assert closed == [0]


def test_training_without_tensorboard_says_so_once(toy_root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer = run(toy_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    assert log(trainer).count(NOTICE) == 1
    assert list((tmp_path / "run" / "tensorboard").iterdir()) == []


# ---------------------------------------------------------------------------------------------- the parts of a trainer


def base_trainer(**models):
    trainer = TrainerBase()
    for name, model in models.items():
        optim = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer.register_model(name, model, optim, torch.optim.lr_scheduler.StepLR(optim, 1))
    return trainer


def test_registering_before_the_base_is_initialised():
    class Forgetful(TrainerBase):
        def __init__(self):
            self.register_model("model", nn.Linear(1, 1))

    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\)"):
        Forgetful()


def test_registering_a_name_twice():
    with pytest.raises(AssertionError, match="'a' is registered already"):
        base_trainer(a=nn.Linear(1, 1)).register_model("a", nn.Linear(1, 1))


def test_model_names():
    trainer = base_trainer(b=nn.Linear(1, 1), a=nn.Linear(1, 1))
    assert trainer.get_model_names() == ["b", "a"]
    assert trainer.get_model_names("a") == ["a"]
    with pytest.raises(AssertionError, match=r"no model is called 'c'; there are: \['b', 'a'\]"):
        trainer.get_model_names(["c"])


def test_models_put_into_the_mappings_by_hand_are_models():
    """Some trainers of the family fill the three dictionaries themselves."""
    trainer, model = TrainerBase(), nn.Linear(1, 1)
    trainer._models["m"], trainer._scheds["m"] = model, None
    trainer._optims["m"] = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer.model_backward_and_update(model(torch.ones(1, 1)).sum())
    trainer.update_lr()
    assert trainer.get_model_names() == ["m"]


@pytest.mark.parametrize("mode, training", [("train", True), ("eval", False), ("test", False)])
def test_mode_of_the_named_models(mode, training):
    trainer = base_trainer(a=nn.Linear(1, 1), b=nn.Linear(1, 1))
    for model in trainer._models.values():
        model.train(not training)
    trainer.set_model_mode(mode, "a")
    assert [model.training for model in trainer._models.values()] == [training, not training]


def test_unknown_mode():
    with pytest.raises(KeyError, match="got 'evaluate'"):
        base_trainer(a=nn.Linear(1, 1)).set_model_mode("evaluate")


def test_backward_and_update_takes_one_step():
    model = nn.Linear(1, 1, bias=False)
    trainer = base_trainer(a=model)
    model.weight.grad = torch.full((1, 1), 100.0)  # of an earlier step: to be cleared
    before = model.weight.item()
    trainer.model_backward_and_update(2 * model(torch.ones(1, 1)).sum())
    assert model.weight.item() == pytest.approx(before - 0.1 * 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update(value):
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    with pytest.raises(FloatingPointError, match=f"the loss is {value}"):
        base_trainer(a=model).model_backward_and_update(value * model(torch.ones(1, 1)).sum().abs())
    assert torch.equal(model.weight, before)


def test_update_lr_steps_every_schedule_once():
    trainer = base_trainer(a=nn.Linear(1, 1), b=nn.Linear(1, 1))
    trainer.model_update()
    trainer.update_lr()
    assert [optim.param_groups[0]["lr"] for optim in trainer._optims.values()] == pytest.approx([0.01, 0.01])


def test_resume_may_move_the_start():
    class Moving(TrainerBase):
        epochs: list

        def before_train(self):
            self.start_epoch, self.epochs = 2, []

        def run_epoch(self):
            self.epochs.append(self.epoch)

    trainer = Moving()
    trainer.train(0, 4)
    assert (trainer.epochs, trainer.epoch) == ([2, 3], 3)


class Zeroshot(ToyTrainer):
    """Registers no model."""

    def build_model(self):
        self.model = lambda images: torch.eye(5)[torch.zeros(len(images), dtype=torch.long)]


def zeroshot(toy_root, tmp_path):
    TRAINER_REGISTRY.register(Zeroshot, force=True)
    return start(toy_root, tmp_path / "run", trainer="Zeroshot")


def test_a_trainer_without_models_loads_and_tests(toy_root, tmp_path):
    trainer = zeroshot(toy_root, tmp_path)
    trainer.load_model("anything")
    assert trainer.test() == pytest.approx(20.0)
    assert trainer.resume_model_if_exist(str(tmp_path)) == 0


def test_a_trainer_without_models_does_not_train(toy_root, tmp_path):
    with pytest.raises(RuntimeError, match="Zeroshot has nothing to train"):
        zeroshot(toy_root, tmp_path).train()


def test_unknown_trainer(toy_root, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ToyCoOpStyle'"):
        start(toy_root, tmp_path / "run", trainer="toycoopstyle")


# ---------------------------------------------------------------------------------------------- two sources


class ToyXU(TrainerXU):
    build_model = ToyTrainer.build_model

    def check_cfg(self, cfg):
        self.events, self.sizes, self.order = [], [], []

    def forward_backward(self, batch_x, batch_u):
        images, labels, unlabelled = self.parse_batch_train(batch_x, batch_u)
        self.sizes.append((len(images), len(labels), len(unlabelled)))
        self.order += [batch_x["index"].tolist(), batch_u["index"].tolist()]
        self.model_backward_and_update(self.model(images).square().mean() + self.model(unlabelled).square().mean())


@pytest.fixture
def unlabelled():
    def build(cfg):
        dataset = Toy(cfg)
        dataset._train_u = toy_items(Path(cfg.DATASET.ROOT), 0, 2)
        return dataset

    build.__name__ = "WithUnlabelled"
    DATASET_REGISTRY.register(build, force=True)
    TRAINER_REGISTRY.register(ToyXU, force=True)
    return ("DATASET.NAME", "WithUnlabelled", "OPTIM.MAX_EPOCH", 1)


@pytest.mark.parametrize("count, batches", [("train_x", 5), ("train_u", 2), ("smaller_one", 2)])
def test_an_epoch_of_two_sources(count, batches, unlabelled, toy_root, tmp_path):
    trainer = run(toy_root, tmp_path / "run", *unlabelled, "TRAIN.COUNT_ITER", count, trainer="ToyXU")
    assert trainer.sizes == [(4, 4, 4)] * batches


def test_both_loaders_start_before_the_first_batch_is_drawn(unlabelled, toy_root, tmp_path):
    """The order of the draws from the global generator decides which batches come."""
    trainer = run(toy_root, tmp_path / "run", *unlabelled, "TRAIN.COUNT_ITER", "train_u", trainer="ToyXU")
    torch.manual_seed(1)  # the toy model draws nothing
    x, u = iter(trainer.train_loader_x), iter(trainer.train_loader_u)
    assert trainer.order[:2] == [next(x)["index"].tolist(), next(u)["index"].tolist()]


def test_an_epoch_must_be_defined(unlabelled, toy_root, tmp_path):
    with pytest.raises(ValueError, match="COUNT_ITER: expected one of train_x, train_u, smaller_one, got 'larger'"):
        run(toy_root, tmp_path / "run", *unlabelled, "TRAIN.COUNT_ITER", "larger", trainer="ToyXU")


# ---------------------------------------------------------------------------------------------- networks from parts


class Pool(Backbone):
    _out_features = 48

    def __init__(self, pretrained):
        super().__init__()

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


class Half(nn.Module):
    def __init__(self, in_features, hidden_layers, **options):
        super().__init__()
        self.out_features = hidden_layers[-1]

    def forward(self, x):
        return x[:, : self.out_features]


@pytest.fixture
def parts(toy_root, tmp_path):
    BACKBONE_REGISTRY.register(Pool, force=True)
    HEAD_REGISTRY.register(Half, force=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return start(toy_root, tmp_path / "run", "MODEL.BACKBONE.NAME", "Pool", trainer="ToyTrainer").cfg.clone()


def test_default_model_is_a_backbone_with_a_classifier(parts, capsys):
    class Default(TrainerX):
        pass

    trainer = Default(parts)
    assert "Building model\nBackbone: Pool\n# params: 245\n" in capsys.readouterr().out
    assert trainer.get_model_names() == ["model"]


def test_simple_net_with_head(parts):
    parts.defrost()
    parts.MODEL.HEAD.NAME, parts.MODEL.HEAD.HIDDEN_LAYERS = "Half", (8,)
    net = SimpleNet(parts, parts.MODEL, 5)
    logits, features = net(torch.ones(2, 3, 32, 32), return_feature=True)
    assert (net.fdim, logits.shape, features.shape) == (8, (2, 5), (2, 8))


def test_simple_net_without_classes_gives_features(parts):
    assert SimpleNet(parts, parts.MODEL, 0)(torch.ones(2, 3, 32, 32)).shape == (2, 48)


def test_backbone_without_width():
    assert Backbone().out_features is None


def test_unknown_network():
    with pytest.raises(ValueError, match="'resnet' is not available"):
        build_network("resnet")
