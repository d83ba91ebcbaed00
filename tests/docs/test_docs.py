"""What the documents point to exists."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]


def names_in(file: Path) -> set[str]:
    """Functions, classes and methods (``Class.method`` too) that a Python file defines."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


def references(text: str):
    """``path.py: name, name`` and ``path.py::name, name`` in backquotes -> (path, [names])."""
    for path, names in re.findall(r"`([\w/]+\.py)(?:::?\s*([\w.,\s]+))?`", text):
        yield path, [name.strip() for name in names.split(",") if name.strip()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_functions_named_in_a_document_exist(document):
    for path, names in references(document.read_text(encoding="utf-8")):
        if "/" not in path and not (REPOSITORY / path).is_file():
            continue  # a file of the reader's
        assert (REPOSITORY / path).is_file(), path
        assert set(names) <= names_in(REPOSITORY / path), (path, names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_every_function_of_the_method_is_in_the_method_page():
    """An equation without a line in docs/method.md would be one that nobody can check."""
    text = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    for name in (
        "weak_noise_features",
        "noise_prompts",
        "head_cross_entropy",
        "similarity_loss",
        "weak_alignment_loss",
    ):
        assert name in text
