"""The networks of the built-in codecs without storage (torch's device "meta"), run as the codecs run them on CUDA.

For `doit fit`, before any weights are there: EnCodec has the sizes of the config.json below its `path`, else published
ones; SEED-2 and LlamaGen have those of the published files. What a convolution allocates inside itself is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpt.codecs import llamagen_modules, seed_modules
from mmpt.codecs.encodec import bandwidth_of
from mmpt.codecs.encodec_models import KINDS
from mmpt.codecs.encodec_weights import read_config
from mmpt.codecs.registry import own_options
from mmpt.codecs.seed import UNCLIP
from mmpt.store.canonical import read_json

LLAMAGEN = llamagen_modules.Sizes(16_384, 8, 256, 128, (128, 128, 256, 256, 512), 2)
SEED = seed_modules.Sizes(8192, 32, 32, 768, 4, (256, 128, 32), 1024)
QFORMER = {"layers": 12, "inner": 3072}
VISION = {
    "patch_embed.proj.weight": (1408, 3, 14, 14),
    "pos_embed": (1, 257, 1408),
    "blocks.0.mlp.fc1.weight": (6144, 1408),
}
# Stable Diffusion 2.1 unCLIP: what differs from diffusers' and transformers' own values.
UNET = {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2048,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 768,
}
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
SIGHT = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class Networks:
    """encode(n): n media in one batch, the longest that the run has. decode(): one medium.

    Each makes the networks that it needs when it is first called, as the codec opens them, and they stay.
    """

    encode: Callable[[int], Any]
    decode: Callable[[], Any]


def networks(section: Mapping[str, Any]) -> Networks | None:
    """Of a profile's codec section; None for a codec that is no network, or whose networks are not known here."""
    known = {"encodec": _encodec, "seed": _seed, "llamagen": _llamagen}.get(section["name"])
    return known(own_options(section), section.get("clip_seconds", 0.0)) if known else None


def unknown(section: Mapping[str, Any]) -> bool:
    """Whether the codec may have networks of which `networks` knows nothing: a plug-in's."""
    return section["name"] not in ("encodec", "seed", "llamagen", "melrvq", "patchvq")


def _encodec(options: Mapping[str, Any], seconds: float) -> Networks:
    from transformers import EncodecConfig, EncodecModel

    path = Path(options.get("path", ""))
    kind = "48khz" if "48khz" in str(path).lower() else "24khz"
    there = path.is_dir() and (path / "config.json").is_file()
    config = read_config(path) if there else EncodecConfig(**KINDS[kind])
    n_codebooks = options.get("n_codebooks", 4)
    samples = max(1, round(seconds * config.sampling_rate))
    longest = min(samples, config.chunk_length or samples)
    model = cache(lambda: _without_storage(EncodecModel(config).eval()))

    def encode(n: int) -> Any:
        waves = torch.zeros(n, config.audio_channels, samples, device="meta")
        return model().encode(waves, bandwidth=bandwidth_of(config, n_codebooks))

    def decode() -> Any:
        codes = torch.zeros(n_codebooks, 1, -(-longest // config.hop_length), dtype=torch.int64, device="meta")
        return model().decoder(model().quantizer.decode(codes))

    return Networks(encode, decode)


class _Lstm(nn.Module):
    """An nn.LSTM as cuDNN runs it: all steps of a layer in one call. On "meta" torch would take them one by one."""

    def __init__(self, lstm: nn.LSTM):
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """[steps, B, hidden] of x [steps, B, width]."""
        for _ in range(self.lstm.num_layers):
            gates = x.new_empty(*x.shape[:2], 4 * self.lstm.hidden_size)
            x = gates.new_empty(*x.shape[:2], self.lstm.hidden_size)
        return x, None


def _without_storage(model: nn.Module) -> nn.Module:
    """The model with its floating-point tensors on "meta"; whole numbers, a convolution's padding, stay readable."""
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.LSTM):
                setattr(module, name, _Lstm(part))
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and tensor.is_floating_point():
                    moved = torch.empty_like(tensor, device="meta")
                    own[name] = nn.Parameter(moved, requires_grad=False) if own is module._parameters else moved
    return model


def _llamagen(options: Mapping[str, Any], _: float) -> Networks:
    side = options.get("size", 256)
    places = side // LLAMAGEN.scale
    model = cache(lambda: _made(torch.float32, lambda: llamagen_modules.VqModel(LLAMAGEN)))
    codes = (1, places, places)
    return Networks(
        lambda n: model().encode(torch.zeros(n, 3, side, side, device="meta")),
        lambda: model().decode(torch.zeros(codes, dtype=torch.int64, device="meta")),
    )


def _seed(options: Mapping[str, Any], _: float) -> Networks:
    folder = Path(options.get("path", "")) / UNCLIP
    vision = {name: torch.empty(size, device="meta") for name, size in VISION.items()}
    state = {f"Qformer.bert.encoder.layer.{i}.x": torch.empty(1, device="meta") for i in range(QFORMER["layers"])}
    name = "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"
    state[name] = torch.empty(QFORMER["inner"], SEED.width, device="meta")
    encoder = cache(lambda: _made(torch.float32, lambda: seed_modules.SeedEncoder(SEED, state, vision)))
    decoder = cache(lambda: _made(torch.float32, lambda: seed_modules.SeedDecoder(SEED)))
    painter = cache(lambda: _made(torch.float16, lambda: _painter(folder)))
    side = 14 * round((VISION["pos_embed"][1] - 1) ** 0.5)

    def decode() -> Any:
        embedding = decoder()(torch.zeros(1, SEED.queries, dtype=torch.int64, device="meta"))
        return _paint(painter(), embedding.half())

    return Networks(lambda n: encoder()(torch.zeros(n, 3, side, side, device="meta")), decode)


def _painter(folder: Path) -> nn.ModuleDict:
    """The parts of StableUnCLIPImg2ImgPipeline that hold weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    def sizes(part: str, published: Mapping[str, Any]) -> dict[str, Any]:
        path = folder / part / "config.json"
        return dict(read_json(path)) if path.is_file() else dict(published)

    return nn.ModuleDict(
        {
            "unet": UNet2DConditionModel.from_config(sizes("unet", UNET)),
            "vae": AutoencoderKL.from_config(sizes("vae", VAE)),
            "text": CLIPTextModel(CLIPTextConfig(**sizes("text_encoder", TEXT))),
            "sight": CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes("image_encoder", SIGHT))),
        }
    )


def _paint(parts: nn.ModuleDict, embedding: torch.Tensor) -> Any:
    """What a call of the pipeline runs: text once, a step of the U-Net with guidance, the picture."""
    unet, text, words = parts["unet"], parts["text"], torch.zeros(1, 77, dtype=torch.int64, device="meta")
    prompt = torch.cat([text(words).last_hidden_state] * 2)
    side, level = unet.config.sample_size, torch.zeros(unet.config.projection_class_embeddings_input_dim, device="meta")
    latents = torch.zeros(1, unet.config.in_channels, side, side, device="meta", dtype=embedding.dtype)
    noise_level = torch.cat([embedding, level.to(embedding)[None, embedding.shape[1] :]], 1)
    # The step's number is one number of the CPU's: a scheduler's.
    guided = unet(torch.cat([latents] * 2), 1, encoder_hidden_states=prompt, class_labels=torch.cat([noise_level] * 2))
    return parts["vae"].decode(latents + guided.sample[:1])


def _made(dtype: torch.dtype, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"), _default(dtype):
        return make().eval().requires_grad_(False)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
