"""YAML files and settings of a protocol: which file answers, and what is wrong with one."""

import pytest
import yaml

from anprompt.protocols.trainer_files import PROTOCOLS, settings_for, stem_for
from tests.helpers import REPOSITORY


@pytest.fixture
def trainer(tmp_path):
    """``trainer(name=content)``: a trainer's folder with these files in protocols/."""

    def write(*stems, **files):
        (tmp_path / "protocols").mkdir(exist_ok=True)
        for stem in stems:
            (tmp_path / f"{stem}.yaml").write_text("")
        for name, content in files.items():
            (tmp_path / "protocols" / f"{name}.yaml").write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("protocol", "dataset", "shots", "expected"),
    [
        ("base2new", "dtd", "16", "usual"),
        ("base2new", "imagenet", "16", "usual"),
        ("few_shot", "dtd", "1", "one"),
        ("few_shot", "dtd", "16", "more"),
        ("few_shot", "imagenet", "1", "large"),
        ("cross_dataset", "imagenet", "16", "transfer"),
    ],
)
def test_the_line_closest_to_the_run_names_its_file(trainer, protocol, dataset, shots, expected):
    lines = "default: usual\nfew_shot: {'1': one, other: more}\nfew_shot_imagenet: large\ncross_dataset: transfer\n"
    assert stem_for(trainer("usual", "one", files=lines), protocol, dataset, shots) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("few_shots: a", "unknown protocol 'few_shots'; known: default, base2new, few_shot"),
        (
            "few_shot: {'1': a}",
            "expected the stem of a YAML file for few_shot with 4 shots, got None: add a line few_shot:",
        ),
        ("default: 3", "expected the stem of a YAML file for few_shot with 4 shots, got 3"),
        ("cross_dataset: a", "or default: STEM for all protocols"),
        ("- a", "expected YAML keys with values, got"),
        ("a: [", "files.yaml: line 1: expected the node content"),
    ],
)
def test_a_table_that_does_not_answer_is_named(trainer, content, message):
    with pytest.raises(ValueError) as raised:
        stem_for(trainer(files=content), "few_shot", "dtd", "4")
    assert "files.yaml: " in str(raised.value) and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_are_words_that_train_py_reads_back(trainer):
    content = "B: {C: [1, 2.5]}\nA: 0.2\nN: null\nT: a photo of a {}\nF: false\nS: 1e-5\n"
    assert settings_for(trainer(few_shot=content), "few_shot", "dtd") == [
        *("B.C", "[1, 2.5]"), *("A", "0.2"), *("N", "None"), *("T", "a photo of a {}"), *("F", "False"), *("S", "1e-5"),
    ]  # fmt: skip


def test_a_dataset_has_its_own_settings_in_place_of_the_others(trainer):
    folder = trainer(base2new="A: 1\nB: 2\n", base2new_ssv2_video="A: 3\n")
    assert settings_for(folder, "base2new", "ssv2_video") == ["A", "3"]
    assert settings_for(folder, "base2new", "ucf101_video") == ["A", "1", "B", "2"]


def test_imagenet_has_its_own_settings_in_place_of_the_others(trainer):
    folder = trainer(few_shot="A: 1\nB: 2\n", few_shot_imagenet="A: 3\n", base2new_imagenet="A: 4\n")
    assert settings_for(folder, "few_shot", "dtd") == ["A", "1", "B", "2"]
    assert settings_for(folder, "few_shot", "imagenet") == ["A", "3"]
    assert settings_for(folder, "base2new", "imagenet") == ["A", "4"]
    assert settings_for(folder, "base2new", "dtd") == settings_for(folder, "cross_dataset", "imagenet") == []


def test_a_file_of_settings_without_any_is_named(trainer):
    with pytest.raises(ValueError, match=r"few_shot\.yaml: expected YAML keys with values, got None"):
        settings_for(trainer(few_shot=""), "few_shot", "dtd")


def test_the_files_here_are_read_by_a_protocol_and_name_files_that_exist():
    datasets = [file.stem for file in REPOSITORY.glob("configs/datasets/*.yaml")]
    names = {f"{protocol}{end}" for protocol in PROTOCOLS for end in ("", *(f"_{name}" for name in datasets))}
    for file in REPOSITORY.glob("configs/trainers/*/protocols/*"):
        assert file.suffix == ".yaml" and file.stem in names | {"files", "stage0"}, file
        if file.stem == "files":
            entries = yaml.safe_load(file.read_text()).values()
            stems = [stem for entry in entries for stem in (entry.values() if isinstance(entry, dict) else [entry])]
            assert all((file.parents[1] / f"{stem}.yaml").is_file() for stem in stems), file
