"""Draw prompts with a canvas pipeline, one seed per row, each distinct prompt encoded once."""

import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from erase.canvas.tokens import token_ids


STEPS = 20
GUIDANCE_SCALE = 4.0
BATCH = 60


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    *,
    num_inference_steps: int = STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    title: str = "draw",
) -> torch.Tensor:
    """Generate one picture per row: uint8, (N, S, S, 3), the same for any batch size up to float noise."""
    texts = ["", *dict.fromkeys(prompts)]
    index = {text: row for row, text in enumerate(texts)}
    hidden = [
        pipe.text_encoder(token_ids(pipe.tokenizer, texts[k : k + 128], pad=True)).last_hidden_state
        for k in range(0, len(texts), 128)
    ]
    embeds = torch.cat(hidden)
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for begin in tqdm(range(0, len(prompts), BATCH), desc=title, mininterval=5):
        rows = [index[text] for text in prompts[begin : begin + BATCH]]
        result = pipe(
            prompt_embeds=embeds[rows],
            negative_prompt_embeds=embeds[[0] * len(rows)],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[begin : begin + BATCH]],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="pt",
        ).images
        pictures.append((result.permute(0, 2, 3, 1) * 255).round().to(torch.uint8))
    return torch.cat(pictures)
