"""The prompted CLIP and its objective against the oracle, and the invariants of its parts."""

from types import SimpleNamespace

import pytest
import torch

from anprompt.clip.encoders import Tokens, text_features, vision_rows, vision_trunk
from anprompt.prompts.deep_tokens import DeepTokenCLIP, SharedAligner
from anprompt.prompts.losses import head_cross_entropy, similarity_loss, weak_alignment_loss
from dassl.config import get_cfg_default
from tests.conftest import backbone_around, small_clip
from tests.helpers.oracle import Oracle, anprompt_objective, mmrl_objective
from trainers.anprompt import SETTINGS, ANPrompt, TokenLearner
from trainers.mmrlpp import MMRLpp, SharedRepresentationLearner


def replace(values, **changes):
    """``TRAINER.ANPROMPT`` with other values: ``LOSS_WA_W`` is LOSS.WA_W."""
    values = values.clone()
    for name, value in changes.items():
        node = next((key for key in ("NOISE_PROMPT", "LOSS") if name.startswith(f"{key}_")), None)
        (values[node] if node else values)[name.removeprefix(f"{node}_")] = value
    return values


def defaults():
    cfg = get_cfg_default()
    SETTINGS.extend_cfg(cfg)
    return cfg.TRAINER.ANPROMPT


PAPER = replace(defaults(), N_TOKENS=3, LAYERS=[3, 4], BETA=0.6, LOSS_SIM_W=0.5)
EARLY_RELEASE = replace(PAPER, NOISE_PROMPT_SOURCE="learnable")
MMRL = replace(
    PAPER, VISION_ALIGNER="linear", PROTOTYPE_PROJ="full", NOISE_PROMPT_SOURCE="off", BETA=1.0, LOSS_WA_W=0.0
)
MMRLPP = replace(PAPER, TEXT_ALIGNER="shared", TEXT_BETA=0.6, REP_DIM=512, NOISE_PROMPT_SOURCE="off", LOSS_WA_W=0.0)
READINGS = {
    "paper": PAPER,
    "paper, linear aligner, all layers": replace(PAPER, VISION_ALIGNER="linear", LAYERS=[1, 2, 3, 4], N_TOKENS=1),
    "early release": EARLY_RELEASE,
    "no noise prompts": replace(PAPER, NOISE_PROMPT_SOURCE="off", BETA=1.0),
    "mmrl": MMRL,
    "mmrl++": MMRLPP,
    "paper, shared text map, own width": replace(PAPER, TEXT_ALIGNER="shared", TEXT_BETA=0.2, REP_DIM=40),
    "early release, own width": replace(EARLY_RELEASE, REP_DIM=40),
}


def doubled(settings, clip, seed=0):
    """A learner in double precision, off its start, so that no gradient vanishes by construction."""
    torch.manual_seed(seed)
    learner = TokenLearner(clip, settings).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if settings.NOISE_PROMPT.SOURCE == "cluster":
            learner.noise_prompts.copy_(0.3 * torch.randn_like(learner.noise_prompts))
    return learner


def around(clip, learner, settings):
    weights = settings.LOSS.ALPHA, settings.BETA, settings.TEXT_BETA
    return DeepTokenCLIP(backbone_around(clip), learner, tuple(settings.LAYERS), *weights)


def prompted(settings, clip, ids, seed=0):
    model = around(clip, doubled(settings, clip, seed), settings)
    model.set_prompts(ids)
    return model


def weak_noise(classes=5):
    noise = torch.randn(classes, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.normalize(noise, dim=-1)


def loss_terms(model, settings, images, labels):
    """The trainer's own code on this model, without a trainer around it."""
    trainer = SimpleNamespace(model=model, values=settings, weak_noise=weak_noise())
    return ANPrompt.loss_terms(trainer, {"images": images, "labels": labels})


def objective(model, settings, images, labels):
    terms, logits = loss_terms(model, settings, images, labels)
    return sum(terms.values()), logits


def leaves(learner):
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in learner.named_parameters()}


LABELS = torch.tensor([0, 3, 1])


@pytest.mark.parametrize("name", READINGS)
def test_objective_and_all_gradients_equal_the_oracle(clip, oracle, prompts, images, name):
    settings = READINGS[name]
    model = prompted(settings, clip, prompts)
    loss, logits = objective(model, settings, images, LABELS)
    copies = leaves(model.learner)
    slow, class_logits, _ = anprompt_objective(
        oracle, {**copies, **dict(model.learner.named_buffers())}, prompts, images, LABELS, weak_noise(),
        settings.LAYERS, beta=settings.BETA, coef=settings.NOISE_PROMPT.COEF, alpha=settings.LOSS.ALPHA,
        sim_w=settings.LOSS.SIM_W, wa_w=settings.LOSS.WA_W, text_beta=settings.TEXT_BETA,
    )  # fmt: skip
    assert torch.allclose(logits, class_logits, rtol=0, atol=1e-9)
    assert torch.allclose(loss, slow, rtol=0, atol=1e-9)
    loss.backward()
    expected = torch.autograd.grad(slow, list(copies.values()))
    for (parameter_name, parameter), gradient in zip(model.learner.named_parameters(), expected, strict=True):
        assert parameter.grad.abs().max() > 0, parameter_name
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-9), parameter_name


def test_extras_off_is_mmrl(clip, oracle, prompts, images):
    model = prompted(MMRL, clip, prompts)
    loss, _ = objective(model, MMRL, images, LABELS)
    copies = leaves(model.learner)
    slow = mmrl_objective(
        oracle, copies, prompts, images, LABELS, MMRL.LAYERS, alpha=MMRL.LOSS.ALPHA, reg_w=MMRL.LOSS.SIM_W
    )
    assert torch.allclose(loss, slow, rtol=0, atol=1e-9)
    loss.backward()
    expected = torch.autograd.grad(slow, list(copies.values()))
    for parameter, gradient in zip(model.learner.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-9)


def test_extras_off_with_shared_maps_and_text_beta_is_mmrlpp(clip, prompts, images):
    """The same learnables, and with equal ones the same terms, outputs and gradients, to the last bit."""
    model = prompted(MMRLPP, clip, prompts)
    learner = SharedRepresentationLearner(clip, MMRLPP.N_TOKENS, MMRLPP.REP_DIM, len(MMRLPP.LAYERS)).double()
    learner.load_state_dict(model.learner.state_dict())
    other = DeepTokenCLIP(model.backbone, learner, tuple(MMRLPP.LAYERS), MMRLPP.LOSS.ALPHA, MMRLPP.BETA, MMRLPP.BETA)
    other.set_prompts(prompts)
    trainer = SimpleNamespace(model=other, values=SimpleNamespace(REG_WEIGHT=MMRLPP.LOSS.SIM_W))
    terms, logits = MMRLpp.loss_terms(trainer, {"images": images, "labels": LABELS})
    own_terms, own_logits = loss_terms(model, MMRLPP, images, LABELS)
    assert terms == own_terms and torch.equal(logits, own_logits)
    sum(terms.values()).backward()
    sum(own_terms.values()).backward()
    for parameter, own in zip(learner.parameters(), model.learner.parameters(), strict=True):
        assert torch.equal(parameter.grad, own.grad)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MMRL, 4_992_256),
        (MMRLPP, 813_312),
        (EARLY_RELEASE, 5_117_952),
        (replace(PAPER, VISION_ALIGNER="linear"), 9_277_440),
    ],
)
def test_parameter_counts_at_vit_b16_size(settings, expected):
    class Shapes(torch.nn.Module):  # only what a learner reads of CLIP ViT-B/16
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Module()
            self.visual.proj = torch.nn.Parameter(torch.zeros(768, 512))
            self.ln_final = torch.nn.LayerNorm(512)

    learner = TokenLearner(Shapes(), replace(settings, N_TOKENS=5, LAYERS=[*range(6, 13)]))
    assert sum(parameter.numel() for parameter in learner.parameters()) == expected


def test_start_of_the_paper_reading(clip):
    """At step 0 tokens are equal in all layers and the prototype projection is CLIP's own."""
    learner = TokenLearner(clip, PAPER)
    for tokens in (learner.text_tokens(), learner.vision_tokens()):
        assert torch.allclose(tokens[0], tokens[1], rtol=0, atol=1e-6)
    assert torch.equal(learner.prototype_proj.matrix(), clip.visual.proj)


def test_start_of_the_early_release(clip):
    """V_i = W (R + 0.2 R') + 1.2 b for every layer: both vision branches start from one map."""
    learner = TokenLearner(clip, EARLY_RELEASE)
    weight, bias = learner.vision_aligner.weight, learner.vision_aligner.bias[0]
    expected = (learner.tokens + 0.2 * learner.noise_prompts) @ weight.T + 1.2 * bias
    for tokens in learner.vision_tokens():
        assert torch.allclose(tokens, expected, rtol=0, atol=1e-6)
    assert learner.text_noise_aligner is None


def test_joining_in_closed_form():
    """W = I, b = 1, R = 1, R' = 2, gamma = 0.2 give 2.6."""
    clip = small_clip()
    learner = TokenLearner(clip, replace(EARLY_RELEASE, VISION_ALIGNER="linear"))
    for aligner in (learner.vision_aligner, learner.vision_noise_aligner):
        for linear in aligner.maps:
            torch.nn.init.eye_(linear.weight), torch.nn.init.ones_(linear.bias)
    torch.nn.init.ones_(learner.tokens), torch.nn.init.constant_(learner.noise_prompts, 2.0)
    assert torch.allclose(learner.vision_tokens()[0][:, :24], torch.tensor(2.6))


def test_residual_of_the_shared_aligner_starts_to_learn_from_its_zero_factor():
    aligner = SharedAligner(torch.nn.Linear(6, 8), layers=2)
    sum(tokens.square().sum() for tokens in aligner(torch.randn(3, 6))).backward()
    assert aligner.up.grad.abs().max() == 0
    assert aligner.down.grad.abs().max() > 0


def test_without_tokens_the_class_head_is_zero_shot_clip(clip, prompts, images):
    model = prompted(replace(PAPER, N_TOKENS=0, NOISE_PROMPT_SOURCE="off"), clip, prompts)
    class_token = model.encode_image(images).class_token
    image, text, scale = clip(images, prompts)
    assert torch.allclose(model.logits(class_token, model.encode_text()), scale * image @ text.T, rtol=0, atol=1e-9)


def test_the_frozen_features_of_the_losses_are_zero_shot_clip(clip, prompts, images):
    model = prompted(PAPER, clip, prompts)
    image, text, _ = clip(images, prompts)
    assert torch.allclose(model.encode_image(images, with_frozen=True).frozen, image, rtol=0, atol=1e-9)
    assert torch.allclose(model.classes.zero_shot, text, rtol=0, atol=1e-9)


def test_what_does_not_depend_on_what(clip, prompts, images):
    """Class logits ignore the prototype projection; the prototype ignores the text tokens."""
    model = prompted(PAPER, clip, prompts)
    text, features = model.encode_text(), model.encode_image(images)
    with torch.no_grad():
        model.learner.prototype_proj.down.add_(1.0)
        assert torch.equal(model.encode_image(images).class_token, features.class_token)
        assert not torch.allclose(model.encode_image(images).prototype, features.prototype)
        features = model.encode_image(images)
        model.learner.text_aligner.maps[0].weight.mul_(-3.0)  # a constant shift would vanish in LayerNorm
    assert torch.equal(model.encode_image(images).prototype, features.prototype)
    assert not torch.allclose(model.encode_text(), text)


def test_class_order_permutes_rows(clip, prompts):
    model = prompted(PAPER, clip, prompts)
    text = model.encode_text()
    order = [3, 0, 4, 2, 1]
    model.set_prompts(prompts[order])
    assert torch.allclose(model.encode_text(), text[order], rtol=0, atol=1e-12)


def test_image_features_ignore_the_order_of_tokens(clip, prompts, images):
    model = prompted(replace(PAPER, NOISE_PROMPT_SOURCE="off"), clip, prompts)
    before = model.encode_image(images)
    with torch.no_grad():
        model.learner.tokens.copy_(model.learner.tokens[[2, 0, 1]])
    after = model.encode_image(images)
    assert torch.allclose(before.class_token, after.class_token, rtol=0, atol=1e-12)
    assert torch.allclose(before.prototype, after.prototype, rtol=0, atol=1e-12)


def test_tokens_sit_in_the_last_layers_of_a_deeper_vision_tower(prompts, images):
    """As in ViT-L/14: 12 text layers, 24 vision layers."""
    clip = small_clip(depth=2, vision_depth=4)
    oracle = Oracle(clip, text_heads=4, vision_heads=3, quick=True)
    settings = replace(PAPER, LAYERS=[2], BETA=1.0)
    model = around(clip, doubled(settings, clip), settings)
    assert model.vision_layers == (4,)
    model.set_prompts(prompts)
    class_row, _ = oracle.image(images, {4: model.learner.vision_tokens()[0]})
    expected = torch.nn.functional.normalize(class_row @ clip.visual.proj, dim=-1)
    assert torch.allclose(model.encode_image(images).class_token, expected, rtol=0, atol=1e-9)


def test_the_trunk_shared_with_the_frozen_pass_changes_neither(clip, prompts, images):
    model = prompted(PAPER, clip, prompts)
    shared = model.encode_image(images, with_frozen=True)
    assert torch.equal(shared.class_token, model.encode_image(images).class_token)
    alone = vision_rows(clip, vision_trunk(clip, images)).class_row @ clip.visual.proj
    assert torch.allclose(shared.frozen, torch.nn.functional.normalize(alone, dim=-1), rtol=0, atol=1e-12)


def test_the_text_trunk_computed_once_changes_nothing(clip, prompts):
    from anprompt.clip.encoders import text_trunk

    model = prompted(PAPER, clip, prompts)
    tokens = dict(zip((3, 4), model.learner.text_tokens(), strict=True))
    alone = text_features(clip, text_trunk(clip, prompts, 3), Tokens(tokens, insert=True))
    assert torch.equal(model.encode_text(), torch.nn.functional.normalize(alone, dim=-1))


def test_terms_are_the_documented_functions(clip, prompts, images):
    model = prompted(PAPER, clip, prompts)
    terms, logits = loss_terms(model, PAPER, images, LABELS)
    text, features = model.encode_text(), model.encode_image(images, with_frozen=True)
    prototype = model.logits(features.prototype, text)
    noise = model.logits(features.prototype, weak_noise())
    assert terms["ce"].item() == pytest.approx(head_cross_entropy(logits, prototype, LABELS, 0.7).item())
    expected = 0.5 * similarity_loss(features.class_token, features.frozen)
    assert terms["sim_image"].item() == pytest.approx(expected.item())
    assert terms["sim_text"].item() == pytest.approx(0.5 * similarity_loss(text, model.classes.zero_shot).item())
    assert terms["wa"].item() == pytest.approx(weak_alignment_loss(logits, noise).item())


def test_frozen_weights_and_noise_prompts_get_no_gradient(clip, prompts, images):
    model = prompted(PAPER, clip, prompts)
    objective(model, PAPER, images, LABELS)[0].backward()
    assert not model.learner.noise_prompts.requires_grad and model.learner.noise_prompts.grad is None
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def test_checkpoint_keys_are_learnables_and_noise_prompts_only(clip):
    learner = TokenLearner(clip, PAPER)
    assert set(learner.state_dict()) == {name for name, _ in learner.named_parameters()} | {"noise_prompts"}


def test_per_dataset_values_of_the_early_release():
    names = "ImageNet Caltech101 OxfordPets StanfordCars OxfordFlowers Food101 FGVCAircraft SUN397 DescribableTextures"
    betas = (0.9, 0.6, 0.7, 0.7, 0.4, 0.1, 0.9, 0.5, 0.9, 0.2, 0.9)
    weights = (0.5, 0.5, 0.2, 7.0, 4.0, 5.0, 6.0, 6.0, 6.0, 0.001, 3.0)
    table = dict(defaults().PER_DATASET)
    assert table.pop("default") == {"BETA": 0.9, "SIM_W": 0.5}
    assert list(table) == [*names.split(), "EuroSAT", "UCF101"]
    assert tuple(row["BETA"] for row in table.values()) == betas
    assert tuple(row["SIM_W"] for row in table.values()) == weights
