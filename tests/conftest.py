"""Shared fixtures: a small random CLIP in double precision, the oracle of the same weights, and quick real runs."""

import os
import signal
import tempfile

import open_clip
import pytest
import torch

import anprompt  # noqa: F401  makes `import dassl` work
from anprompt.clip.backbone import Backbone
from dassl.utils import read_image
from tests.helpers.oracle import Oracle
from tests.helpers.runs import run_cfg
from tests.helpers.stand_in import caller

# A shell lets what it starts in the background ignore Ctrl-C, and children inherit that: some tests interrupt theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CACHES = tempfile.TemporaryDirectory(prefix="anprompt-tests-")
os.environ["XDG_CACHE_HOME"] = CACHES.name  # nothing of a test goes into the user's caches, nor comes from there

WORDS = 49408  # CLIP's vocabulary
CONTEXT = 77


def small_clip(depth: int = 4, vision_depth: int | None = None, quick_gelu: bool = True, seed: int = 0):
    """A random CLIP of real layout: 32x32 images of 16x16 patches, vision width 48, text width 32, joint width 24."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    clip = open_clip.model.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 48, "layers": vision_depth or depth, "head_width": 16},
        text_cfg={"context_length": CONTEXT, "vocab_size": WORDS, "width": 32, "heads": 4, "layers": depth},
        quick_gelu=quick_gelu,
    )
    with torch.no_grad():
        for parameter in clip.parameters():  # the default start leaves biases at zero, which would hide mistakes
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.set_rng_state(state)
    return clip.double().eval().requires_grad_(False)


def backbone_around(clip):
    """What the models take: the CLIP, and how to feed it."""
    return Backbone(clip, "small", "", 32, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


@pytest.fixture(scope="session")
def clip():
    return small_clip()


@pytest.fixture(scope="session")
def oracle(clip):
    return Oracle(clip, text_heads=4, vision_heads=3, quick=True)


@pytest.fixture(scope="session")
def prompts():
    """Token ids ``[5, 77]`` of texts of different lengths."""
    names = ["dog", "fire truck", "a very small grey bird", "cat", "sea"]
    return open_clip.tokenizer.SimpleTokenizer()([f"a photo of a {name}." for name in names])


@pytest.fixture
def call(tmp_path):
    """Run a script with a stand-in for Python: see :func:`tests.helpers.stand_in.caller`."""
    return caller(tmp_path)


@pytest.fixture
def decoded(monkeypatch):
    """Paths of the images that this process decodes from here on."""
    paths = []

    def noted(path):
        paths.append(path)
        return read_image(path)

    for module in ("anprompt.data.train_images", "anprompt.data.test_images", "dassl.data.data_manager"):
        monkeypatch.setattr(f"{module}.read_image", noted)
    return paths


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Shapes is rendered here once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def make_cfg(data_root, tmp_path):
    """Configs of quick runs on Shapes, which write to the test's own folder."""

    def make(*options, output="run", classes="base", seed=1, trainer="ANPrompt"):
        return run_cfg(data_root, tmp_path / output, options, trainer=trainer, classes=classes, seed=seed)

    return make
