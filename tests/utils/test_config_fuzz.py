"""Config values and files, odd and hostile, by the hundred: merged, or one line that names the key or the file."""

import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.utils.config import add_shared_cfg, leaves, merge_file, merge_overrides
from dassl.config import get_cfg_default

fuzz = settings(max_examples=150, deadline=None, derandomize=True)


def fresh():
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    return cfg


KEYS = sorted(dict(leaves(fresh())))
ODD_WORDS = [
    "None", "()", "(0.5,)", "[1,2,3]", "{}", "{1:2}", "{[]:1}", "1e400", "nan", "-0", "010", "1_0", "1j", "b'x'", "'a'",
    "True", "lambda:0", "__import__('os')", "...", "é",
]  # fmt: skip
words = st.sampled_from(["", *ODD_WORDS, "(" * 300, "\0", "9" * 5000]) | st.text(max_size=10)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.integers() | st.none(), inner, max_size=3),
    max_leaves=8,
)
PIECES = [
    "OPTIM", "OPTIM:", "LR:", "0.1", "-", "&a", "*a", "<<:", ":", "{", "}", "[", "]", "010", "1:30", "!!int", "!!bool",
    "!!python/name:os.system", "---", "?", "'", '"', "#", "|", ">-", "%YAML", "@", "\ufeff",
]  # fmt: skip
pieces = st.sampled_from([*PIECES, "\t", "\n", "\n  ", " ", "\n  LR: 1"])


def answers(act, name):
    """Whether it merges; if not, it says in one line what is wrong, with the name of the key or file."""
    try:
        act()
        return True
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error), repr(str(error))
        return False


@fuzz
@given(key=st.sampled_from(KEYS), value=words)
def test_overrides(key, value):
    cfg = fresh()
    if answers(lambda: merge_overrides(cfg, [key, value]), value if value.startswith("--") else key):
        assert dict(leaves(cfg))[key] is not None or dict(leaves(fresh()))[key] is None


def merge_text(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "odd.yaml")
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        cfg = fresh()
        answers(lambda: merge_file(cfg, str(path)), "odd.yaml")
    defaults = dict(leaves(fresh()))
    assert defaults.keys() == dict(leaves(cfg)).keys()
    assert all(value is not None or defaults[key] is None for key, value in leaves(cfg))


@fuzz
@given(key=st.sampled_from(KEYS), value=plain)
def test_files_with_an_odd_value(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    merge_text(yaml.safe_dump(value))


@fuzz
@given(parts=st.lists(pieces, max_size=12))
def test_files_of_pieces(parts):
    merge_text("".join(parts))
