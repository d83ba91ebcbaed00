"""The peers' models and objectives against ``peer_oracle.py``: values and every gradient, in double precision."""

from types import SimpleNamespace
from unittest import mock

import open_clip
import pytest
import torch

import trainers
from dassl.config import get_cfg_default
from dassl.engine import TrainerBase
from tests.conftest import backbone_around
from tests.helpers import peer_oracle
from tests.helpers.oracle import mmrl_objective
from trainers import cocoop
from trainers.cocoop import CoCoOp
from trainers.coop import CoOp
from trainers.e2mim import E2MIM
from trainers.kgcoop import KgCoOp
from trainers.maple import MaPLe
from trainers.mmrl import MMRL
from trainers.mmrlpp import MMRLpp, SharedRepresentationLearner
from trainers.promptsrc import PromptSRC
from trainers.zsclip import ZeroshotCLIP, ZeroshotCLIP2

# one, two and many tokens; punctuation at the end, which merges with the full stop; punctuation inside
NAMES = ["dog", "fire_truck", "a very small grey bird", "guess who?", "U.S.", "T-shirt (blue)"]
LABELS = torch.tensor([0, 4, 2])
TOKENIZER = open_clip.tokenizer.SimpleTokenizer()


def plain(name):
    return name.replace("_", " ")


def name_and_tail(name):
    """Ids of the name and of what follows, from the whole text: a full stop may merge with punctuation before it."""
    whole, length = TOKENIZER.encode(f"{plain(name)}."), len(TOKENIZER.encode(plain(name)))
    return whole[:length], whole[length:]


WORDS, TAILS = zip(*map(name_and_tail, NAMES), strict=True)


def ids(template):
    return TOKENIZER([template.replace("{}", plain(name)) for name in NAMES])


def bare_trainer(kind, clip, *options, dataset="OxfordPets", seed=0, names=NAMES):
    """The trainer's own methods around its own model, off its start, so that no gradient vanishes by construction."""
    trainer = kind.__new__(kind)  # no data, no files
    trainer.cfg = get_cfg_default()
    trainers.extend_cfg(trainer.cfg)
    node = f"TRAINER.{kind.__name__.upper()}"
    pairs = [(f"{node}.{key}", value) for key, value in zip(options[::2], options[1::2], strict=True)]
    trainer.cfg.merge_from_list([*sum(pairs, ()), "DATASET.NAME", dataset, "TRAINER.NAME", kind.__name__, "SEED", seed])
    trainer.device, trainer.backbone = torch.device("cpu"), backbone_around(clip)
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=names))
    torch.manual_seed(seed)
    trainer.model = fresh_model(trainer, names)
    if kind is KgCoOp:
        trainer.hand_written = trainer.encode_hand_written()
    if kind is E2MIM:
        trainer.prepare_steps()
    with torch.no_grad():
        for parameter in trainer.model.learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return trainer


def trainer_on(clip, kind, *options, accumulate=1):
    """A trainer in double precision, ready for steps, with its own optimiser and schedule; no data, no files."""
    trainer = kind.__new__(kind)
    TrainerBase.__init__(trainer)
    trainer.cfg = bare_trainer(kind, clip, *options).cfg
    size = ("INPUT.SIZE", (32, 32), "INPUT.PIXEL_MEAN", list(open_clip.OPENAI_DATASET_MEAN))
    norm = ("INPUT.PIXEL_STD", list(open_clip.OPENAI_DATASET_STD), "INPUT.TRANSFORMS", ("normalize",))
    precision = (f"TRAINER.{kind.__name__.upper()}.PREC", "fp32")
    trainer.cfg.merge_from_list([*size, *norm, *precision, "TRAIN.ACCUMULATE", accumulate, "OPTIM.NAME", "sgd"])
    trainer.device, trainer.epoch = torch.device("cpu"), 0
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=NAMES))
    torch.manual_seed(0)
    with mock.patch("anprompt.engine.trainer.load_clip_once", return_value=backbone_around(clip)):
        trainer.build_model()
    trainer.model.learner.double()
    return trainer


def fresh_model(trainer, names=NAMES):
    """The method's own model, without a data set."""
    model = trainer.model_for(trainer.cfg, trainer.backbone, names)
    model.learner.double()
    return model


def leaves(trainer):
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in trainer.model.learner.named_parameters()}


def assert_equal_with_gradients(trainer, images, leaf, slow):
    """``slow`` is the oracle's (loss, logits) of ``leaf``, all of whose gradients must exist."""
    terms, logits = trainer.loss_terms({"images": images, "labels": LABELS})
    loss = sum(terms.values())
    assert torch.allclose(logits, slow[1], rtol=0, atol=1e-9)
    assert torch.allclose(trainer.model(images), slow[1], rtol=0, atol=1e-9)
    assert torch.allclose(loss, slow[0], rtol=0, atol=1e-9)
    trainer.model.zero_grad()
    loss.backward()
    expected = torch.autograd.grad(slow[0], list(leaf.values()))
    for (name, parameter), gradient in zip(trainer.model.learner.named_parameters(), expected, strict=True):
        assert parameter.grad.abs().max() > 0, name
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-9), name
    assert all(parameter.grad is None for parameter in trainer.model.clip.parameters())


# ------------------------------------------------------------------ one method after the other


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("words", ["", "a_photo of a"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coop(clip, oracle, images, position, per_class, words):
    options = ("CLASS_TOKEN_POSITION", position, "CSC", per_class, "N_CTX", 3, "CTX_INIT", words)
    trainer = bare_trainer(CoOp, clip, *options)
    leaf = leaves(trainer)
    assert leaf["ctx"].shape == (*([len(NAMES)] if per_class else []), 4 if words else 3, 32)
    slow = peer_oracle.coop(oracle, leaf["ctx"], WORDS, TAILS, images, LABELS, position)
    assert_equal_with_gradients(trainer, images, leaf, slow)


def test_kgcoop(clip, oracle, images):
    trainer = bare_trainer(KgCoOp, clip, "W", 3.0)
    leaf = leaves(trainer)
    frozen = peer_oracle.normalise(oracle.text(ids("a photo of a {}, a type of pet.")))
    slow = peer_oracle.kgcoop(oracle, leaf["ctx"], WORDS, TAILS, images, LABELS, frozen, weight=3.0)
    assert_equal_with_gradients(trainer, images, leaf, slow)


@pytest.mark.parametrize(
    ("dataset", "own", "sentence"),
    [
        ("DescribableTextures", "", "a photo of a dog, a type of texture."),
        ("DescribableTextures", "{} cloth.", "dog cloth."),
        ("OxfordPets", "", "a photo of a dog, a type of pet."),
    ],
)
def test_hand_written_sentence_of_kgcoop_is_its_authors(clip, dataset, own, sentence):
    trainer = bare_trainer(KgCoOp, clip, dataset=dataset)
    trainer.cfg.DATASET.TEMPLATE = own
    assert trainer.hand_written_prompts()[0] == sentence


def test_kgcoop_pulls_eight_times_by_default(clip, images):
    batch = {"images": images, "labels": LABELS}
    terms = [bare_trainer(KgCoOp, clip, *options).loss_terms(batch)[0] for options in ((), ("W", 1.0))]
    assert torch.allclose(terms[0]["kg"], 8 * terms[1]["kg"], rtol=1e-12)


@pytest.mark.parametrize("at_a_time", [512, 13, 6, 1])
def test_cocoop_whole_and_in_chunks(clip, oracle, images, monkeypatch, at_a_time):
    """All three images at once, two and one, one by one."""
    monkeypatch.setattr(cocoop, "REDUCTION", 4)  # the small CLIP would get a meta-net of one hidden number
    monkeypatch.setattr(cocoop, "MAX_PROMPTS", at_a_time)
    trainer = bare_trainer(CoCoOp, clip)
    leaf = leaves(trainer)
    layers = [(leaf[f"meta_net.linear{i}.weight"], leaf[f"meta_net.linear{i}.bias"]) for i in (1, 2)]
    hidden = peer_oracle.plain_image(oracle, images) @ layers[0][0].T + layers[0][1]
    assert (hidden > 0).any() and (hidden < 0).any()  # the ReLU matters
    slow = peer_oracle.cocoop(oracle, leaf["ctx"], *layers, WORDS, TAILS, images, LABELS)
    assert_equal_with_gradients(trainer, images, leaf, slow)


def test_cocoop_runs_no_more_images_at_a_time_than_it_says(clip, images, monkeypatch):
    """Nor keeps more of their activations: chunks run a second time in the backward pass, a single one does not."""
    trainer, sizes = bare_trainer(CoCoOp, clip), []
    encode = trainer.model.encode_chunk
    monkeypatch.setattr(trainer.model, "encode_chunk", lambda part: (sizes.append(len(part)), encode(part))[1])

    def sizes_of_one_step(at_a_time):
        monkeypatch.setattr(cocoop, "MAX_PROMPTS", at_a_time)
        sizes.clear()
        trainer.model(images).sum().backward()
        return sorted(sizes)

    classes = len(WORDS)
    assert sizes_of_one_step(1) == [1] * 6  # never less than an image
    assert sizes_of_one_step(2 * classes + 1) == [1, 1, 2, 2]
    assert sizes_of_one_step(3 * classes) == [3]
    with torch.no_grad():
        monkeypatch.setattr(cocoop, "MAX_PROMPTS", classes)
        sizes.clear()
        trainer.model(images)
        assert sizes == [1, 1, 1]


def maple_arguments(leaf, depth):
    deep = [leaf[f"compound_prompts_text.{i}"] for i in range(depth - 1)]
    names = ["proj", *(f"compound_prompt_projections.{i}" for i in range(depth - 1))]
    return leaf["ctx"], deep, [(leaf[f"{name}.weight"], leaf[f"{name}.bias"]) for name in names]


@pytest.mark.parametrize(("depth", "count", "words"), [(3, 2, "a photo of a"), (1, 2, "a photo of a"), (4, 3, "")])
def test_maple(clip, oracle, images, depth, count, words):
    trainer = bare_trainer(MaPLe, clip, "PROMPT_DEPTH", depth, "N_CTX", count, "CTX_INIT", words)
    leaf = leaves(trainer)
    remaining = TOKENIZER.encode(words)[count:]
    arguments = maple_arguments(leaf, depth)
    slow = peer_oracle.maple(oracle, *arguments, WORDS, TAILS, remaining, images, LABELS)
    assert_equal_with_gradients(trainer, images, leaf, slow)


def promptsrc_arguments(leaf, text_depth, vision_depth):
    text = [leaf["ctx"], *(leaf[f"deep_text.{i}"] for i in range(text_depth - 1))]
    return text, [leaf[f"vision.{i}"] for i in range(vision_depth)]


@pytest.mark.parametrize(("text_depth", "vision_depth"), [(3, 3), (1, 4), (4, 1)])
def test_promptsrc(clip, oracle, images, text_depth, vision_depth):
    options = ("PROMPT_DEPTH_TEXT", text_depth, "PROMPT_DEPTH_VISION", vision_depth, "N_CTX_VISION", 2)
    trainer = bare_trainer(PromptSRC, clip, *options)
    trainer.frozen_text = torch.nn.functional.normalize(
        torch.randn(len(NAMES), 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    leaf = leaves(trainer)
    prompts = promptsrc_arguments(leaf, text_depth, vision_depth)
    slow = peer_oracle.promptsrc(oracle, *prompts, WORDS, TAILS, trainer.frozen_text, images, LABELS)
    assert_equal_with_gradients(trainer, images, leaf, slow)


def test_promptsrc_averages_raw_text_features_of_sixty_templates(clip, oracle):
    trainer = bare_trainer(PromptSRC, clip, "PROMPT_DEPTH_TEXT", 2, "PROMPT_DEPTH_VISION", 2)
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:60]]
    expected = peer_oracle.mean_text(oracle, [ids(template) for template in templates])
    assert torch.allclose(trainer.average_templates(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dim", [512, 40])
def test_mmrl(clip, oracle, images, dim):
    options = ("REP_LAYERS", [3, 4], "REG_WEIGHT", 0.5, *(("REP_DIM", dim) if dim != 512 else ()))
    trainer = bare_trainer(MMRL, clip, *options)
    leaf = leaves(trainer)
    assert leaf["tokens"].shape == (5, dim)
    prompts = ids("a photo of a {}, a type of pet.")
    loss = mmrl_objective(oracle, leaf, prompts, images, LABELS, (3, 4), alpha=0.7, reg_w=0.5)
    assert_equal_with_gradients(trainer, images, leaf, (loss, mmrl_logits(oracle, leaf, prompts, images)[0]))


def mmrl_logits(oracle, leaf, prompts, images):
    """Logits of the class and the representation head."""

    def tokens(tower):
        maps = [(leaf[f"{tower}_aligner.maps.{i}.weight"], leaf[f"{tower}_aligner.maps.{i}.bias"]) for i in (0, 1)]
        return {layer: leaf["tokens"] @ weight.T + bias for layer, (weight, bias) in zip((3, 4), maps, strict=True)}

    text = peer_oracle.normalise(oracle.text(prompts, tokens("text")))
    class_row, token_rows = oracle.image(images, tokens("vision"))
    features = class_row @ oracle.weights["visual.proj"], token_rows.mean(1) @ leaf["prototype_proj.weight"]
    return [peer_oracle.scale(oracle) * peer_oracle.normalise(feature) @ text.T for feature in features]


def test_heads_of_mmrl(clip, oracle, images):
    trainer = bare_trainer(MMRL, clip, "REP_LAYERS", [3, 4])
    expected = mmrl_logits(oracle, leaves(trainer), ids("a photo of a {}, a type of pet."), images)
    heads = trainer.model.head_logits(images)
    assert torch.allclose(heads["class"], expected[0], rtol=0, atol=1e-9)
    assert torch.allclose(heads["prototype"], expected[1], rtol=0, atol=1e-9)
    assert torch.allclose(heads["fused"], 0.7 * expected[0] + 0.3 * expected[1], rtol=0, atol=1e-9)


def test_mmrl_takes_the_authors_values_of_the_dataset(clip):
    trainer = bare_trainer(MMRL, clip, "REP_LAYERS", [3, 4], dataset="EuroSAT")
    assert (trainer.values.REG_WEIGHT, trainer.values.REP_DIM) == (0.01, 2048)
    trainer = bare_trainer(MMRL, clip, "REP_LAYERS", [3, 4], dataset="StanfordCars")
    assert (trainer.values.REG_WEIGHT, trainer.model.learner.tokens.shape[1]) == (7.0, 512)


@pytest.mark.parametrize(("dim", "beta", "layers"), [(512, 0.9, (3, 4)), (40, 0.3, (2, 3, 4)), (24, 1.0, (4,))])
def test_mmrlpp(clip, oracle, images, dim, beta, layers):
    options = ("REP_LAYERS", list(layers), "REG_WEIGHT", 0.5, "REP_DIM", dim, "BETA", beta)
    trainer = bare_trainer(MMRLpp, clip, *options)
    leaf = leaves(trainer)
    assert leaf["tokens"].shape == (5, dim)
    prompts = ids("a photo of a {}, a type of pet.")
    slow = peer_oracle.mmrlpp(oracle, leaf, prompts, images, LABELS, layers, beta=beta, alpha=0.7, weight=0.5)
    assert_equal_with_gradients(trainer, images, leaf, slow)
    heads = trainer.model.head_logits(images)
    assert torch.allclose(heads["prototype"], slow[2], rtol=0, atol=1e-9)
    assert torch.allclose(heads["fused"], 0.7 * slow[1] + 0.3 * slow[2], rtol=0, atol=1e-9)


def test_mmrlpp_starts_with_the_same_map_in_every_layer(clip):
    torch.manual_seed(0)
    learner = SharedRepresentationLearner(clip, 5, 512, 3)
    for tokens in (learner.text_tokens(), learner.vision_tokens()):
        assert len(tokens) == 3 and all(torch.equal(tokens[0], other) for other in tokens[1:])
    assert torch.equal(learner.prototype_proj.matrix(), clip.visual.proj.float())


@pytest.mark.parametrize(
    ("dataset", "beta", "weight"),
    [("EuroSAT", 0.2, 0.01), ("Food101", 0.1, 1.0), ("ImageNet", 0.9, 0.2), ("X", 0.9, 1.0)],
)
def test_mmrlpp_takes_the_authors_values_of_the_dataset(clip, dataset, beta, weight):
    trainer = bare_trainer(MMRLpp, clip, "REP_LAYERS", [3, 4], dataset=dataset)
    assert (beta, weight) == (trainer.values.BETA, trainer.values.REG_WEIGHT)
    assert trainer.model.beta == trainer.model.text_beta == beta


SEVEN = [
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "dataset", "templates"),
    [
        (ZeroshotCLIP, "OxfordPets", ["a photo of a {}, a type of pet."]),
        (ZeroshotCLIP, "Shapes", ["a photo of a {}."]),
        (ZeroshotCLIP2, "OxfordPets", [*SEVEN, "a photo of a {}, a type of pet."]),
        (ZeroshotCLIP2, "ImageNet", SEVEN),
    ],
)
def test_zero_shot_averages_unit_features(clip, oracle, images, kind, dataset, templates):
    trainer = bare_trainer(kind, clip, dataset=dataset)
    features = [peer_oracle.normalise(oracle.text(ids(template))) for template in templates]
    text = peer_oracle.normalise(sum(features) / len(features))
    expected = peer_oracle.scale(oracle) * peer_oracle.plain_image(oracle, images) @ text.T
    assert torch.allclose(trainer.model(images), expected, rtol=0, atol=1e-9)
    assert not list(trainer.model.learner.parameters())


# ------------------------------------------------------------------ where they start, and what depends on what


def zero_shot_logits(clip, images):
    image, text, scale = clip(images, ids("a photo of a {}."))
    return scale * image @ text.T


@pytest.mark.parametrize("kind", [CoOp, KgCoOp, E2MIM])
@pytest.mark.parametrize("words", ["a photo of a", "a_photo_of_a"])
def test_context_from_words_starts_as_zero_shot_clip(clip, images, kind, words):
    trainer = bare_trainer(kind, clip, "CTX_INIT", words)
    with torch.no_grad():
        trainer.model.learner.load_state_dict(fresh_model(trainer).learner.state_dict())
    assert torch.allclose(trainer.model(images), zero_shot_logits(clip, images), rtol=0, atol=1e-9)


def test_cocoop_with_a_silent_meta_net_is_zero_shot_clip(clip, images):
    trainer = bare_trainer(CoCoOp, clip)
    trainer.model = fresh_model(trainer)
    for parameter in trainer.model.learner.meta_net.linear2.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.allclose(trainer.model(images), zero_shot_logits(clip, images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [CoOp, KgCoOp, E2MIM, CoCoOp, MaPLe, PromptSRC])
def test_context_starts_from_the_embeddings_of_the_words(clip, kind):
    deep = {MaPLe: ("PROMPT_DEPTH", 2), PromptSRC: ("PROMPT_DEPTH_TEXT", 2, "PROMPT_DEPTH_VISION", 2)}
    trainer = bare_trainer(kind, clip, "CTX_INIT", "a photo of a", *deep.get(kind, ()))
    start = trainer.model_for(trainer.cfg, trainer.backbone, NAMES).learner.ctx
    words = TOKENIZER.encode("a photo of a")[: 2 if kind is MaPLe else 4]
    assert torch.equal(start, clip.token_embedding.weight[torch.tensor(words)])
    assert start.data_ptr() != clip.token_embedding.weight.data_ptr()


@pytest.mark.parametrize("kind", [CoOp, KgCoOp, E2MIM, CoCoOp, MaPLe, PromptSRC])
def test_class_order_permutes_logits(clip, images, kind):
    options = {"PROMPT_DEPTH": 2} if kind is MaPLe else {}
    options = {"PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2} if kind is PromptSRC else options
    flat = [word for pair in options.items() for word in pair]
    order = [3, 0, 5, 2, 4, 1]
    one = bare_trainer(kind, clip, *flat)
    other = bare_trainer(kind, clip, *flat, names=[NAMES[i] for i in order])
    assert torch.allclose(other.model(images), one.model(images)[:, order], rtol=0, atol=1e-9)
