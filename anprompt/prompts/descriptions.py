"""Read class descriptions written by a language model, in the two formats that are public.

* CoPrompt: ``<key>_prompt.json`` (``caltech_prompt.json``), 10 or 50 sentences per class; no file for ImageNet.
* HPT: ``<Dataset>.json`` (``Caltech101.json``), five sentences per class, for all eleven datasets.

Both map a class name to a list of sentences, so one reader serves both; it looks for either file name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anprompt.prompts.templates import class_text
from anprompt.utils import strict_json
from anprompt.utils.files import at_home

# Registry name -> key in CoPrompt's file names. Any other dataset uses its registry name in lower case.
_KEYS = {
    "Caltech101": "caltech",
    "DescribableTextures": "dtd",
    "FGVCAircraft": "fgvc",
    "OxfordFlowers": "oxford_flowers",
    "OxfordPets": "oxford_pets",
    "StanfordCars": "stanford_cars",
}
# ImageNet's variants have ImageNet's classes, or some of them.
_SAME_CLASSES = dict.fromkeys(("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"), "ImageNet")

_WITHOUT_FILES = "Where no folder is named at all, built-in paraphrases of the template are used."
_WITHOUT_IMAGENET = (
    "CoPrompt published no file for ImageNet: name no folder for GPT, only the one for HPT, whose ImageNet.json then "
    "serves as source and as perturbation."
)


def read_descriptions(directory: str, dataset_name: str, classnames: Sequence[str]) -> list[list[str]]:
    """Read the sentences of every class of one dataset.

    A class is looked up by its exact name first, then with underscores read as spaces and letter case ignored: split
    files say ``Apply_Eye_Makeup`` where description files say ``Apply Eye Makeup``. Classes that share a name share
    their sentences.

    Args:
        directory: folder with the description files; ``~`` is expanded.
        dataset_name: registry name, as in ``DATASET.NAME``.
        classnames: C class names, in label order.

    Returns:
        ``[M][C]``: item ``m`` holds sentence ``m`` of each class. M is the smallest number of sentences of any class.

    Raises:
        FileNotFoundError: the folder, or the dataset's file in it, does not exist.
        ValueError: the file is not JSON of the expected form, lacks classes, or the folder has a file of each format.
    """
    path = _find_file(at_home(directory), dataset_name)
    entries = _read_entries(path)
    found = _match_classes(entries, classnames, path)
    per_class = [_as_sentences(name, entry, path) for name, entry in zip(classnames, found, strict=True)]
    return [list(row) for row in zip(*per_class, strict=False)]  # not strict: stops at the shortest list


def _find_file(folder: Path, dataset_name: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"description folder {folder} does not exist. {_WITHOUT_FILES}")
    dataset = _SAME_CLASSES.get(dataset_name, dataset_name)
    names = [f"{_KEYS.get(dataset, dataset.lower())}_prompt.json", f"{dataset}.json"]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) == 2:
        raise ValueError(
            f"{folder} has two description files for {dataset_name}: {names[0]} and {names[1]}. "
            "Keep one format per folder, and name the folders separately."
        )
    if not found:
        advice = _WITHOUT_IMAGENET if dataset == "ImageNet" else f"Put one of them there. {_WITHOUT_FILES}"
        raise FileNotFoundError(
            f"no descriptions of {dataset_name} in {folder}: looked for {names[0]} and {names[1]}. {advice}"
        )
    return found[0]


def _read_entries(path: Path) -> dict[str, object]:
    try:
        entries = strict_json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # covers malformed JSON, a class that is there twice, and bytes that are not UTF-8
        raise ValueError(f"{path} is not a JSON file that can be used: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map class names to lists of sentences, but holds a {type(entries).__name__}")
    return entries


def _match_classes(entries: dict[str, object], classnames: Sequence[str], path: Path) -> list[object]:
    """Return the entry of each class, or raise one error that names every class without one."""
    by_text = {_normalised(name): sentences for name, sentences in entries.items()}
    by_text |= entries  # exact names win
    keys = [name if name in entries else _normalised(name) for name in classnames]
    missing = list(dict.fromkeys(name for name, key in zip(classnames, keys, strict=True) if key not in by_text))
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(set(classnames))} class names: {', '.join(missing)}. "
            f"Its own {len(entries)} names are like {', '.join(list(entries)[:3])}. "
            "Add the missing names to the file, or check that the dataset uses the CoOp family's class names."
        )
    return [by_text[key] for key in keys]


def _normalised(name: str) -> str:
    return " ".join(class_text(name).lower().split())


def _as_sentences(name: str, entry: object, path: Path) -> list[str]:
    if not isinstance(entry, list) or not entry:
        raise ValueError(f'{path}: class "{name}" needs a list of at least one sentence, got {entry!r:.80}')
    for index, sentence in enumerate(entry):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(f'{path}: sentence {index} of class "{name}" must be text, got {sentence!r:.80}')
    return entry
