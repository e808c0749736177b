"""Small SEED-2 files in the published layout: quantizer, vision tower and a StableUnCLIP folder, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mmpt.codecs import seed_modules as modules
from mmpt.codecs.seed import QUANTIZER, UNCLIP, VISION

SIZES = modules.Sizes(codebook=64, code_dim=8, queries=4, width=64, depth=2, down=(32, 16, 8), embedding=32)
SIDE, PATCH, VISION_WIDTH = 28, 14, 88


def write_quantizer(folder: Path) -> None:
    """seed_quantizer.pt and eva_vit_g.pth; both hold more than is read, as the published ones do."""
    torch.manual_seed(0)
    vision = _vision()
    bert = {"Qformer.bert.encoder.layer.0.intermediate_query.dense.weight": torch.zeros(96, SIZES.width)}
    layers = {f"Qformer.bert.encoder.layer.{i}.x": torch.zeros(1) for i in range(3)}
    encoder = modules.SeedEncoder(SIZES, {**bert, **layers}, vision)
    decoder = modules.SeedDecoder(SIZES)
    used = {name: vision[name] for name in encoder.visual_encoder.state_dict()}
    encoder.visual_encoder.load_state_dict(used)
    for model in (encoder, decoder):
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if "weight" in name else 1.0)
    with torch.no_grad():  # codes spread as wide as what they stand for, so that many occur
        heard = []
        encoder.encode_task_layer.register_forward_hook(lambda module, given, made: heard.append(made))
        encoder(torch.randn(8, 3, SIDE, SIDE))
        encoder.quantize.embedding.weight.copy_(heard[0].flatten(0, 1).repeat(2, 1))
        encoder.quantize.embedding.weight.mul_(1 + 0.3 * torch.randn_like(encoder.quantize.embedding.weight))
        decoder.quantize.load_state_dict(encoder.quantize.state_dict())
    state = {
        **{name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("visual_encoder.")},
        **decoder.state_dict(),
        "pos_embed": torch.zeros(1, SIZES.queries, SIZES.width),  # what SEED has for its text side
        "Qformer.bert.encoder.layer.0.output.dense.weight": torch.zeros(SIZES.width, 96),
    }
    torch.save(state, folder / QUANTIZER)
    seen = {k.removeprefix("visual_encoder."): v for k, v in encoder.state_dict().items() if "visual" in k}
    torch.save({**vision, **seen}, folder / VISION)


def _vision() -> dict[str, torch.Tensor]:
    """State dict of a tower of three blocks, of which two are used."""
    width, inner = VISION_WIDTH, 96
    places = (SIDE // PATCH) ** 2 + 1
    state = {
        "patch_embed.proj.weight": torch.randn(width, 3, PATCH, PATCH) * 0.05,
        "patch_embed.proj.bias": torch.randn(width) * 0.05,
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, places, width),
    }
    for i in range(3):
        for name, tensor in modules.EvaBlock(width, inner).state_dict().items():
            state[f"blocks.{i}.{name}"] = tensor + 0.3 * torch.randn_like(tensor) if tensor.ndim == 1 else tensor
    return state


def write_unclip(folder: Path) -> None:
    """unclip/: diffusers' own folder layout, every part tiny; pictures of 16 pixels."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableUnCLIPImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    wide = SIZES.embedding
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**small, projection_dim=wide, image_size=32, patch_size=16)
        ),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=wide),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=clip_tokenizer(folder),
        text_encoder=CLIPTextModel(CLIPTextConfig(**small, projection_dim=32, vocab_size=1000)),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            attention_head_dim=(2, 4),
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * wide,
            cross_attention_dim=32,
            layers_per_block=1,
            use_linear_projection=True,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
        vae=AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
        ),
    )
    pipeline.save_pretrained(folder / UNCLIP, safe_serialization=True)
    (folder / UNCLIP / "weights.ckpt").write_bytes(b"a pickle that nobody reads")


def clip_tokenizer(folder: Path):
    """A CLIP tokenizer that knows single letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    return made
