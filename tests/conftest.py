"""Tiny pipelines of the real diffusers and transformers classes with random weights; each is built in about 0.1 s."""

import os


# read when libraries are imported, so these stand before every other import
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # one process for each core is faster than many threads on tiny tensors

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


TEXT_WIDTH = 16


def _tokenizer() -> CLIPTokenizer:
    """Every byte is a token and nothing is merged: any prompt tokenises, and the end token has the largest id."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def _unet(cross_attention_dim: int, **family: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=4,
        **family,
    )


def _scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _build_sd(prediction_type: str = "epsilon", **family: object) -> StableDiffusionPipeline:
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)),
            tokenizer=tokenizer,
            unet=_unet(TEXT_WIDTH, **family),
            scheduler=_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return _quiet(pipe)


def _build_sdxl() -> StableDiffusionXLPipeline:
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=_unet(
                2 * TEXT_WIDTH,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
            ),
            scheduler=_scheduler(),
            add_watermarker=False,
        )
    return _quiet(pipe)


def _quiet(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipe.set_progress_bar_config(disable=True)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if name in pipe.components:
            pipe.components[name].eval()
    return pipe


_BUILD = {
    "sd1": _build_sd,
    "sd2": lambda: _build_sd("v_prediction", use_linear_projection=True),
    "sdxl": _build_sdxl,
}


@pytest.fixture
def tiny_pipe() -> StableDiffusionPipeline:
    """A fresh Stable Diffusion 1.x pipeline of 16 x 16 pixels; the same weights each time."""
    return _BUILD["sd1"]()


@pytest.fixture
def tiny_pipe_v() -> StableDiffusionPipeline:
    """The Stable Diffusion 2.x shape: linear projections and v-prediction."""
    return _BUILD["sd2"]()


@pytest.fixture
def tiny_pipe_xl() -> StableDiffusionXLPipeline:
    """The SDXL shape: two text encoders, pooled embeddings and time ids."""
    return _BUILD["sdxl"]()


@pytest.fixture(scope="session")
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_pipe`` as a folder whose text encoder has the hub's key layout (``text_model.*``).

    ``parametrize("tiny_folder", ["sd2", "sdxl"], indirect=True)`` gives a test and all its fixtures another family.
    """
    folder = tmp_path_factory.mktemp("tiny") / "pipe"
    _BUILD[getattr(request, "param", "sd1")]().save_pretrained(folder)
    weights = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    if not any(name.startswith("text_model.") for name in tensors):
        save_file({f"text_model.{name}": tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})
    return folder
