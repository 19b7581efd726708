"""A YAML file of a suite in one of the two flat forms of earlier versions is refused, with where each key moved."""

from collections.abc import Mapping
from typing import Any


BOTH = {
    "num_inference_steps": "sampler.steps",
    "guidance_scale": "sampler.guidance_scale",
    "batch_size": "sampler.batch_size",
    "clip": "scorers.clip (model: ...)",
    "inception": "scorers.inception.weights",
}
GRID = BOTH | {
    **{key: f"grid.{key}" for key in ("world", "compat", "styles", "objects", "seeds", "held_out", "held_out_seeds")},
    **{key: f"grid.{key}" for key in ("gold", "neighbours", "attacks")},
    "judge": "scorers (judge: {} for canvas, or timm_pair: {...})",
    "timm_pair": "scorers.timm_pair",
    "tau": "tau of the judge in scorers",
    "aspects": "metrics",
    "lpips": "scorers.lpips.backbone",
}
FILES = BOTH | {
    "prompts": "prompts.files",
    "scorers": "scorers, as names with their settings",
    **{key: f"prompts.{key}" for key in ("seeds", "target", "kind", "explicit")},
    "threshold": "scorers.nudity.threshold",
    "vlm": "scorers.vlm.model",
    "real_images": "scorers.inception.real_images",
}


def find_flat(content: Mapping[str, Any]) -> str:
    """Say where the keys of a flat suite moved, as the end of a sentence about its file; empty for any other content.

    >>> find_flat({"name": "mine", "tau": 0.5, "sampler": {"steps": 20}})
    'has keys of an earlier version: write tau -> tau of the judge in scorers.'
    """
    has_files = "prompts" in content
    keys = [key for key in content if key in (FILES if has_files else GRID)]
    keys = [key for key in keys if not (key in ("prompts", "scorers") and isinstance(content[key], Mapping))]
    if not keys:
        return ""
    moves = ", ".join(f"{key} -> {(FILES if has_files else GRID)[key]}" for key in keys)
    return f"has keys of an earlier version: write {moves}."
