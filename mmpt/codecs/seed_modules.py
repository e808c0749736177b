"""SEED-2's networks: ids to the image embedding that a picture is painted from, and a picture to its ids.

Modules bear the names of the published state dicts, so that these load strictly; sizes are read off the tensors.

    encode  picture 224 px -> EVA-ViT-g -> ln_vision -> causal Q-Former, 32 queries -> encode_task_layer
                -> nearest of 8192
    decode  ids -> codebook 8192 x 32 -> decode_task_layer -> + pos_embed_image -> 4 blocks -> image_down
                -> distill_image_proj: 1024 numbers, in CLIP ViT-H's image space
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD, VISION_HEAD = 64, 88
"""Numbers a head sees: 768 / 12 in the decoder and the Q-Former, 1408 / 16 in EVA."""


PUBLISHED_VISION = (1408, 39)
"""Width and used depth of EVA-CLIP-g."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the two state dicts; the comments give the published ones."""

    codebook: int  # 8192
    code_dim: int  # 32
    queries: int  # 32: tokens of a picture
    width: int  # 768
    depth: int  # 4
    down: tuple[int, ...]  # 256, 128, 32
    embedding: int  # 1024

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Sizes:
        """Raises KeyError where a tensor that tells a size is missing."""
        codebook, code_dim = state["quantize.embedding.weight"].shape
        _, queries, width = state["pos_embed_image"].shape
        down = tuple(state[f"image_down.{i}.weight"].shape[0] for i in (0, 2, 4))
        return Sizes(
            codebook,
            code_dim,
            queries,
            width,
            _count(state, "blocks_image."),
            down,
            state["distill_image_proj.weight"].shape[0],
        )


class SeedDecoder(nn.Module):
    """Ids to image embeddings."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(sizes.codebook, sizes.code_dim)
        self.decode_task_layer = _tanh_between(sizes.code_dim, sizes.code_dim, sizes.width)
        self.pos_embed_image = nn.Parameter(torch.zeros(1, sizes.queries, sizes.width))
        self.blocks_image = nn.ModuleList(DecoderBlock(sizes.width) for _ in range(sizes.depth))
        steps = (sizes.width, *sizes.down)
        linear = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(steps)]
        self.image_down = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
        self.distill_image_proj = nn.Linear(sizes.queries * sizes.down[-1], sizes.embedding)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, embedding] of ids [B, queries]."""
        hidden = self.decode_task_layer(self.quantize.embedding(ids)) + self.pos_embed_image
        for block in self.blocks_image:
            hidden = block(hidden)
        return self.distill_image_proj(self.image_down(hidden).flatten(1))


class DecoderBlock(nn.Module):
    """A transformer block that sees all positions, normalised before each half."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = _mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _heads(self.attn.qkv(self.norm1(x)), HEAD)
        x = x + self.attn.proj(_joined(F.scaled_dot_product_attention(q, k, v)))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class SeedEncoder(nn.Module):
    """Pictures to ids. The vision tower's tensors lie in a file of their own."""

    def __init__(self, sizes: Sizes, state: Mapping[str, Tensor], vision: Mapping[str, Tensor]):
        super().__init__()
        layers = _count(state, "Qformer.bert.encoder.layer.")
        inner = state["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"].shape[0]
        self.visual_encoder = EvaVit(vision)
        self.ln_vision = nn.LayerNorm(self.visual_encoder.width)
        self.query_tokens = nn.Parameter(torch.zeros(1, sizes.queries, sizes.width))
        bert = nn.Module()
        bert.embeddings = nn.Module()
        bert.embeddings.LayerNorm = nn.LayerNorm(sizes.width, eps=1e-12)
        bert.encoder = nn.Module()
        bert.encoder.layer = nn.ModuleList(
            QformerLayer(sizes.width, inner, self.visual_encoder.width if i % 2 == 0 else None) for i in range(layers)
        )
        self.Qformer = nn.Module()
        self.Qformer.bert = bert
        self.encode_task_layer = _tanh_between(sizes.width, sizes.width, sizes.code_dim)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(sizes.codebook, sizes.code_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """int64 [B, queries] of normalised pixels [B, 3, S, S]."""
        seen = self.ln_vision(self.visual_encoder(pixels))
        hidden = self.Qformer.bert.embeddings.LayerNorm(self.query_tokens.expand(len(pixels), -1, -1))
        for layer in self.Qformer.bert.encoder.layer:
            hidden = layer(hidden, seen)
        vectors, codes = self.encode_task_layer(hidden), self.quantize.embedding.weight
        return (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(2)  # squared distance, less what all share


class QformerLayer(nn.Module):
    """BERT's layer over the queries: causal self-attention, in every second one attention to the picture."""

    def __init__(self, width: int, inner: int, seen_width: int | None):
        super().__init__()
        self.attention = _bert_attention(width, width)
        if seen_width is not None:
            self.crossattention = _bert_attention(width, seen_width)
        self.intermediate_query, self.output_query = nn.Module(), nn.Module()
        self.intermediate_query.dense = nn.Linear(width, inner)
        self.output_query.dense = nn.Linear(inner, width)
        self.output_query.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = _attend(self.attention, x, x, causal=True)
        if hasattr(self, "crossattention"):
            x = _attend(self.crossattention, x, seen, causal=False)
        wide = F.gelu(self.intermediate_query.dense(x))
        return self.output_query.LayerNorm(self.output_query.dense(wide) + x)


class EvaVit(nn.Module):
    """EVA-CLIP's ViT-g/14 without its last block and norm, as BLIP-2 cut it; sizes from its state dict."""

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        self.width, _, self.patch, _ = state["patch_embed.proj.weight"].shape
        places = state["pos_embed"].shape[1]
        self.image_size = round((places - 1) ** 0.5) * self.patch
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, self.width, self.patch, stride=self.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, places, self.width))
        inner = state["blocks.0.mlp.fc1.weight"].shape[0]
        self.blocks = nn.ModuleList(EvaBlock(self.width, inner) for _ in range(vision_depth(state)))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 1 + patches, width] of pixels [B, 3, S, S]."""
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class EvaBlock(nn.Module):
    """Like DecoderBlock, with biases on queries and values alone."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn.q_bias = nn.Parameter(torch.zeros(width))
        self.attn.v_bias = nn.Parameter(torch.zeros(width))
        self.mlp = _mlp(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        attn = self.attn
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        q, k, v = _heads(F.linear(self.norm1(x), attn.qkv.weight, bias), VISION_HEAD)
        x = x + attn.proj(_joined(F.scaled_dot_product_attention(q, k, v)))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


def vision_depth(state: Mapping[str, Tensor]) -> int:
    """Blocks that BLIP-2 uses: all but the last. Of the published file 39, whether or not it still has the 40th."""
    if state["patch_embed.proj.weight"].shape[0] == PUBLISHED_VISION[0]:
        return PUBLISHED_VISION[1]
    return _count(state, "blocks.") - 1


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)}
    return max(numbers) + 1 if numbers else 0


def _tanh_between(width: int, middle: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, middle), nn.Tanh(), nn.Linear(middle, out))


def _mlp(width: int, inner: int) -> nn.Module:
    mlp = nn.Module()
    mlp.fc1, mlp.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
    return mlp


def _bert_attention(width: int, seen_width: int) -> nn.Module:
    inner, output, outer = nn.Module(), nn.Module(), nn.Module()
    inner.query, inner.key, inner.value = (nn.Linear(w, width) for w in (width, seen_width, seen_width))
    output.dense, output.LayerNorm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
    outer.add_module("self", inner)
    outer.output = output
    return outer


def _attend(attention: nn.Module, x: Tensor, seen: Tensor, causal: bool) -> Tensor:
    inner = attention.self
    q, k, v = (
        one.unflatten(2, (-1, HEAD)).transpose(1, 2) for one in (inner.query(x), inner.key(seen), inner.value(seen))
    )
    heard = _joined(F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    return attention.output.LayerNorm(attention.output.dense(heard) + x)


def _heads(qkv: Tensor, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T, 3 * H * head] -> three of [B, H, T, head]."""
    return tuple(one.unflatten(2, (-1, head)).transpose(1, 2) for one in qkv.chunk(3, dim=2))


def _joined(x: Tensor) -> Tensor:
    """[B, H, T, head] -> [B, T, H * head]."""
    return x.transpose(1, 2).flatten(2)
