"""``from clip import clip`` without an installed CLIP: OpenAI's names and layout, open_clip's numbers.

The published models are too large for tests: a small one of OpenAI's layout (heads of width 64) stands for them.
"""

import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_fp16
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from anprompt.clip import backbone
from anprompt.compat.installed_clip import ADAPTER
from tests.clip.test_backbone import publish, save_torchscript, sha256

sys.path.insert(0, str(ADAPTER))  # also where a CLIP is installed: this file is about the adapter
import clip as package
from clip import clip as adapter
from clip import model as layout
from clip.simple_tokenizer import SimpleTokenizer

OPENAI_LIKE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 192, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3},
}
TEXTS = ["a photo of a cat.", "a very small grey bird", "sea"]
IDS = open_clip.tokenize(TEXTS)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def source():
    """open_clip's model in double precision, with weights that half precision holds exactly, as OpenAI's are."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = open_clip.CLIP(**OPENAI_LIKE, quick_gelu=True)
    torch.set_rng_state(state)
    with torch.no_grad():
        for parameter in model.parameters():  # the default start leaves biases at zero, which would hide mistakes
            parameter.copy_((parameter + 0.02 * torch.randn(parameter.shape)).half())
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def state(source):
    """Its weights as OpenAI published them: half precision except for LayerNorm and embeddings."""
    copy = open_clip.CLIP(**OPENAI_LIKE, quick_gelu=True)
    copy.load_state_dict(source.state_dict())
    convert_weights_to_fp16(copy)
    return dict(copy.state_dict())


@pytest.fixture
def model(state):
    return adapter.build_model(state).double()


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    """A folder with both of OpenAI's formats: ViT-B-16.pt is a TorchScript archive, ViT-B-32.pt a state dict."""
    folder = tmp_path_factory.mktemp("clip")
    save_torchscript(state, folder / "ViT-B-16.pt")
    sizes = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    torch.save({**state, **sizes}, folder / "ViT-B-32.pt")
    return folder


@pytest.fixture
def published(folder, monkeypatch):
    for arch in ("ViT-B-16", "ViT-B-32"):
        url = f"https://host/models/{{digest}}/{arch}.pt"
        publish(monkeypatch, arch, "openai", url, sha256(folder / f"{arch}.pt"))
    return str(folder)


def as_the_family_does(clip, name, root):
    """From a name to a model by way of the file, as trainers of the family go: an archive, else a state dict."""
    file = clip._download(clip._MODELS[name], root)
    try:
        weights = torch.jit.load(file, map_location="cpu").state_dict()
    except RuntimeError:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    return clip.build_model(weights)


def text_by_its_parts(model, words, ids):
    """Features of embedded words by the parts of the text tower, length first: how learned words pass it."""
    hidden = model.transformer((words + model.positional_embedding.type(model.dtype)).transpose(0, 1))
    ends = model.ln_final(hidden[ids.argmax(dim=-1), torch.arange(len(ids))])
    return ends.type(model.dtype) @ model.text_projection


def assert_close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ---- the model -------------------------------------------------------------------------------------------------------


def test_features_are_those_of_open_clip(source, model):
    assert_close(model.encode_image(IMAGES.double()), source.encode_image(IMAGES.double()))
    assert_close(model.visual(IMAGES.double()), source.visual(IMAGES.double()))
    assert_close(model.encode_text(IDS), source.encode_text(IDS))


def test_logits_are_those_of_open_clip(source, model):
    image, text, scale = source(IMAGES.double(), IDS)
    per_image, per_text = model(IMAGES, IDS)  # cast to the precision of the weights, as by OpenAI's
    assert_close(per_text, (scale * image.double() @ text.T).T, 1e-6)
    assert torch.equal(per_image, per_text.T)
    per_image, _ = model(IMAGES.double(), IDS)
    assert_close(per_image, scale * image @ text.T)


def test_the_parts_of_the_text_tower_give_the_same_features_and_gradient(source, model):
    prompts = model.token_embedding(IDS).detach()
    ours, theirs = prompts.clone().requires_grad_(), prompts.clone().requires_grad_()
    features = text_by_its_parts(model, ours, IDS)
    hidden = source.transformer(theirs + source.positional_embedding, attn_mask=source.attn_mask)
    expected = source.ln_final(hidden)[torch.arange(len(IDS)), IDS.argmax(dim=-1)] @ source.text_projection
    assert_close(features, expected)
    weight = torch.randn(features.shape, dtype=torch.float64)
    (features * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad.abs().max() > 1e-3
    assert_close(ours.grad, theirs.grad)


def test_blocks_are_length_first_and_text_blocks_own_the_causal_mask(source, model):
    text = torch.randn(77, 2, 128, dtype=torch.float64)
    vision = torch.randn(5, 2, 192, dtype=torch.float64)
    for block, other in zip(model.transformer.resblocks, source.transformer.resblocks, strict=True):
        assert torch.equal(block.attn_mask, source.attn_mask)
        assert_close(block(text), other(text.transpose(0, 1), attn_mask=source.attn_mask).transpose(0, 1))
        assert_close(block.mlp(block.ln_2(text)), other.mlp(other.ln_2(text)))
        assert isinstance(block.attn, nn.MultiheadAttention)
    for block, other in zip(model.visual.transformer.resblocks, source.visual.transformer.resblocks, strict=True):
        assert block.attn_mask is None
        assert_close(block(vision), other(vision.transpose(0, 1)).transpose(0, 1))


def test_the_layout_is_openais(source, model):
    assert list(model.state_dict().keys() ^ source.state_dict().keys()) == []
    assert (model.context_length, model.vocab_size, model.dtype) == (77, 49408, torch.float64)
    visual = model.visual
    assert (visual.input_resolution, visual.output_dim, visual.conv1.weight.shape[0]) == (32, 24, 192)
    assert (model.transformer.width, model.transformer.layers, model.transformer.resblocks[0].attn.num_heads) == (
        128,
        3,
        2,
    )
    assert all(isinstance(parameter, nn.Parameter) for parameter in (model.logit_scale, visual.proj))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_model_that_moves_between_precisions_takes_its_mask_along(source, model):
    single = model.float().encode_text(IDS)
    assert_close(single.double(), source.encode_text(IDS), 1e-4)
    assert_close(model.double().encode_text(IDS), source.encode_text(IDS))


def test_building_takes_a_copy_and_draws_no_random_number(state):
    before, drawn = {key: value.clone() for key, value in state.items()}, torch.get_rng_state()
    model = adapter.build_model(state)
    assert torch.equal(drawn, torch.get_rng_state())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_a_built_model_is_in_half_precision_where_openais_is(source, state):
    model = adapter.build_model(state)
    assert model.dtype == torch.float16
    assert {key: value.dtype for key, value in model.state_dict().items()} == {
        key: value.dtype for key, value in state.items()
    }
    with torch.no_grad():
        assert_close(model.encode_image(IMAGES).double(), source.encode_image(IMAGES.double()), 2e-2)
        assert_close(model.encode_text(IDS).double(), source.encode_text(IDS), 2e-2)
        half = text_by_its_parts(model, model.token_embedding(IDS).type(model.dtype), IDS)
    assert half.dtype == torch.float16
    assert torch.equal(half, model.encode_text(IDS))


def test_float_undoes_and_convert_weights_repeats_half_precision(state):
    model = adapter.build_model(state).float()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    layout.convert_weights(model)
    assert model.text_projection.dtype == model.visual.proj.dtype == torch.float16
    assert model.ln_final.weight.dtype == model.token_embedding.weight.dtype == torch.float32
    assert {parameter.dtype for parameter in model.half().parameters()} == {torch.float16}
    assert model.encode_text(IDS).isfinite().all()


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-B/32"])
def test_the_familys_loading_code_reads_both_formats(source, published, name):
    model = as_the_family_does(adapter, name, published)
    assert_close(model.double().encode_text(IDS), source.encode_text(IDS))


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-B/32"])
@pytest.mark.parametrize("module", [adapter, package])
def test_load_gives_the_model_and_the_transform(source, published, module, name):
    model, preprocess = module.load(name, device="cpu", jit=False, download_root=published)
    assert model.dtype == torch.float32
    assert_close(model.double().encode_text(IDS), source.encode_text(IDS))
    image = preprocess(Image.new("RGBA", (80, 40), (255, 0, 0, 255)))
    expected = [
        (channel - mean) / std
        for channel, mean, std in zip(
            (1, 0, 0), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, strict=True
        )
    ]
    assert_close(image.mean(dim=(1, 2)), torch.tensor(expected), 1e-5)
    assert image.shape == (3, 32, 32)


def test_load_takes_a_file(source, folder):
    model, _ = adapter.load(str(folder / "ViT-B-16.pt"), "cpu")
    assert_close(model.double().encode_text(IDS), source.encode_text(IDS))


def test_the_tiny_clip_comes_with_its_own_heads(tmp_path):
    model = as_the_family_does(adapter, "tiny", str(tmp_path)).double()
    expected = backbone.load_clip("tiny").model.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_close(model.encode_image(images), expected.encode_image(images))
    assert_close(model.encode_text(IDS), expected.encode_text(IDS))
    assert model.state_dict().keys() == expected.state_dict().keys()


def test_the_copy_of_the_tiny_clip_is_made_once_per_file(tmp_path, monkeypatch):
    def download():
        return Path(adapter._download(adapter._MODELS["tiny"], str(tmp_path)))

    first = download()
    written = first.stat().st_mtime_ns
    assert (download(), first.stat().st_mtime_ns) == (first, written)
    monkeypatch.setattr(adapter, "verified_weights", lambda *_, **__: (backbone.TINY_FILE, "f" * 64))
    assert download() != first
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt", ".pt"]


def test_safetensors_of_hugging_face_are_handed_out_in_openais_layout(source, state, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", OPENAI_LIKE)
    repository = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, repository / "snapshots" / "abc" / "open_clip_model.safetensors")
    model = as_the_family_does(adapter, "ViT-B/16", str(tmp_path))
    assert_close(model.double().encode_image(IMAGES.double()), source.encode_image(IMAGES.double()))


def test_nothing_is_downloaded_and_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    def connect(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    url, root = adapter._MODELS["ViT-L/14"], str(tmp_path)
    for attempt in (lambda: adapter._download(url, root), lambda: adapter.load("ViT-L/14", "cpu", False, root)):
        with pytest.raises(FileNotFoundError, match="no weights for backbone ViT-L/14") as error:
            attempt()
        assert f"curl -L --create-dirs -o {tmp_path}/ViT-L-14.pt {url}\n" in str(error.value)
        assert "MODEL.BACKBONE.PATH" not in str(error.value)  # such files do not read it


def test_a_file_that_was_cut_short_is_refused(published, tmp_path):
    content = (Path(published) / "ViT-B-16.pt").read_bytes()
    (tmp_path / "ViT-B-16.pt").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"is not the published ViT-B/16[\s\S]*cut short") as error:
        adapter._download(adapter._MODELS["ViT-B/16"], str(tmp_path))
    assert "MODEL.BACKBONE.PATH" not in str(error.value)


def test_the_models_are_those_that_the_backbone_knows():
    names = ["ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px", "tiny"]
    assert adapter.available_models() == names
    assert adapter._MODELS["ViT-B/16"].endswith(
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
    )
    assert "RN50" not in adapter._MODELS


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: adapter._MODELS["ViT-B16"], "unknown CLIP model 'ViT-B16' .*did you mean ViT-B/16"),
        (lambda: adapter._MODELS["RN50"], "'RN50' .*ResNet, which is not supported.*ViT-B/16"),
        (lambda: adapter.load("ViT-B/17"), "did you mean ViT-B/1"),
        (lambda: adapter.load("tiny", jit=True), "jit=False"),
        (lambda: adapter._download("https://host/other.pt"), "unknown URL of CLIP weights 'https://host/other.pt'"),
        (lambda: adapter.build_model({}, {"trainer": "MaPLe"}), "changed copy of CLIP.*anprompt/clip/encoders.py"),
        (lambda: adapter.build_model({}, design_details={}), "anprompt/clip/encoders.py"),
        (lambda: adapter.build_model({"visual.layer1.0.conv1.weight": 0}), "visual.proj is missing; ResNets are not"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def test_heads_that_no_shape_tells_are_asked_for(tmp_path):
    weights = torch.load(adapter._download(adapter._MODELS["tiny"], str(tmp_path)), weights_only=True)
    del weights["visual.heads"]
    with pytest.raises(
        ValueError, match=r'visual.transformer is 160 wide, no multiple of 64.*Add an entry "visual.heads"'
    ):
        adapter.build_model(weights)


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_open_clip():
    texts = ["A photo of a  cat.", "Brüssel's café", "", "cat " * 75]
    for found in (adapter.tokenize(texts), package.tokenize(texts)):
        assert found.dtype == torch.int64
        assert torch.equal(found, open_clip.tokenize(texts))
    assert torch.equal(adapter.tokenize("sea"), open_clip.tokenize(["sea"]))
    assert adapter.tokenize("sea", context_length=5).shape == (1, 5)


def test_a_text_that_is_too_long_is_refused_or_cut():
    with pytest.raises(RuntimeError, match="Input cat cat .* is too long for context length 77"):
        adapter.tokenize(["cat", "cat " * 76])
    assert torch.equal(adapter.tokenize("cat " * 99, truncate=True), open_clip.tokenize(["cat " * 99]))
    with pytest.raises(RuntimeError, match="context length 4"):
        adapter.tokenize("a small cat", 4)


def test_the_tokenizer_has_openais_names():
    tokenizer, plain = SimpleTokenizer(), open_clip.SimpleTokenizer()
    assert (tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]) == (49406, 49407)
    assert len(tokenizer.encoder) == len(tokenizer.decoder) == 49408
    assert tokenizer.encode("fire truck") == plain.encode("fire truck")
    assert tokenizer.decode(tokenizer.encode("fire truck")) == "fire truck "
    assert tokenizer.encode("<|startoftext|>sea<|endoftext|>") == [49406, *plain.encode("sea"), 49407]
    assert 49406 not in tokenizer.encode("<start_of_text>")
    assert tokenizer.decode([49406, 49407]) == "<|startoftext|><|endoftext|>"
