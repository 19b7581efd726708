"""The concepts nearest to the target in the base's own text encoder; an imprecise erasure hurts these first."""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTextModel

from eval.formulas.alignment import nearest_names
from eval.suite.grid import Target
from eval.suite.world import World


PROMPTS = {"style": "an image in {} style", "object": "an image of a {}"}  # the name alone, without the other axis


def find_neighbours(
    pipe: DiffusionPipeline, target: Target, names: Sequence[str], k: int, *, world: World
) -> list[str]:
    """The k names of the target's kind that are nearest to it by cosine of the pooled text features.

    Args:
        pipe: The base, with a CLIP text encoder.
        target: The erased concepts.
        names: The labels of that kind in the suite's grid.
        k: How many to return.
        world: How prompts spell the labels.

    Raises:
        ValueError: The pipeline has no CLIP text encoder, or k is not between 1 and the number of other names.
    """
    encoder, tokenizer = pipe.components.get("text_encoder"), pipe.components.get("tokenizer")
    if not isinstance(encoder, CLIPTextModel) or tokenizer is None:
        raise ValueError(
            f"{type(pipe).__name__} has no CLIPTextModel as its text encoder to find neighbours with; "
            "leave pinpoint_ness out of the suite's metrics."
        )
    spellings = world.spellings(target.kind)
    texts = [PROMPTS[target.kind].format(spellings[name]) for name in names]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        features = encoder(tokens.to(encoder.device)).pooler_output
    return nearest_names(features.float().cpu().numpy(), names, target.names, k)
