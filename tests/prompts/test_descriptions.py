"""Readers of class descriptions, on small files of both public formats."""

import json

import pytest

from anprompt.prompts.descriptions import read_descriptions


def write(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def sentences(name, count):
    return [f"{name} {index}" for index in range(count)]


@pytest.mark.parametrize(
    ("dataset", "key"),
    [
        ("Caltech101", "caltech"),
        ("DescribableTextures", "dtd"),
        ("EuroSAT", "eurosat"),
        ("FGVCAircraft", "fgvc"),
        ("Food101", "food101"),
        ("OxfordFlowers", "oxford_flowers"),
        ("OxfordPets", "oxford_pets"),
        ("StanfordCars", "stanford_cars"),
        ("SUN397", "sun397"),
        ("UCF101", "ucf101"),
        ("ImageNet", "imagenet"),
        ("Shapes", "shapes"),
    ],
)
def test_both_file_names_of_a_dataset_are_found(tmp_path, dataset, key):
    for name in (f"{key}_prompt.json", f"{dataset}.json"):
        write(tmp_path, name, {"a": [name]})
        assert read_descriptions(str(tmp_path), dataset, ["a"]) == [[name]]
        (tmp_path / name).unlink()


def test_banks_are_ordered_by_sentence_then_by_class(tmp_path):
    write(tmp_path, "Food101.json", {"soup": ["s0", "s1"], "pie": ["p0", "p1"], "other": ["o0", "o1"]})
    assert read_descriptions(str(tmp_path), "Food101", ["pie", "soup"]) == [["p0", "s0"], ["p1", "s1"]]


def test_the_class_with_the_fewest_sentences_sets_the_number_of_banks(tmp_path):
    write(tmp_path, "Food101.json", {"soup": sentences("s", 4), "pie": sentences("p", 2), "other": ["o"]})
    assert read_descriptions(str(tmp_path), "Food101", ["soup", "pie"]) == [["s 0", "p 0"], ["s 1", "p 1"]]


def test_names_match_with_underscores_and_other_case(tmp_path):
    write(tmp_path, "UCF101.json", {"Apply Eye Makeup": ["makeup"], "YoYo": ["toy"]})
    assert read_descriptions(str(tmp_path), "UCF101", ["Apply_Eye_Makeup", "Yoyo"]) == [["makeup", "toy"]]


def test_an_exact_name_wins_over_another_spelling(tmp_path):
    write(tmp_path, "ImageNet.json", {"crane": ["bird"], "Crane": ["machine"]})
    assert read_descriptions(str(tmp_path), "ImageNet", ["Crane", "crane"]) == [["machine", "bird"]]


def test_classes_of_one_name_share_their_sentences(tmp_path):
    write(tmp_path, "ImageNet.json", {"missile": ["m"], "tench": ["t"]})
    assert read_descriptions(str(tmp_path), "ImageNet", ["missile", "tench", "missile"]) == [["m", "t", "m"]]


@pytest.mark.parametrize("variant", ["ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"])
def test_variants_of_imagenet_read_its_file(tmp_path, variant):
    write(tmp_path, "ImageNet.json", {"tench": ["a fish"]})
    assert read_descriptions(str(tmp_path), variant, ["tench"]) == [["a fish"]]


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path, "Food101.json", {"pie": ["p"]})
    assert read_descriptions("~", "Food101", ["pie"]) == [["p"]]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist\. .* built-in paraphrases"):
        read_descriptions(str(tmp_path / "nowhere"), "Food101", ["pie"])


def test_a_missing_file_is_named_in_both_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Caltech101 in .*caltech_prompt\.json and Caltech101\.json") as error:
        read_descriptions(str(tmp_path), "Caltech101", ["face"])
    assert "CoPrompt" not in str(error.value)


def test_without_imagenet_file_the_error_says_that_coprompt_has_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="CoPrompt published no file for ImageNet: name no folder for GPT"):
        read_descriptions(str(tmp_path), "ImageNetA", ["tench"])


def test_two_formats_in_one_folder_are_ambiguous(tmp_path):
    write(tmp_path, "eurosat_prompt.json", {"River": ["r"]})
    write(tmp_path, "EuroSAT.json", {"River": ["r"]})
    with pytest.raises(ValueError, match=r"eurosat_prompt\.json and EuroSAT\.json"):
        read_descriptions(str(tmp_path), "EuroSAT", ["River"])


def test_all_missing_classes_are_listed(tmp_path):
    write(tmp_path, "Food101.json", {"pie": ["p"]})
    with pytest.raises(ValueError, match=r"Food101\.json lacks 2 of 3 class names: soup, stew\.") as error:
        read_descriptions(str(tmp_path), "Food101", ["soup", "pie", "stew", "soup"])
    assert "\n" not in str(error.value)


def test_a_long_list_of_missing_classes_is_given_whole(tmp_path):
    write(tmp_path, "Food101.json", {"pie": ["p"]})
    with pytest.raises(ValueError, match=r"lacks 30 of 30 class names: c0, .*, c19, c20, .*, c29\."):
        read_descriptions(str(tmp_path), "Food101", [f"c{index}" for index in range(30)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"pie": ["p"', "is not a JSON file"),
        ([["pie", "p"]], "must map class names to lists of sentences, but holds a list"),
        ({"pie": []}, r'class "pie" needs a list of at least one sentence, got \[\]'),
        ({"pie": "one sentence"}, r'class "pie" needs a list of at least one sentence, got \'one sentence\''),
        ({"pie": ["fine", 3]}, 'sentence 1 of class "pie" must be text, got 3'),
        ({"pie": ["fine", " "]}, 'sentence 1 of class "pie" must be text'),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, content, message):
    write(tmp_path, "Food101.json", content)
    with pytest.raises(ValueError, match=message) as error:
        read_descriptions(str(tmp_path), "Food101", ["pie"])
    assert "Food101.json" in str(error.value)


def test_bytes_that_are_not_utf8_are_one_clear_error(tmp_path):
    (tmp_path / "Food101.json").write_bytes(b'{"cr\xe8me": ["c"]}')
    with pytest.raises(ValueError, match="is not a JSON file"):
        read_descriptions(str(tmp_path), "Food101", ["pie"])
