"""LlamaGen's VQ autoencoder: a picture to a grid of codes and back, without any drawing of noise.

Modules bear the names of the published state dict, so that it loads strictly; sizes are read off the tensors. Encoder
and decoder are the convolutional ones of VQGAN (Esser, Rombach, Ommer 2021); codes are unit vectors of 8 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
"""Groups of every GroupNorm: widths are multiples of it."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a state dict; the comments give those of vq_ds16_t2i.pt."""

    codebook: int  # 16384
    code_dim: int  # 8
    latent: int  # 256
    base: int  # 128
    widths: tuple[int, ...]  # 128, 128, 256, 256, 512: one a resolution, each half the last one
    encoder_blocks: int  # 2 residual blocks a resolution

    @property
    def scale(self) -> int:
        """Pixels a code stands for along a side: 16."""
        return 2 ** (len(self.widths) - 1)

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Sizes:
        """Raises KeyError where a tensor that tells a size is missing."""
        codebook, code_dim = state["quantize.embedding.weight"].shape
        levels = _count(state, "encoder.conv_blocks.")
        widths = tuple(state[f"encoder.conv_blocks.{i}.res.0.conv1.weight"].shape[0] for i in range(levels))
        return Sizes(
            codebook,
            code_dim,
            state["encoder.conv_out.weight"].shape[0],
            state["encoder.conv_in.weight"].shape[0],
            widths,
            _count(state, "encoder.conv_blocks.0.res."),
        )


class VqModel(nn.Module):
    """Pictures [B, 3, S, S] in -1..1 to codes [B, S / scale, S / scale] and back."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(sizes.codebook, sizes.code_dim)
        self.quant_conv = nn.Conv2d(sizes.latent, sizes.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(sizes.code_dim, sizes.latent, 1)

    def codes(self) -> Tensor:
        """[codebook, code_dim], each of length 1."""
        return F.normalize(self.quantize.embedding.weight, dim=1)

    def encode(self, pixels: Tensor) -> Tensor:
        """int64 [B, h, w]: the code nearest to each place."""
        found = F.normalize(self.quant_conv(self.encoder(pixels)), dim=1).movedim(1, 3)
        return (found @ self.codes().T).argmax(3)  # of unit vectors the nearest is the most alike

    def decode(self, codes: Tensor) -> Tensor:
        """[B, 3, S, S] of codes [B, h, w], about -1..1."""
        return self.decoder(self.post_quant_conv(self.codes()[codes].movedim(3, 1)))


class Encoder(nn.Module):
    """Convolutions that halve the picture between resolutions; attention at the smallest."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.conv_in = _conv3(3, sizes.base)
        self.conv_blocks = nn.ModuleList()
        before = sizes.base
        for width in sizes.widths:
            last = len(self.conv_blocks) == len(sizes.widths) - 1
            level = Level(before, width, sizes.encoder_blocks, attends=last)
            if not last:
                level.downsample = Downsample(width)
            self.conv_blocks.append(level)
            before = width
        self.mid = _middle(before)
        self.norm_out, self.conv_out = _norm(before), _conv3(before, sizes.latent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        for block in self.mid:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """The encoder backwards, with one more residual block a resolution."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        before = sizes.widths[-1]
        self.conv_in, self.mid = _conv3(sizes.latent, before), _middle(before)
        self.conv_blocks = nn.ModuleList()
        for width in reversed(sizes.widths):
            level = Level(before, width, sizes.encoder_blocks + 1, attends=not len(self.conv_blocks))
            if len(self.conv_blocks) < len(sizes.widths) - 1:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
            before = width
        self.norm_out, self.conv_out = _norm(before), _conv3(before, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in self.conv_blocks:
            x = level(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """The blocks of one resolution: residual ones, each followed by attention where `attends`."""

    def __init__(self, before: int, width: int, blocks: int, attends: bool):
        super().__init__()
        self.res = nn.ModuleList(ResBlock(before if i == 0 else width, width) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(width) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        return x


class ResBlock(nn.Module):
    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(before), _conv3(before, width)
        self.norm2, self.conv2 = _norm(width), _conv3(width, width)
        if before != width:
            self.nin_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + changed


class AttnBlock(nn.Module):
    """One head over all places."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (one(normed).flatten(2).transpose(1, 2)[:, None] for one in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(seen.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # one row and column at the far sides, as it was trained


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(width: int) -> nn.ModuleList:
    return nn.ModuleList((ResBlock(width, width), AttnBlock(width), ResBlock(width, width)))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-6)


def _conv3(before: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(before, width, 3, padding=1)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)}
    return max(numbers) + 1 if numbers else 0
