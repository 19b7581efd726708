"""The canvas UNet: trained on cached latents and caption embeddings, once for the base and once per gold model."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from erase.canvas import captions
from erase.canvas.autoencoder import encode
from erase.canvas.dataset import Pictures
from erase.canvas.tokens import add_noise_tokens, noise_tokens, token_ids
from erase.canvas.towers import WIDTH
from erase.canvas.training import fit
from erase.canvas.world import IMAGE_SIZE, OBJECT_NAMES, STYLE_NAMES


BATCH = 32
SNR_GAMMA = 5.0  # min-SNR weighting, Hang et al. 2023 (arXiv 2303.09556) section 3.4
UNCONDITIONAL_SHARE = 0.1
WORDINGS = {1: 64, 2: 8}  # captions kept per (style, objects) label, by number of objects


class CaptionBank(NamedTuple):
    """Encoded captions grouped by label: rows ``starts[label] : starts[label] + counts[label]`` belong together."""

    hidden_states: torch.Tensor  # (N, 77, WIDTH), half precision to save memory
    starts: dict[tuple[int, int, int], int]
    counts: dict[tuple[int, int, int], int]
    unconditional: torch.Tensor  # (1, 77, WIDTH)


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_unet() -> UNet2DConditionModel:
    """A random UNet of the canvas size; attention on the two lower levels, where it is cheap."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        layers_per_block=1,
        block_out_channels=(48, 96, 144),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads in SD 1.x
        norm_num_groups=8,
    )


def without(pictures: Pictures, concept: str) -> Pictures:
    """The pictures that do not show ``concept``, a style or an object by name.

    Raises:
        ValueError: neither a style nor an object has that name.
    """
    if concept in STYLE_NAMES:
        keep = pictures.style != STYLE_NAMES.index(concept)
    elif concept in OBJECT_NAMES:
        index = OBJECT_NAMES.index(concept)
        keep = (pictures.first != index) & (pictures.second != index)
    else:
        raise ValueError(
            f"{concept!r} is neither a style nor an object; `erase canvas styles` and `objects` list them."
        )
    return Pictures(*(values[keep] for values in pictures))


def train(
    pictures: Pictures,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    work: Path,
    *,
    name: str = "unet",
    steps: int = 8000,
    seed: int = 0,
) -> UNet2DConditionModel:
    """Train to predict noise; the same seed gives every model the same start, whatever pictures it is shown."""
    torch.manual_seed(seed)
    unet = new_unet()
    latents = encode(vae, torch.from_numpy(pictures.images)) * vae.config.scaling_factor
    bank = encode_captions(pictures, text_encoder, tokenizer, seed)
    labels = _labels(pictures)
    starts = torch.tensor([bank.starts[label] for label in labels])
    counts = torch.tensor([bank.counts[label] for label in labels])
    scheduler = new_scheduler()
    alphas = scheduler.alphas_cumprod
    snr_weight = (SNR_GAMMA * (1 - alphas) / alphas).clamp(max=1)  # min(SNR, gamma) / SNR for noise prediction

    def loss(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        choice = starts[rows] + (torch.rand(BATCH, generator=generator) * counts[rows]).long()
        context = bank.hidden_states[choice].float()
        context[torch.rand(BATCH, generator=generator) < UNCONDITIONAL_SHARE] = bank.unconditional.float()
        timestep = torch.randint(len(alphas), (BATCH,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, timestep)
        noise_pred = unet(noisy, timestep, context, return_dict=False)[0]
        return ((noise_pred - noise).square().mean((1, 2, 3)) * snr_weight[timestep]).mean()

    path = work / f"{name}.safetensors"
    return fit(unet, loss, steps=steps, learning_rate=8e-4, ema_decay=0.999, seed=seed, path=path)


@torch.no_grad()
def encode_captions(
    pictures: Pictures, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int
) -> CaptionBank:
    """Sample and encode the captions of every label that the pictures carry."""
    generator = torch.Generator().manual_seed(seed)
    pool = noise_tokens(tokenizer)
    texts: list[str] = []
    starts: dict[tuple[int, int, int], int] = {}
    counts: dict[tuple[int, int, int], int] = {}
    for style, first, second in sorted(set(_labels(pictures))):
        rng = np.random.default_rng((seed, style + 1, first + 1, second + 1))
        count = WORDINGS[1 if second < 0 else 2]
        starts[style, first, second], counts[style, first, second] = len(texts), count
        texts += [captions.sample(style, first, second, rng).text for _ in range(count)]
    chunks = []
    for begin in tqdm(range(0, len(texts), 128), desc="encode captions", mininterval=5):
        ids = add_noise_tokens(token_ids(tokenizer, texts[begin : begin + 128], pad=True), pool, 0.08, generator)
        chunks.append(text_encoder(ids).last_hidden_state.half())
    unconditional = text_encoder(token_ids(tokenizer, [""], pad=True)).last_hidden_state.half()
    return CaptionBank(torch.cat(chunks), starts, counts, unconditional)


def _labels(pictures: Pictures) -> list[tuple[int, int, int]]:
    rows = zip(pictures.style, pictures.first, pictures.second, strict=True)
    return [(int(style), int(first), int(second)) for style, first, second in rows]
