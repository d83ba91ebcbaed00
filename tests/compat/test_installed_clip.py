"""Which ``clip`` answers: the installed one where it works, otherwise the adapter. In fresh interpreters."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from anprompt.compat.installed_clip import ADAPTER
from tests.compat.test_installed_dassl import install, run, succeed
from tests.helpers import REPOSITORY

INSTALLED = {
    "works": "def tokenize(): ...\ndef load(): ...\n",
    "broken": "def tokenize(): ...\ndef load(): ...\nfrom a_part_of_setuptools_that_is_gone import packaging\n",
    "unrelated": "def copy_to_clipboard(): ...\n",
}
WHICH = """
import anprompt, clip
from clip import clip as inner
from clip.simple_tokenizer import SimpleTokenizer
print(clip.__file__, inner.__file__)
"""


def install_clip(folder, kind):
    """Put a package ``clip`` with OpenAI's modules into ``folder``."""
    place = folder / "clip"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("from .clip import *\n")
    (place / "clip.py").write_text(f"from clip.simple_tokenizer import SimpleTokenizer\n{INSTALLED[kind]}")
    (place / "simple_tokenizer.py").write_text("class SimpleTokenizer: ...\n")
    return folder


def files(output):
    return [Path(file) for file in output.split()]


def test_without_an_installed_clip_the_adapter_answers():
    assert files(succeed(WHICH)) == [ADAPTER / "clip" / "__init__.py", ADAPTER / "clip" / "clip.py"]


def test_providing_is_cheap_and_may_be_repeated(tmp_path):
    code = """
import sys, anprompt
from anprompt.compat.installed_clip import ADAPTER, provide_clip
provide_clip()
assert not {"torch", "open_clip", "clip"} & sys.modules.keys()
assert str(ADAPTER) not in sys.path[:-1]
print(sys.path.count(str(ADAPTER)), [type(finder).__name__ for finder in sys.meta_path].count("_Trial"))
"""
    assert succeed(code).split() == ["1", "0"]
    assert succeed(code, install_clip(tmp_path, "works")).split() == ["0", "1"]


def test_a_folder_named_clip_is_not_an_installed_clip(tmp_path):
    (tmp_path / "clip" / "notes").mkdir(parents=True)
    assert files(succeed(WHICH, tmp_path))[0] == ADAPTER / "clip" / "__init__.py"


@pytest.mark.parametrize("dassl", [False, True])
def test_an_installed_clip_wins_with_and_without_dassl(tmp_path, dassl):
    site = install_clip(tmp_path, "works")
    if dassl:
        install(site)
    outer, inner, toolbox = files(succeed(f"{WHICH}\nimport dassl\nprint(dassl.__file__)", site))
    assert (outer, inner) == (site / "clip" / "__init__.py", site / "clip" / "clip.py")
    assert toolbox.is_relative_to(site / "dassl") == dassl


def test_an_installed_dassl_does_not_keep_the_adapter_away(tmp_path):
    assert files(succeed(WHICH, install(tmp_path)))[0] == ADAPTER / "clip" / "__init__.py"


def test_a_clip_installed_for_development_wins(tmp_path):
    """`pip install -e` adds a hook behind the search of `sys.path`, where the bundled Dassl is found."""
    site = install_clip(tmp_path / "elsewhere", "works")
    hook = """
import sys
from importlib.machinery import PathFinder
class Editable:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [SITE]) if name == "clip" else None
sys.meta_path.append(Editable)
""".replace("SITE", repr(str(site)))
    outer, inner, toolbox = files(succeed(f"{hook}{WHICH}\nimport dassl\nprint(dassl.__file__)"))
    assert (outer, inner) == (site / "clip" / "__init__.py", site / "clip" / "clip.py")
    assert toolbox.is_relative_to(REPOSITORY)


def test_the_clip_folder_of_a_checkout_wins(tmp_path):
    install_clip(tmp_path, "works")
    (tmp_path / "train.py").write_text(WHICH)
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert files(done.stdout)[0] == tmp_path / "clip" / "__init__.py"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("broken", "No module named 'a_part_of_setuptools_that_is_gone'"),
        ("unrelated", "has no attribute 'tokenize'"),
    ],
)
def test_an_installed_clip_that_is_of_no_use_gives_way_with_a_warning(tmp_path, kind, reason):
    result = run(f"{WHICH}\nprint(SimpleTokenizer().encode('a cat'))", install_clip(tmp_path, kind))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{ADAPTER / 'clip' / '__init__.py'} {ADAPTER / 'clip' / 'clip.py'}"
    assert json.loads(result.stdout.splitlines()[1]) == open_clip.SimpleTokenizer().encode("a cat")
    assert result.stderr.count("the installed clip is not a CLIP that works") == 1
    assert reason in result.stderr


def test_a_single_module_of_that_name_gives_way_too(tmp_path):
    (tmp_path / "clip.py").write_text("def app(): ...\n")
    result = run(WHICH, tmp_path)
    assert files(result.stdout)[0] == ADAPTER / "clip" / "__init__.py"
    assert "'clip' is not a package" in result.stderr


def test_a_clip_that_was_imported_before_stays(tmp_path):
    site = install_clip(tmp_path, "works")
    output = succeed(f"import clip as before\n{WHICH}\nassert clip is before\n", site)
    assert files(output)[0] == site / "clip" / "__init__.py"
    succeed("import sys, types; sys.modules['clip'] = types.ModuleType('clip'); import anprompt")  # somebody's stub
