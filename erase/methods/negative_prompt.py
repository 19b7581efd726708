"""Negative prompt: guidance away from the target in every image, with the base's own weights; a baseline.

Classifier-free guidance (https://arxiv.org/abs/2207.12598, eq. 6) extrapolates away from the unconditional prediction.
Here the prediction for the target's words takes its place: eps(c) + s (eps(prompt) - eps(c)). Nothing is trained and
nothing is removed from the weights; a benign image costs what the base's does, and is another one.
"""

from dataclasses import dataclass

from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model.diffusion import check_length, family
from erase.pipelines.inference_only import NegativePromptPipeline
from erase.training.run import Run


FAMILIES = ("sd1", "sd2")
PAPER = "Classifier-Free Diffusion Guidance, arXiv 2207.12598"


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to set: how strongly the target is avoided is the guidance scale of each image."""


def trains(config: Config) -> str:
    """Return what changes."""
    return "nothing"


def erase(
    pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run
) -> NegativePromptPipeline:
    """Return a pipeline of the same components that has the forget prompts of ``concept`` as its negative prompt.

    ``pipe`` stays as it is. ``retain`` and the anchor must be empty: they would have no effect.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    avoided = ", ".join(pair.target for pair in concept.pairs())
    check_length(pipe, avoided)
    with run.measure(pipe.unet):
        needs_checker = pipe.config.requires_safety_checker
        return NegativePromptPipeline(**pipe.components, requires_safety_checker=needs_checker, avoided=avoided)


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute: nothing."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(
            f"The negative prompt supports {', '.join(FAMILIES)}, but this model is {found}: choose another method."
        )
    if concept.anchor:
        raise ValueError(
            f"A negative prompt has no anchor, but {concept.anchor!r} was given: leave it out, the target is avoided."
        )
    if retain:
        raise ValueError(f"A negative prompt protects nothing, but {len(retain)} retain prompts were given: omit them.")
    return {"updates": 0, "unet_forwards": 0, "unet_backwards": 0, "images": 0}
