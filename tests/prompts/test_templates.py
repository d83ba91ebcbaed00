"""Hand-written templates and their paraphrases."""

import pytest
from open_clip import SimpleTokenizer

from anprompt.prompts.templates import class_text, paraphrases_for, prompts_for, template_for

CLASSIC = ["Caltech101", "StanfordCars", "SUN397", "ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"]
SPECIAL = ["OxfordPets", "OxfordFlowers", "Food101", "FGVCAircraft", "DescribableTextures", "EuroSAT", "UCF101"]
DATASETS = [*CLASSIC, *SPECIAL, "Shapes", "SomebodysOwn"]


@pytest.mark.parametrize(
    ("dataset", "prompt"),
    [
        ("OxfordPets", "a photo of a great dane, a type of pet."),
        ("OxfordFlowers", "a photo of a great dane, a type of flower."),
        ("Food101", "a photo of great dane, a type of food."),
        ("FGVCAircraft", "a photo of a great dane, a type of aircraft."),
        ("DescribableTextures", "great dane texture."),
        ("EuroSAT", "a centered satellite photo of great dane."),
        ("UCF101", "a photo of a person doing great dane."),
        *((dataset, "a photo of a great dane.") for dataset in [*CLASSIC, "Shapes", "SomebodysOwn"]),
    ],
)
def test_prompts_are_those_of_the_coop_family(dataset, prompt):
    assert prompts_for(dataset, ["great_dane"]) == [prompt]


def test_class_text_reads_underscores_as_spaces():
    assert class_text("Apply_Eye_Makeup") == "Apply Eye Makeup"


def test_braces_in_a_class_name_are_kept():
    assert prompts_for("Shapes", ["{0}"]) == ["a photo of a {0}."]


@pytest.fixture(scope="module")
def encode():
    return SimpleTokenizer().encode


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_paraphrase_is_another_wording_with_one_slot(dataset, encode):
    wordings = [template_for(dataset), *paraphrases_for(dataset)]
    filled = {tuple(encode(wording.format("great dane"))) for wording in wordings}
    assert len(wordings) >= 1 + 24
    assert len(filled) == len(wordings), "two wordings are the same to CLIP"
    assert all(wording.count("{}") == wording.count("{") == wording.count("}") == 1 for wording in wordings)


@pytest.mark.parametrize("dataset", DATASETS)
def test_paraphrases_leave_room_for_any_class_name(dataset, encode):
    longest = max(len(encode(wording.format(""))) for wording in paraphrases_for(dataset))
    assert longest <= 20  # of 75 between start and end token; the longest class name of the family, a car, needs 16


def test_families_have_their_own_words():
    families = {paraphrases_for(dataset) for dataset in DATASETS}
    assert len(families) == 10
    assert paraphrases_for("ImageNetR") == paraphrases_for("Caltech101") != paraphrases_for("SUN397")


def test_a_template_of_the_users_wins():
    assert prompts_for("OxfordPets", ["red_fox"], "{}, an animal.") == ["red fox, an animal."]
    for wrong in ("an animal.", "{} and {}", "{0}", "{} {"):
        with pytest.raises(ValueError, match="DATASET.TEMPLATE is"):
            prompts_for("OxfordPets", ["red_fox"], wrong)
