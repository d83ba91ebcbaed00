"""The door to a frozen CLIP: every file format gives the source model's features, every bad file one clear error.

The published models are too large for tests. Here a small model stands behind OpenAI's and open_clip's names: the real
tables and the real search, with another architecture and another digest in them.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import warnings

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_fp16
from safetensors.torch import save_file
from torch import nn

from anprompt.clip import backbone
from anprompt.clip.backbone import find_weights, load_clip, load_clip_once
from tests.helpers import REPOSITORY
from tests.helpers.archives import Call, pickled, records_of, write_archive

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TEXTS = ["a photo of a cat.", "a dog"]
PAIR = "ViT-B-32/laion2b_s34b_b79k"  # on the Hugging Face hub only


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch):
    for arch in ("ViT-B-16", "ViT-B-32"):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, arch, SMALL)


@pytest.fixture(scope="module")
def source():
    """A random small CLIP with OpenAI's activation, its weights rounded to half precision as OpenAI's are."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL, quick_gelu=True)
    convert_weights_to_fp16(model)
    # Frozen: attention takes another path, with other rounding, for parameters that require a gradient.
    return model.float().eval().requires_grad_(False)


def half_state(model):
    """The model's state dict as OpenAI published it: half precision except for LayerNorm and embeddings."""
    copy = open_clip.CLIP(**SMALL, quick_gelu=True)
    copy.load_state_dict(model.state_dict())
    convert_weights_to_fp16(copy)
    return copy.state_dict()


class Holder(nn.Module):
    """A module that only holds tensors, so that TorchScript can save a state dict under its own names."""

    def forward(self):
        return 0


def save_torchscript(state, path):
    root = Holder()
    for key, value in state.items():
        module = root
        *parents, leaf = key.split(".")
        for name in parents:
            if name not in module._modules:
                module.add_module(name, Holder())
            module = module._modules[name]
        module.register_parameter(leaf, nn.Parameter(value))
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(path)


def save_checkpoint(state, path):
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)


def save_safetensors(state, path):
    save_file({**state, "logit_scale": state["logit_scale"].reshape(1)}, path)


FORMATS = {
    "torchscript.pt": save_torchscript,
    "state_dict.pt": torch.save,
    "weights.safetensors": save_safetensors,
    "open_clip_checkpoint.pt": save_checkpoint,
}


@pytest.fixture(scope="module")
def files(source, tmp_path_factory):
    """The same weights in each supported format: name -> path."""
    folder = tmp_path_factory.mktemp("weights")
    for name, save in FORMATS.items():
        save(half_state(source), folder / name)
    return {name: folder / name for name in FORMATS}


def publish(monkeypatch, arch, tag, url, digest):
    """Let open_clip's table name a URL that carries this digest."""
    entry = {**open_clip.pretrained.get_pretrained_cfg(arch, tag), "url": url.format(digest=digest)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED[arch], tag, entry)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same_features(model, other):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = open_clip.tokenize(TEXTS)
    assert torch.equal(model.encode_image(images), other.encode_image(images))
    assert torch.equal(model.encode_text(ids), other.encode_text(ids))
    assert torch.equal(model.logit_scale, other.logit_scale)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_features_of_the_source(source, files, name):
    loaded = load_clip("ViT-B/16", str(files[name]))
    assert_same_features(loaded.model, source)
    assert loaded.digest == sha256(files[name])


def test_the_model_is_frozen_in_eval_mode_and_in_float32_on_the_cpu(files):
    model = load_clip("ViT-B/16", str(files["torchscript.pt"])).model
    assert isinstance(model, open_clip.CLIP)
    assert not any(module.training for module in model.modules())
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert {(tensor.dtype, tensor.device.type) for tensor in tensors} == {(torch.float32, "cpu")}


def test_what_is_needed_to_feed_the_model_comes_along(files):
    loaded = load_clip("ViT-B/16", str(files["state_dict.pt"]))
    assert (loaded.name, loaded.image_size) == ("ViT-B/16", 32)
    assert (loaded.mean, loaded.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_a_pair_brings_its_own_normalisation(files, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14", SMALL)
    loaded = load_clip("ViT-L-14/laion2b_s32b_b82k", str(files["state_dict.pt"]))
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_loading_draws_from_no_random_number_generator(files):
    def states():
        return random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    for path in files.values():
        load_clip("ViT-B/16", str(path))
    assert states() == before


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("ViT-B/16", "QuickGELU"),  # OpenAI's
        ("ViT-B-16/openai", "QuickGELU"),
        ("ViT-B-32/metaclip_400m", "QuickGELU"),  # says the tag
        (PAIR, "GELU"),
    ],
)
def test_the_activation_is_the_one_that_the_weights_were_trained_with(files, name, activation):
    model = load_clip(name, str(files["state_dict.pt"])).model
    blocks = [*model.transformer.resblocks, *model.visual.transformer.resblocks]
    assert {type(block.mlp.gelu).__name__ for block in blocks} == {activation}


def test_the_small_models_above_stand_for_the_published_shapes():
    """The one test that builds a real architecture (on the meta device): ViT-B/16 has the sizes the papers give."""
    config = json.loads((open_clip.factory._MODEL_CONFIG_PATHS[0] / "ViT-B-16.json").read_text())
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    assert model.visual.positional_embedding.shape == (197, 768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 149_620_737


def test_importing_the_module_does_not_import_open_clip():
    code = "import sys, anprompt.clip.backbone; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=120).returncode == 0


# ---- search ----------------------------------------------------------------------------------------------------------


def test_openai_weights_are_found_where_clip_keeps_them(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    digest = sha256(files["torchscript.pt"])
    publish(monkeypatch, "ViT-B-16", "openai", "https://host/models/{digest}/ViT-B-16.pt", digest)
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    kept = shutil.copy(files["torchscript.pt"], tmp_path / ".cache" / "clip" / "ViT-B-16.pt")
    assert find_weights("ViT-B/16") == kept
    assert load_clip("ViT-B/16").digest == digest


def test_open_clip_weights_are_found_in_the_cache_of_hugging_face(source, files, tmp_path):
    repository = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    kept = repository / "snapshots" / "abc" / "open_clip_model.safetensors"
    shutil.copy(files["weights.safetensors"], kept)
    assert find_weights(PAIR, cache_dir=str(tmp_path)) == kept
    loaded = load_clip(PAIR, cache_dir=str(tmp_path)).model
    assert torch.equal(loaded.visual.proj, source.visual.proj)


def test_openai_weights_in_the_cache_of_hugging_face_are_not_held_to_the_digest_of_openais_file(files, tmp_path):
    repository = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    shutil.copy(files["weights.safetensors"], repository / "snapshots" / "abc" / "open_clip_model.safetensors")
    assert load_clip("ViT-B/16", cache_dir=str(tmp_path)).digest == sha256(files["weights.safetensors"])


def test_missing_openai_weights_name_the_place_and_the_command(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_clip("ViT-B/16", cache_dir=str(tmp_path))
    message = str(error.value)
    assert f"{tmp_path}/ViT-B-16.pt" in message.replace("\\", "/")
    assert "timm/vit_base_patch16_clip_224.openai: open_clip_model.safetensors in Hugging Face's cache" in message
    url = open_clip.get_pretrained_url("ViT-B-16", "openai")
    assert f"curl -L --create-dirs -o {tmp_path}/ViT-B-16.pt {url}\n" in message
    assert "hf download timm/vit_base_patch16_clip_224.openai open_clip_model.safetensors " in message
    assert "MODEL.BACKBONE.PATH" in message


def test_missing_open_clip_weights_name_the_repository_and_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K "):
        find_weights(PAIR, cache_dir=str(tmp_path))


def test_a_path_without_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file for ViT-B/16 at .*absent\.pt"):
        load_clip("ViT-B/16", str(tmp_path / "absent.pt"))


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def connect(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    for name in ("ViT-B/16", PAIR):
        with pytest.raises(FileNotFoundError):
            load_clip(name, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="unknown backbone"):
        load_clip("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")


# ---- files that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://host/models/{digest}/ViT-B-16.pt", "https://host/vit_b_16-laion400m_e31-{digest:.8}.pt"]
)
def test_a_found_file_with_another_digest_is_refused(files, tmp_path, monkeypatch, url):
    expected = "0123456789abcdef" * 4
    publish(monkeypatch, "ViT-B-16", "openai", url, expected)
    name = open_clip.get_pretrained_url("ViT-B-16", "openai").rpartition("/")[2]
    kept = shutil.copy(files["torchscript.pt"], tmp_path / name)
    with pytest.raises(ValueError, match=f"expected sha256 {expected[:8]}.*, found {sha256(kept)}"):
        load_clip("ViT-B/16", cache_dir=str(tmp_path))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [0, 1000, -1000])
def test_a_truncated_file_is_one_clear_error(files, tmp_path, name, size):
    cut = tmp_path / name
    cut.write_bytes(files[name].read_bytes()[:size])
    with pytest.raises(ValueError, match=f"found {cut.stat().st_size:,} bytes with sha256 {sha256(cut)}") as error:
        load_clip("ViT-B/16", str(cut))
    assert error.value.__suppress_context__
    assert "the published file has sha256 5806e77cd80f8b59890b7e101eabd078" in str(error.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]])
def test_a_file_that_holds_no_state_dict_is_one_clear_error(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="cannot read"):
        load_clip("ViT-B/16", str(tmp_path / "other.pt"))


def test_weights_of_another_architecture_are_refused_with_shapes(files, monkeypatch):
    other = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "patch_size": 8}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", other)
    with pytest.raises(ValueError, match="does not hold ViT-B/16") as error:
        load_clip("ViT-B/16", str(files["torchscript.pt"]))
    assert "visual.conv1.weight should be (64, 3, 8, 8) but is (64, 3, 16, 16)" in str(error.value)
    assert "visual.positional_embedding should be (17, 64) but is (5, 64)" in str(error.value)


def test_missing_and_unknown_weights_are_named(source, tmp_path):
    state = source.state_dict()
    del state["ln_final.bias"]
    state["prompt_learner.ctx"] = torch.zeros(4)
    torch.save(state, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match="ln_final.bias is missing; prompt_learner.ctx is unknown"):
        load_clip("ViT-B/16", str(tmp_path / "changed.pt"))


def test_a_long_list_of_differences_is_cut(tmp_path):
    torch.save({f"key{index}": torch.zeros(1) for index in range(50)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"is missing and \d+ more\. Is it the file of another model\?") as error:
        load_clip("ViT-B/16", str(tmp_path / "other.pt"))
    assert len(str(error.value)) < 600


def test_no_format_is_handed_to_a_reader_that_runs_it(files, monkeypatch):
    for place in ("torch.load", "torch.jit.load", "torch._C.import_ir_module", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("called"))
    for path in files.values():
        load_clip("ViT-B/16", str(path))


def hostile_state_dict(path):
    torch.save({"visual.proj": Call(os.system, "touch RAN")}, path)


def hostile_script(path):
    """OpenAI's layout with a call in it: ``torch.jit.load`` reads the whole file, and the refusal comes too late."""
    records = {**records_of(path), "data.pkl": pickled(Call(os.system, "touch RAN"))}
    write_archive(path, records)


def hostile_stream(path):
    path.write_bytes(pickled(Call(os.system, "touch RAN")))


def endless_script(path):
    """A program that never ends, where loading would run it."""
    program = (
        b"class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def __setstate__(self, x):\n    while True:\n"
    )
    steps = b"\x80\x02c__torch__\nM\n)\x81}b."
    write_archive(path, {"data.pkl": steps, "constants.pkl": pickled(()), "code/__torch__.py": program})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (hostile_state_dict, "it wants to use (posix|nt).system"),
        (hostile_script, "it wants to use (posix|nt).system"),
        (hostile_stream, "it wants to use (posix|nt).system"),
        (endless_script, "restores itself with a program of its own"),
    ],
)
def test_a_hostile_file_is_one_clear_error_and_nothing_runs(files, tmp_path, monkeypatch, make, reason):
    path = shutil.copy(files["torchscript.pt"], tmp_path / "hostile.pt")
    make(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"cannot read .*hostile.pt: expected OpenAI's .pt .*{reason}") as error:
        load_clip("ViT-B/16", str(path))
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["hostile.pt"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(files, tmp_path, number):
    state = torch.load(files["state_dict.pt"], weights_only=True)
    state["visual.proj"][0, 0] = number
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(ValueError, match=r"broken.pt .*: visual.proj holds numbers that are not finite"):
        load_clip("ViT-B/16", str(tmp_path / "broken.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"visual.proj": torch.ones(64, 16, dtype=torch.int64)},
            "visual.proj should hold real numbers but holds torch.int64",
        ),
        (
            {"visual.proj": torch.ones(64, 16, dtype=torch.complex64)},
            "should hold real numbers but holds torch.complex64",
        ),
        ({"visual.proj": [1.0]}, "expected tensors by name, found others in visual.proj"),
        ({"logit_scale": 4.6}, "expected tensors by name, found others in logit_scale"),
        ({7: torch.ones(1)}, "expected tensors by name, found others in 7"),
    ],
)
def test_weights_of_another_type_are_named(files, tmp_path, change, message):
    torch.save({**torch.load(files["state_dict.pt"], weights_only=True), **change}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=f"odd.pt.* does not hold ViT-B/16: .*{message}"):
        load_clip("ViT-B/16", str(tmp_path / "odd.pt"))


VIDEO_MODELS = {
    "CLIP's names": ("model_state_dict", lambda key: f"module.{key}"),
    "two encoders": (
        "model",
        lambda key: key.replace("visual.", "image_encoder.") if "visual" in key else f"text_encoder.{key}",
    ),
}


@pytest.mark.parametrize("kind", VIDEO_MODELS)
def test_the_tuned_encoders_of_a_video_model(source, tmp_path, caplog, kind):
    """What such a model has besides is left out, and counted; of its scale CLIP's own is known."""
    wrapper, name = VIDEO_MODELS[kind]
    state = {name(key): value for key, value in source.state_dict().items() if key != "logit_scale"}
    state |= {"prompt_learner.ctx": torch.ones(4, 32), "fusion.weight": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 12}, tmp_path / "tuned.pt")
    with caplog.at_level("INFO", logger="anprompt"):
        tuned = load_clip("ViT-B/16", str(tmp_path / "tuned.pt"))
    expected = {**source.state_dict(), "logit_scale": torch.tensor(100.0).log()}
    found = tuned.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert "2 tensors are no part of CLIP's towers, such as prompt_learner.ctx" in caplog.text
    assert "has no logit_scale: CLIP's own is taken, 100" in caplog.text


def test_words_that_a_video_model_did_not_tune_are_clips_own(source, files, tmp_path, monkeypatch):
    """ViFi-CLIP's files lack them: its text encoder begins behind them."""
    state = {
        key.replace("visual.", "image_encoder.") if "visual" in key else f"text_encoder.{key}": value + 1
        for key, value in source.state_dict().items()
        if key != "token_embedding.weight"
    }
    torch.save({"model": state, "max_accuracy": 51.3}, tmp_path / "tuned.pt")
    monkeypatch.setattr(backbone, "_places", lambda *_: [("there", files["state_dict.pt"])])
    found = load_clip("ViT-B/16", str(tmp_path / "tuned.pt")).model.state_dict()
    expected = source.state_dict()
    assert torch.equal(found["token_embedding.weight"], expected["token_embedding.weight"])
    assert torch.equal(found["visual.proj"], expected["visual.proj"] + 1)
    monkeypatch.setattr(backbone, "_places", lambda *_: [("there", None)])
    with pytest.raises(
        FileNotFoundError, match=r"tuned.pt has no token_embedding.weight, and CLIP's own are not there"
    ):
        load_clip("ViT-B/16", str(tmp_path / "tuned.pt"))


def test_a_video_model_without_a_tower_is_refused(source, tmp_path):
    state = {key: value for key, value in source.state_dict().items() if key.startswith("visual.")}
    torch.save({"model_state_dict": state}, tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match=r"does not hold ViT-B/16: .*is missing.*Is it the file of another model"):
        load_clip("ViT-B/16", str(tmp_path / "tuned.pt"))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_no_file_is_named_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"the weights of ViT-B/16 \(MODEL.BACKBONE.PATH\) .*{name} is a named pipe"):
        load_clip("ViT-B/16", str(tmp_path / name))
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        load_clip("ViT-B/16", str(tmp_path))


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("vit-b/16", "did you mean ViT-B/16"),
        ("ViTB16", "did you mean ViT-B/16"),
        ("ViT-L/14@336", "did you mean ViT-L/14@336px"),
        ("tny", "did you mean tiny"),
        ("ViT-B-32/laion2b_s34b_b79", "ViT-B-32 has no tag 'laion2b_s34b_b79'; did you mean laion2b_s34b_b79k"),
        ("ViT-B-16", "ViT-B-16 has no tag ''; known: .*openai; OpenAI's weights are called ViT-B/32, ViT-B/16"),
        ("something", "known: .*ViT-B/16, .*tiny; or a pair ARCH/TAG of open_clip"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, answer):
    with pytest.raises(ValueError, match=rf"unknown backbone '{name}' \(MODEL\.BACKBONE\.NAME\): .*{answer}"):
        find_weights(name)


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x16", "RN50/openai"])
def test_resnets_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is not supported: .* ResNet, and prompt tokens need a transformer"):
        load_clip(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-16-SigLIP/webli", "image tower comes from timm"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "image tower pools by attention"),
        ("ViT-L-14-CLIPA/datacomp1b", "does not pool at the class token"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "text tower comes from Hugging Face"),
    ],
)
def test_architectures_that_the_encoders_cannot_run_are_refused(name, reason):
    with pytest.raises(ValueError, match=f"{name} is not supported: .*{reason}"):
        find_weights(name)


@pytest.mark.parametrize(
    ("part", "setting", "reason"),
    [
        ("text_cfg", {"hf_tokenizer_name": "google/mt5-base"}, "another tokenizer"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "canonicalize"}}, "another tokenizer"),
        ("text_cfg", {"qk_norm": True}, "blocks are not CLIP's"),
        ("vision_cfg", {"block_type": "custom"}, "blocks are not CLIP's"),
        ("vision_cfg", {"scale_fc": True}, "blocks are not CLIP's"),
        ("text_cfg", {"no_causal_mask": True}, "not causal"),
        ("text_cfg", {"pool_type": "last"}, "end token"),
        ("text_cfg", {"embed_cls": True}, "end token"),
        ("text_cfg", {"proj_type": "none"}, "no projection"),
        ("vision_cfg", {"pool_type": "avg"}, "class token"),
    ],
)
def test_single_settings_that_the_encoders_cannot_run_are_refused(monkeypatch, part, setting, reason):
    config = {**SMALL, part: {**SMALL[part], **setting}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", config)
    with pytest.raises(ValueError, match=reason):
        find_weights("ViT-B/16")


# ---- tokenizer -------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_clip(files):
    texts = ["A photo of a  cat.", "Brüssel's café", ""]
    ids = load_clip("ViT-B/16", str(files["state_dict.pt"])).tokenize(texts)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, open_clip.tokenize(texts))


def test_a_text_that_just_fits_is_kept_and_a_longer_one_is_refused(files):
    loaded = load_clip("ViT-B/16", str(files["state_dict.pt"]))
    assert (loaded.tokenize(["cat " * 75]) != 0).all()
    with pytest.raises(ValueError, match='needs 78 tokens but ViT-B/16 takes 77; shorten the class name.*: "cat cat'):
        loaded.tokenize(["cat", "cat " * 76])


# ---- the bundled model -----------------------------------------------------------------------------------------------


def save_tiny(path, model, ids):
    state = {key: value.half() for key, value in model.state_dict().items()}
    rows = state.pop("token_embedding.weight")[ids]
    tensors = {**state, "token_embedding.ids": ids.int(), "token_embedding.rows": rows}
    save_file(tensors, path, metadata={"config": json.dumps({**SMALL, "quick_gelu": True})})


def test_the_bundled_format_restores_the_stored_words_and_gives_others_their_mean(source, tmp_path, monkeypatch):
    ids = open_clip.tokenize(TEXTS).unique()
    save_tiny(tmp_path / "tiny.safetensors", source, ids)
    monkeypatch.setattr(backbone, "TINY_FILE", tmp_path / "tiny.safetensors")
    monkeypatch.setattr(backbone, "TINY_DIGEST", sha256(tmp_path / "tiny.safetensors"))
    loaded = load_clip("tiny")
    rounded = open_clip.CLIP(**SMALL, quick_gelu=True).eval().requires_grad_(False)
    rounded.load_state_dict({key: value.half().float() for key, value in source.state_dict().items()})
    assert_same_features(loaded.model, rounded)
    table = loaded.model.token_embedding.weight
    other = next(index for index in range(len(table)) if index not in ids)
    assert torch.equal(table[other], table[ids].mean(dim=0))
    assert loaded.image_size == 32


def test_the_bundled_model_is_small_and_loads():
    loaded = load_clip("tiny")
    images = torch.zeros(1, 3, loaded.image_size, loaded.image_size)
    text = loaded.model.encode_text(loaded.tokenize(TEXTS))
    assert loaded.model.encode_image(images).shape == text[:1].shape
    assert text.isfinite().all()
    assert not torch.equal(text[0], text[1])
    assert backbone.TINY_FILE.stat().st_size < 6e6


def test_a_second_run_of_a_process_gets_the_model_that_is_there(files, tmp_path):
    file, cpu = tmp_path / "weights.pt", torch.device("cpu")
    file.write_bytes(files["state_dict.pt"].read_bytes())
    first = load_clip_once("ViT-B/16", str(file), cpu)
    assert load_clip_once("ViT-B/16", str(file), cpu) is first
    assert_same_features(first.model, load_clip("ViT-B/16", str(file)).model)
    other = load_clip_once("tiny", "", cpu)
    assert other.name == "tiny" and load_clip_once("tiny", "", cpu) is other


def test_a_file_that_changed_is_read_again(files, tmp_path):
    file, cpu = tmp_path / "weights.pt", torch.device("cpu")
    file.write_bytes(files["state_dict.pt"].read_bytes())
    first = load_clip_once("ViT-B/16", str(file), cpu)
    state = torch.load(file)
    torch.save({key: 2 * value if key == "text_projection" else value for key, value in state.items()}, file)
    second = load_clip_once("ViT-B/16", str(file), cpu)
    assert second.digest != first.digest
    assert torch.equal(second.model.text_projection, 2 * first.model.text_projection)


def test_the_bundled_file_is_the_one_that_was_published_with_it(tmp_path, monkeypatch):
    """One changed weight is another model, whose results would pass for those of the bundled one."""
    content = bytearray(backbone.TINY_FILE.read_bytes())
    content[-5] ^= 1
    changed = tmp_path / "tiny_clip.safetensors"
    changed.write_bytes(content)
    monkeypatch.setattr(backbone, "TINY_FILE", changed)
    with pytest.raises(ValueError, match=f"tiny_clip.safetensors is not the bundled CLIP: .*found {sha256(changed)}"):
        load_clip("tiny")
    assert load_clip("tiny", str(changed)).digest == sha256(changed)  # the user's own choice


def test_a_missing_bundled_file_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "TINY_FILE", tmp_path / "tiny.safetensors")
    with pytest.raises(FileNotFoundError, match=r"tiny\.safetensors[\s\S]*scripts/pretrain_tiny_clip\.py"):
        load_clip("tiny")


def test_another_file_in_place_of_the_bundled_one_is_one_clear_error(files, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(files["weights.safetensors"].read_bytes()[:5000])
    for path in (cut, files["weights.safetensors"], files["torchscript.pt"]):
        with pytest.raises(ValueError, match=r"is not a whole file made by scripts/pretrain_tiny_clip\.py"):
            load_clip("tiny", str(path))
