"""One update with a shipped config on random weights of the size of Stable Diffusion 1.5, in fp32; prints its cost.

Usage: python full_size_run.py METHOD/CONFIG; ``test_full_size.py`` starts it, because a peak of memory belongs to a
process.
"""

import json
import resource
import sys
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erase.config import load_method, method_config, read_config
from erase.training.run import Run


GUARD = 22 * 2**30  # bytes: a method that needs more fails by itself instead of taking the machine down
# what takes turns is shortened, never a batch: what is held at once is what counts, not for how long
ONCE = {"steps": 1, "num_inference_steps": 1}
FEWER = {
    "esd": ONCE,
    "uce": {},
    "concept_ablation": {**ONCE, "images": 1},
    "doco": {**ONCE, "warmup_steps": 0, "images": 1},
    "advunlearn": {**ONCE, "warmup_steps": 0, "attack_steps": 1, "retain_trajectories": 5},
    "unguide": {**ONCE, "observe_steps": 1, "generation_steps": 4, "calibration_samples": 2, "quantile": 0.01},
}


def build(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline whose VAE and text encoder (CLIP-L) have the size of Stable Diffusion 1.5, and random weights."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        sample_size=512,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts = {"vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": tokenizer, "unet": unet}
    return StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def main(name: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GUARD, GUARD))
    torch.manual_seed(0)
    shipped = read_config(name)
    params = method_config(replace(shipped, params=shipped.params | FEWER[shipped.method]))
    concept = replace(shipped.to_concept(), templates=tuple(shipped.concept.templates[:1]))
    # the threshold that finds the target among its own samples leaves half of them above it
    retain = list(concept.prompts(concept.target[0])) if shipped.method == "unguide" else shipped.retain_prompts()
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the rest is the class's default
    pipe, run = build(unet), Run(gradient_checkpointing=shipped.gradient_checkpointing, quiet=True)
    load_method(shipped.method).erase(pipe, concept, retain, params, run)
    parameters = {part: sum(p.numel() for p in pipe.components[part].parameters()) for part in ("unet", "text_encoder")}
    sys.stdout.write(json.dumps({**run.summary(), "parameters": parameters}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
