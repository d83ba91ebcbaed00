"""OpenAI's layout of CLIP's transformers: sequences ``[L, N, D]``, and a causal mask that each text block owns.

``L`` length, ``N`` sequences, ``D`` width of a tower, ``E`` joint width, ``P`` patches. The residual block is
open_clip's, told to take length-first input; around it stands what trainer files of the CoOp family reach into.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import convert_weights_to_fp16
from open_clip.transformer import QuickGELU
from open_clip.transformer import ResidualAttentionBlock as OpenClipBlock
from torch import Tensor, nn

HEAD_WIDTH = 64  # in every model that OpenAI published
# Entries of OpenAI's files that are not weights, and two of ours: see `clip.py: _in_openai_layout`
HEADS = {"visual.transformer": "visual.heads", "transformer": "heads"}
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", *HEADS.values())


class LayerNorm(nn.LayerNorm):
    """Works in the precision of its weights and casts back: a GPU refuses half-precision input to float32 weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ResidualAttentionBlock(OpenClipBlock):
    """open_clip's block on ``[L, N, D]``; ``attn_mask`` ``[L, L]`` is added to the attention logits."""

    def __init__(self, width: int, heads: int, mlp_width: int, attn_mask: Tensor | None = None) -> None:
        super().__init__(width, heads, mlp_width / width, act_layer=QuickGELU, norm_layer=LayerNorm, batch_first=False)
        self.attn_mask = attn_mask  # no buffer: OpenAI's state dicts do not have it

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.attn_mask is not None:
            self.attn_mask = self.attn_mask.to(x.device)  # kept: one copy to the GPU, not one a step
        return super().forward(x, attn_mask=self.attn_mask)


class Transformer(nn.Module):
    """Blocks on ``[L, N, D]``."""

    def __init__(self, width: int, layers: int, heads: int, mlp_width: int, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        blocks = (ResidualAttentionBlock(width, heads, mlp_width, attn_mask) for _ in range(layers))
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """Features ``[B, E]`` of images ``[B, 3, H, W]``."""

    def __init__(self, input_resolution: int, patch_size: int, output_dim: int, **tower: Any) -> None:
        super().__init__()
        width = tower["width"]
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((input_resolution // patch_size) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(**tower)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).permute(2, 0, 1)  # [P, B, D]
        class_row = self.class_embedding.to(patches.dtype).expand(1, patches.shape[1], -1)
        rows = torch.cat([class_row, patches]) + self.positional_embedding.to(patches.dtype).unsqueeze(1)
        return self.ln_post(self.transformer(self.ln_pre(rows))[0]) @ self.proj


class CLIP(nn.Module):
    """Both towers; the weights are left uninitialised, `build_model` fills them.

    Args:
        visual: arguments of ``VisionTransformer`` except ``output_dim``, which is ``embed_dim``.
        tower: arguments of the text tower's ``Transformer`` except the mask.
    """

    def __init__(
        self, embed_dim: int, context_length: int, vocab_size: int, visual: dict[str, int], tower: dict[str, int]
    ) -> None:
        super().__init__()
        width = tower["width"]
        self.context_length, self.vocab_size = context_length, vocab_size
        self.visual = VisionTransformer(output_dim=embed_dim, **visual)
        mask = torch.full((context_length, context_length), float("-inf"), device="cpu").triu_(1)
        self.transformer = Transformer(attn_mask=mask, **tower)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """Features ``[B, E]`` of images ``[B, 3, H, W]``, not normalised."""
        return self.visual(image.to(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        """End-of-text features ``[N, E]`` of token ids ``[N, L]``, not normalised."""
        x = self.token_embedding(text).to(self.dtype) + self.positional_embedding.to(self.dtype)
        x = self.ln_final(self.transformer(x.transpose(0, 1)).transpose(0, 1))
        rows = torch.arange(len(text), device=text.device)
        return x[rows, text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, N]`` of each image over the texts, and their transpose."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()


def convert_weights(model: nn.Module) -> None:
    """Turn all but embeddings, LayerNorm and the temperature into half precision, in place."""
    convert_weights_to_fp16(model)  # convolutions, linear layers and attention
    for module in model.modules():
        for name in ("text_projection", "proj"):
            if isinstance(projection := getattr(module, name, None), nn.Parameter):
                projection.data = projection.data.half()


def build_model(state_dict: Mapping[str, Any], *design: Any, **more_design: Any) -> CLIP:
    """The model that OpenAI's weights belong to: on the CPU, in half precision, in evaluation mode.

    Raises:
        ValueError: not the weights of a CLIP transformer, or a design, which only a forked ``clip`` knows.
    """
    if design or more_design:
        raise ValueError(
            "build_model got a design besides the weights: this file needs the changed copy of CLIP that its method "
            "brings. Put that `clip` folder beside train.py, or write the method on anprompt/clip/encoders.py, which "
            "places tokens at any layer of an unchanged CLIP."
        )
    if missing := {"visual.proj", "visual.conv1.weight", "text_projection"} - state_dict.keys():
        raise ValueError(
            f"expected the weights of a CLIP with a vision transformer (ViT-*) in OpenAI's layout, but "
            f"{', '.join(sorted(missing))} is missing; ResNets are not supported"
        )
    with torch.device("meta"):  # no initialisation, and no draw from the global generator
        model = CLIP(**_sizes(state_dict))
    model.to_empty(device="cpu").load_state_dict({k: v for k, v in state_dict.items() if k not in NOT_WEIGHTS})
    convert_weights(model)
    return model.eval()


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``CLIP``, from the shapes of its weights."""
    patch_size = state["visual.conv1.weight"].shape[-1]
    side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    tower = _tower(state, "visual.transformer")
    return {
        "embed_dim": state["text_projection"].shape[1],
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "visual": {"input_resolution": side * patch_size, "patch_size": patch_size, **tower},
        "tower": _tower(state, "transformer"),
    }


def _tower(state: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    """Width, layers, heads and width of the MLP; the heads are the one size that no shape tells."""
    mlp_width, width = state[f"{prefix}.resblocks.0.mlp.c_fc.weight"].shape
    layers = sum(key.startswith(f"{prefix}.resblocks.") and key.endswith(".ln_1.weight") for key in state)
    if HEADS[prefix] not in state and width % HEAD_WIDTH:
        raise ValueError(
            f"{prefix} is {width} wide, no multiple of {HEAD_WIDTH}: how many heads it has cannot be told from its "
            f'weights. Add an entry "{HEADS[prefix]}" with their number.'
        )
    return {
        "width": width,
        "layers": layers,
        "heads": int(state.get(HEADS[prefix], width // HEAD_WIDTH)),
        "mlp_width": mlp_width,
    }
