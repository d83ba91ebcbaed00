"""The command line: flags, merge order, logs, errors and what happens to finished and interrupted runs."""

import json
import logging
import os
import subprocess
import sys
import types

import pytest

import train
import trainers
from anprompt.commands import train as command
from anprompt.utils.config import as_plain
from anprompt.utils.drop_in import import_all
from anprompt.utils.suggest import suggest
from tests.helpers import REPOSITORY
from tests.helpers.runs import left_by_killed_process


class Probe:
    """Stands in for the trainer and notes what it is asked."""

    def __init__(self):
        self.cfg, self.calls = None, []

    def build(self, cfg):
        self.cfg = cfg
        self.calls.append("build")
        return self

    def load_model(self, directory, epoch=None):
        self.calls.append(("load_model", directory, epoch))

    def train(self):
        self.calls.append("train")
        print("* accuracy: 50.0%")

    def test(self):
        self.calls.append("test")


@pytest.fixture
def probe(monkeypatch, tmp_path):
    probe = Probe()
    monkeypatch.setattr(command, "build_trainer", probe.build)
    monkeypatch.setattr(command, "collect_env_info", lambda: "a machine")
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # setup_logger replaces it
    monkeypatch.chdir(tmp_path)
    yield probe
    for name in command.MESSAGES_OF:  # show_messages() gave them a handler for a stream that is about to close
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def run(probe, tmp_path, capsys):
    """Call the command line with a dataset, a trainer and an output folder; the status and what stderr got."""

    def call(*arguments, dataset="Caltech101", trainer="ANPrompt", output="out"):
        (tmp_path / "dataset.yaml").write_text(f"DATASET:\n  NAME: {dataset}\n")
        named = ["--dataset-config-file", str(tmp_path / "dataset.yaml"), "--trainer", trainer, "--output-dir", output]
        status = train.main([*named, *arguments])
        return status, capsys.readouterr().err

    return call


# ---------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("", 32),
        ("dataset", 1),
        ("dataset trainer", 2),
        ("dataset trainer overrides", 3),
    ],
)
def test_later_sources_win(run, probe, tmp_path, sources, expected):
    files = {}
    for name, size in (("dataset", 1), ("trainer", 2)):
        files[name] = tmp_path / f"{name}_file.yaml"
        files[name].write_text(f"DATASET:\n  NAME: Caltech101\nDATALOADER:\n  TEST:\n    BATCH_SIZE: {size}\n")
    arguments = []
    if "dataset" in sources:
        arguments += ["--dataset-config-file", str(files["dataset"])]
    if "trainer" in sources:
        arguments += ["--config-file", str(files["trainer"])]
    if "overrides" in sources:
        arguments += ["DATALOADER.TEST.BATCH_SIZE", "3"]
    assert run(*arguments)[0] == 0
    assert expected == probe.cfg.DATALOADER.TEST.BATCH_SIZE


def test_flags_win_over_files_and_overrides_over_flags(run, probe, tmp_path):
    (tmp_path / "trainer.yaml").write_text("SEED: 5\nMODEL:\n  BACKBONE:\n    NAME: RN50\n")
    flags = ("--config-file", str(tmp_path / "trainer.yaml"), "--seed", "6", "--backbone", "ViT-B/32")
    run(*flags, "MODEL.BACKBONE.NAME", "ViT-B/16")
    assert (probe.cfg.SEED, probe.cfg.MODEL.BACKBONE.NAME) == (6, "ViT-B/16")


@pytest.mark.parametrize(
    ("flag", "values", "key", "expected"),
    [
        ("--root", ["data"], "DATASET.ROOT", "data"),
        ("--resume", ["old"], "RESUME", "old"),
        ("--seed", ["3"], "SEED", 3),
        ("--source-domains", ["a", "b"], "DATASET.SOURCE_DOMAINS", ["a", "b"]),
        ("--target-domains", ["c"], "DATASET.TARGET_DOMAINS", ["c"]),
        ("--transforms", ["random_flip", "normalize"], "INPUT.TRANSFORMS", ["random_flip", "normalize"]),
        ("--backbone", ["tiny"], "MODEL.BACKBONE.NAME", "tiny"),
        ("--head", ["mlp"], "MODEL.HEAD.NAME", "mlp"),
    ],
)
def test_flag_sets_its_key(run, probe, flag, values, key, expected):
    assert run(flag, *values)[0] == 0
    value = probe.cfg
    for part in key.split("."):
        value = value[part]
    assert value == expected


def test_keys_beyond_dassl_have_their_defaults(run, probe):
    run()
    assert (probe.cfg.DATASET.SUBSAMPLE_CLASSES, probe.cfg.MODEL.BACKBONE.PATH) == ("all", "")
    assert "N_TOKENS" in probe.cfg.TRAINER.ANPROMPT
    assert probe.cfg.is_frozen()


@pytest.mark.parametrize(("arguments", "seeded"), [(["--seed", "0"], [0]), (["--seed", "-1"], []), ([], [])])
def test_seed_zero_is_a_seed(run, monkeypatch, arguments, seeded):
    seeds = []
    monkeypatch.setattr(command, "set_random_seed", seeds.append)
    run(*arguments)
    assert seeds == seeded


# ---------------------------------------------------------------------------------------------- life of a run


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ([], ["build", "train"]),
        (["--no-train"], ["build"]),
        (["--eval-only", "--model-dir", "m", "--load-epoch", "5"], ["build", ("load_model", "m", 5), "test"]),
        (["--eval-only", "--model-dir", "m"], ["build", ("load_model", "m", None), "test"]),
    ],
)
def test_what_is_asked_of_the_trainer(run, probe, arguments, calls):
    assert run(*arguments)[0] == 0
    assert probe.calls == calls


def test_log_begins_with_arguments_config_and_environment(run, tmp_path):
    run("--seed", "1")
    log = (tmp_path / "out" / "log.txt").read_text()
    blocks = ["** Arguments **\n", "\nseed: 1\n", "** Config **\n", "  NAME: Caltech101\n", "Collecting env info ...\n"]
    blocks += ["** System info **\na machine\n", "* accuracy: 50.0%\n"]
    positions = [log.index(block) for block in blocks]
    assert positions == sorted(positions)
    assert "Setting fixed seed" not in log  # the family prints it before the log begins


def test_log_of_an_interrupted_run_steps_aside(run, tmp_path):
    (tmp_path / "out").mkdir()
    log = tmp_path / "out" / "log.txt"
    log.write_text("interrupted")
    os.utime(log, (0, 0))
    run()
    (aside,) = (tmp_path / "out").glob("log.txt-19*")  # 1 January 1970, or the evening before
    assert aside.read_text() == "interrupted"
    assert "accuracy: 50.0%" in log.read_text()


def test_log_of_a_finished_run_stays(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.txt").write_text("finished")
    (tmp_path / "out" / "results.json").write_text("{}")
    run()
    assert (tmp_path / "out" / "log.txt").read_text() == "finished"


def test_log_of_a_repeated_evaluation_holds_the_newest_result(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.txt").write_text("evaluated before")
    (tmp_path / "out" / "results.json").write_text("{}")
    run("--eval-only", "--model-dir", "m")
    assert "** Config **" in (tmp_path / "out" / "log.txt").read_text()


@pytest.fixture
def failing(probe, monkeypatch):
    """The model to test cannot be loaded."""

    def load_model(directory, epoch=None):
        raise FileNotFoundError(f"no checkpoint at {directory}")

    monkeypatch.setattr(probe, "load_model", load_model)


EVALUATE = ("--eval-only", "--model-dir", "m")


def test_a_test_that_fails_leaves_nothing_in_a_fresh_folder(run, failing, tmp_path):
    assert run(*EVALUATE) == (2, "error: no checkpoint at m (ANPROMPT_TRACEBACK=1 shows where)\n")
    assert os.listdir(tmp_path / "out") == []


def test_a_test_that_is_interrupted_does_neither(run, probe, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "test", interrupt)
    assert run(*EVALUATE)[0] == 130
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("log", ["evaluated before", "trained\nFinish training\n"])
def test_a_test_that_fails_leaves_the_log_of_an_earlier_result(run, failing, tmp_path, log):
    earlier = {"log.txt": log, "results.json": "{}", "config.json": "{}"}
    (tmp_path / "out").mkdir()
    for name, content in earlier.items():
        (tmp_path / "out" / name).write_text(content)
    assert run(*EVALUATE)[0] == 2
    assert sorted(os.listdir(tmp_path / "out")) == sorted(earlier)
    assert (tmp_path / "out" / "log.txt").read_text() == log


def test_a_test_whose_result_is_written_keeps_its_log(run, probe, tmp_path, monkeypatch):
    def test():
        (tmp_path / "out" / "results.json").write_text("{}")
        raise OSError("no room for a plot")

    monkeypatch.setattr(probe, "test", test)
    assert run(*EVALUATE)[0] == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "log.txt", "results.json"]


def test_messages_of_the_library_reach_the_log(run, probe, monkeypatch, tmp_path):
    monkeypatch.setattr(
        probe, "train", lambda: logging.getLogger("anprompt.data.split_dataset").info("few-shot subset from there")
    )
    run()
    assert "few-shot subset from there\n" in (tmp_path / "out" / "log.txt").read_text()


# ---------------------------------------------------------------------------------------------- finished runs


def finish(probe, folder, **changes):
    """Write what the trainer leaves after its last evaluation."""
    record = {"dataset": "Caltech101", "classes": "base", "seed": 1, "trainer": "ANPrompt", "split": "test"}
    record |= {"accuracy": 71.428571, "total": 700, "correct": 500, "config": as_plain(probe.cfg) | changes}
    (folder / "results.json").write_text(json.dumps(record))


def test_finished_run_is_not_repeated_elsewhere_either(run, probe, tmp_path):
    run("--seed", "1")
    finish(probe, tmp_path / "out")
    probe.calls.clear()
    circumstances = ("--root", "elsewhere", "DATALOADER.NUM_WORKERS", "3", "TRAIN.PRINT_FREQ", "1", "USE_CUDA", "False")
    circumstances += ("MODEL.BACKBONE.PATH", "moved.pt", "DATALOADER.KEEP_TRAIN_GB", "0")
    circumstances += ("DATALOADER.CACHE_TEST", "False")
    assert run("--seed", "1", "--skip-finished", *circumstances)[0] == 0
    assert probe.calls == []


def test_result_line_of_a_finished_run(run, probe, tmp_path, monkeypatch):
    run()
    finish(probe, tmp_path / "out")
    lines = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(words)))
    run("--skip-finished")
    assert lines == ["already finished: ANPrompt on Caltech101 (base classes, seed 1, test): 71.43 % (500 of 700)"]


def test_finished_run_with_another_config_is_refused(run, probe, tmp_path):
    run("OPTIM.LR", "0.1")
    finish(probe, tmp_path / "out")
    status, error = run("--skip-finished", "OPTIM.LR", "0.2", "INPUT.SIZE", "(8, 8)")
    assert status == 2
    assert "out holds a finished run with another config: INPUT.SIZE [224, 224] -> [8, 8]; OPTIM.LR 0.1 -> 0.2" in error


def test_other_trainers_nodes_do_not_matter(run, probe, tmp_path):
    run()
    finish(probe, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    results["config"]["TRAINER"]["ELSEWHERE"] = {"KEY": 1}
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    assert run("--skip-finished")[0] == 0


def test_keys_of_another_version_do_not_matter(run, probe, tmp_path):
    run()
    finish(probe, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    results["config"]["TASK"] = "B2N"
    del results["config"]["TEST"]["NO_TEST"]
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    assert run("--skip-finished")[0] == 0


def test_unfinished_run_is_not_continued_with_another_config(run, probe, tmp_path):
    run("OPTIM.LR", "0.1")
    assert run("--skip-finished", "OPTIM.LR", "0.2")[0] == 0  # nothing was saved that could be continued
    (tmp_path / "out" / "prompt_learner").mkdir()
    (tmp_path / "out" / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1\n")
    status, error = run("--skip-finished", "OPTIM.LR", "0.3")
    assert status == 2
    assert "an unfinished run with another config: OPTIM.LR 0.2 -> 0.3" in error
    assert run("--skip-finished", "OPTIM.LR", "0.2")[0] == 0


def test_a_run_is_continued_with_its_config_only(run, probe, tmp_path):
    """Without --skip-finished, too: the result would bear the name of a config that did not make it."""
    run("OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "3")
    (tmp_path / "out" / "prompt_learner").mkdir()
    (tmp_path / "out" / "prompt_learner" / "checkpoint").write_text("model.pth.tar-3\n")
    for change in (("OPTIM.LR", "0.2", "OPTIM.MAX_EPOCH", "3"), ("OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "2")):
        status, error = run(*change)
        assert status == 2 and "holds a run with another config" in error
    assert run("OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "5")[0] == 0


@pytest.mark.parametrize("content", ["[]", "5", "null", '{"config": 5}'])
def test_a_record_of_another_shape_is_named(run, tmp_path, content):
    run()
    (tmp_path / "out" / "results.json").write_text(content)
    status, error = run("--skip-finished")
    assert status == 2 and "results.json (it is not the result of a run): remove it" in error


def test_an_interrupt_says_how_to_continue(run, monkeypatch):
    def interrupt(cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "build_trainer", interrupt)
    status, error = run()
    assert status == 130 and "the same command continues" in error


def test_result_of_an_older_model_is_not_reused(run, probe, tmp_path):
    evaluate = ("--skip-finished", "--eval-only", "--model-dir", "trained")
    run(*evaluate)
    finish(probe, tmp_path / "out")
    model = tmp_path / "trained" / "prompt_learner" / "model.pth.tar-2"
    model.parent.mkdir(parents=True)
    model.write_text("")
    os.utime(model, (1, 1))
    probe.calls.clear()
    run(*evaluate)
    assert probe.calls == []
    written = (tmp_path / "out" / "results.json").stat().st_mtime
    os.utime(model, (written + 1, written + 1))
    run(*evaluate)
    assert probe.calls[-1] == "test"


def test_a_test_does_not_write_over_results_of_another_config(run, probe, tmp_path):
    """Such as those of the training whose model it tests."""
    run()
    finish(probe, tmp_path / "out")
    before = (tmp_path / "out" / "results.json").read_bytes()
    probe.calls.clear()
    status, error = run("--eval-only", "--model-dir", str(tmp_path / "out"), "DATASET.SUBSAMPLE_CLASSES", "new")
    assert (
        status == 2 and "holds the results of a run with another config: DATASET.SUBSAMPLE_CLASSES all -> new" in error
    )
    assert (tmp_path / "out" / "results.json").read_bytes() == before and probe.calls == []
    assert run("--eval-only", "--model-dir", str(tmp_path / "out"))[0] == 0


# ---------------------------------------------------------------------------------------------- whole numbers


def test_a_whole_number_is_taken_for_a_float(run, probe, tmp_path):
    """The family's files say ``GPA_MEAN: 15``, and yacs would refuse it."""
    (tmp_path / "whole.yaml").write_text("OPTIM:\n  LR: 1\nTRAINER:\n  PROMPTSRC:\n    GPA_MEAN: 15\n")
    assert run("--config-file", str(tmp_path / "whole.yaml"), "OPTIM.WEIGHT_DECAY", "-2")[0] == 0
    values = (probe.cfg.OPTIM.LR, probe.cfg.TRAINER.PROMPTSRC.GPA_MEAN, probe.cfg.OPTIM.WEIGHT_DECAY)
    assert values == (1.0, 15.0, -2.0) and all(isinstance(value, float) for value in values)


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {"trainer": "anpromt"}, "unknown trainer 'anpromt': did you mean ANPrompt"),
        ([], {"dataset": "Caltech"}, "unknown dataset 'Caltech': did you mean Caltech101?"),
        ([], {"trainer": ""}, "no trainer was named: use --trainer; known: "),
        (["OPTIM.LEARNING_RATE", "1"], {}, "unknown config key OPTIM.LEARNING_RATE: did you mean OPTIM."),
        (
            ["TRAINER.ANPROMPT.NTOKENS", "4"],
            {},
            "unknown config key TRAINER.ANPROMPT.NTOKENS: did you mean TRAINER.ANPROMPT.N_T",
        ),
        (["TRAINER.ANPROMT.N_TOKENS", "4"], {}, "no trainer declares the config node TRAINER.ANPROMT: did you mean A"),
        (["OPTIM.LR", "fast"], {}, "OPTIM.LR takes a float, such as 0.0003, got 'fast'"),
        (["OPTIM.LR", "True"], {}, "OPTIM.LR takes a float, such as 0.0003, got 'True'"),
        (["OPTIM.MAX_EPOCH", "1.0"], {}, "OPTIM.MAX_EPOCH takes a int, such as 10, got '1.0'"),
        (["SEED.X", "1"], {}, "unknown config key SEED.X"),
        (["OPTIM.LR"], {}, "config overrides are pairs of KEY VALUE, got 1 words: OPTIM.LR"),
        (["OPTIM.LR", "0.1", "--seed", "1"], {}, "--seed comes after the first config override"),
    ],
)
def test_mistake_gets_one_line_and_status_2(run, probe, arguments, options, message):
    status, error = run(*arguments, **options)
    assert status == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert probe.calls == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config file {path}/vitb16.yaml; in {path}: did you mean vit_b16?"),
        ("OPTIM:\n  LEARNING: 1\n", "{path}/vitb16.yaml: unknown config key OPTIM.LEARNING: did you mean OPTIM."),
        (
            "TRAINER:\n  COPROMPT:\n    X: 1\n",
            "{path}/vitb16.yaml: no trainer declares the config node TRAINER.COPROMPT",
        ),
        ("OPTIM:\n  LR: true\n", "{path}/vitb16.yaml: Type mismatch"),
        ("OPTIM: [\n", "{path}/vitb16.yaml: line 2: expected the node content"),
        ("just words", "{path}/vitb16.yaml: "),
        ("- OPTIM\n", "{path}/vitb16.yaml: expected YAML keys such as OPTIM: with values"),
    ],
)
def test_config_file_mistakes(run, tmp_path, content, message):
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "vit_b16.yaml").write_text("SEED: 1\n")
    if content is not None:
        (folder / "vitb16.yaml").write_text(content)
    status, error = run("--config-file", str(folder / "vitb16.yaml"))
    assert status == 2
    assert error.startswith("error: " + message.format(path=folder))
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--config-file", "--dataset-config-file"])
def test_a_config_file_in_python_is_not_run(run, probe, tmp_path, flag):
    (tmp_path / "x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w'); cfg = {{}}\n")
    status, error = run(flag, str(tmp_path / "x.py"))
    assert status == 2 and error.startswith(f"error: the config file {tmp_path / 'x.py'} has another ending")
    assert probe.calls == [] and not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_missing_folder_of_configs_is_answered_with_those_beside_it(run, tmp_path):
    (tmp_path / "CoOp").mkdir()
    status, error = run("--config-file", str(tmp_path / "CoOpp" / "tiny.yaml"))
    assert status == 2 and f"folders in {tmp_path}: did you mean CoOp?" in error


def test_traceback_on_request(run, monkeypatch):
    monkeypatch.setenv("ANPROMPT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown trainer"):
        run(trainer="nobody")


def test_error_of_the_trainer_gets_one_line(run, monkeypatch):
    def explode(cfg):
        raise FloatingPointError("loss term 'wa' is not finite")

    monkeypatch.setattr(command, "build_trainer", explode)
    assert run() == (2, "error: loss term 'wa' is not finite (ANPROMPT_TRACEBACK=1 shows where)\n")


def test_an_error_is_the_last_line_of_the_log(run, monkeypatch, tmp_path):
    def explode(cfg):
        raise FloatingPointError("loss term 'wa' is not finite")

    monkeypatch.setattr(command, "build_trainer", explode)
    run()
    assert (tmp_path / "out" / "log.txt").read_text().splitlines()[-1] == "error: loss term 'wa' is not finite"


# ---------------------------------------------------------------------------------------------- several runs


def test_runs_of_one_process_have_logs_of_their_own(run, probe, tmp_path):
    console = sys.stdout
    second = ["--dataset-config-file", str(tmp_path / "dataset.yaml"), "--trainer", "ANPrompt", "--output-dir", "two"]
    status, _ = run("--seed", "1", "--then", *second, "--seed", "2", "--eval-only", "--model-dir", "out")
    assert status == 0
    assert probe.calls == ["build", "train", "build", ("load_model", "out", None), "test"]
    first, second = ((tmp_path / name / "log.txt").read_text() for name in ("out", "two"))
    assert "Setting fixed seed: 1\n" not in second and "* accuracy: 50.0%" in first
    assert "seed: 1\n" in first and "seed: 2\n" in second and "seed: 2\n" not in first
    assert sys.stdout is console


def test_a_run_after_one_that_failed_does_not_start(run, probe, tmp_path, monkeypatch):
    def explode(cfg):
        raise ValueError("it broke")

    monkeypatch.setattr(command, "build_trainer", explode)
    status, error = run("--then", "--output-dir", "two")
    assert status == 2 and error.count("error: ") == 1
    assert not (tmp_path / "two").exists()


def test_flags_of_all_runs_are_checked_before_the_first(run, probe):
    with pytest.raises(SystemExit):
        run("--then", "--sed", "1")
    assert probe.calls == []


# ---------------------------------------------------------------------------------------------- drop-in folders


def test_a_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    package = tmp_path / "dropins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text("VALUE = 1\n")
    (package / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"dropins/broken\.py cannot be imported \(ModuleNotFoundError: .*nothing_of"):
        import_all("dropins", [str(package)])
    (package / "broken.py").unlink()
    assert [module.VALUE for module in import_all("dropins", [str(package)])] == [1]


def test_trainers_without_a_config_node_are_skipped(monkeypatch):
    seen = []
    modules = [types.SimpleNamespace(), types.SimpleNamespace(extend_cfg=seen.append)]
    monkeypatch.setattr(trainers, "register_all", lambda: modules)
    trainers.extend_cfg("cfg")
    assert seen == ["cfg"]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["ANPrompt", "CoOp"], "did you mean ANPrompt?"),
        (["CoOp", "MaPLe"], "known: CoOp, MaPLe"),
        ([], "there is none to choose from"),
        ([f"X{i:02d}" for i in range(25)], "known: " + ", ".join(f"X{i:02d}" for i in range(20)) + " and 5 more"),
    ],
)
def test_suggestion(known, expected):
    assert suggest("anpromt", known) == expected


def test_what_a_run_may_not_need_is_not_imported():
    """scikit-learn alone takes a second: it is for noise prompts."""
    code = """
import sys, datasets, train, trainers
datasets.register_all()
trainers.register_all()
print(*sorted({"sklearn", "scipy", "matplotlib", "pandas", "tabulate", "open_clip", "av"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---------------------------------------------------------------------------------------------- leftovers


@pytest.mark.parametrize("arguments", [[], ["--eval-only", "--model-dir", "x"], ["--no-train"]])
def test_what_a_killed_run_left_is_removed_at_the_next_start(run, tmp_path, arguments):
    for name in ("config.json", "results.json"):
        left_by_killed_process(tmp_path / "out" / name)
    (tmp_path / "out" / ".config.json.of-the-user").write_text("")
    assert len(os.listdir(tmp_path / "out")) == 3
    run(*arguments)
    assert [name for name in os.listdir(tmp_path / "out") if name.startswith(".")] == [".config.json.of-the-user"]


def test_also_where_the_run_has_finished(run, probe, tmp_path):
    run()
    content = {"trainer": "ANPrompt", "dataset": "Caltech101", "classes": "all", "seed": 1, "split": "test"}
    numbers = {"accuracy": 50.0, "correct": 1, "total": 2, "config": as_plain(probe.cfg)}
    (tmp_path / "out" / "results.json").write_text(json.dumps(content | numbers))
    left = left_by_killed_process(tmp_path / "out" / "results.json")
    probe.calls.clear()
    run("--skip-finished")
    assert probe.calls == [] and not left.exists()
