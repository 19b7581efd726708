"""Encode many prompts with a CLIP text encoder of the size of Stable Diffusion 1.x; prints how memory grows.

Usage: python encoding_run.py encode|uce batches|plain COUNT; ``test_encoding.py`` starts it, because a peak of memory
belongs to a process. ``plain`` encodes all prompts in one call.
"""

import json
import resource
import sys
import time

import torch
from diffusers import UNet2DConditionModel

from erase.concept import Concept
from erase.methods import uce
from erase.model import diffusion
from erase.training.run import Run


def small_unet() -> UNet2DConditionModel:
    """No UNet is called: what counts is the width of its keys and values."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=768,
    )


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@torch.no_grad()
def main(what: str, way: str, count: int) -> None:
    from full_size_run import GUARD, build  # beside this script; pytest, which collects it for doctests, is elsewhere

    resource.setrlimit(resource.RLIMIT_DATA, (GUARD, GUARD))
    torch.manual_seed(0)
    pipe, device = build(small_unet()), torch.device("cpu")
    prompts = [f"a picture of {number} trees" for number in range(count)]
    diffusion.encode_prompts(pipe, prompts[:1], device=device)  # what libraries load when they are first used
    before, start = peak(), time.perf_counter()
    if way == "plain":
        diffusion.ENCODE_BATCH = count + 2
    if what == "encode":
        tensors = [diffusion.encode_prompts(pipe, prompts, device=device).prompt_embeds]
    else:
        uce.erase(pipe, Concept(target="a cat", anchor="a dog"), prompts, uce.Config(tokens="all"), Run(quiet=True))
        tensors = list(diffusion.select_parameters(pipe, "strict").values())
    growth, seconds = peak() - before, time.perf_counter() - start
    norm = sum(float(each.norm()) for each in tensors)
    sys.stdout.write(json.dumps({"growth": growth, "seconds": seconds, "norm": norm}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
