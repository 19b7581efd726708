"""Block list: prompts that name the target are not drawn, with the base's own weights; a baseline.

This is the text-match filter of https://arxiv.org/abs/2305.12082, which also shows how it is passed: by any other word
for the target. Nothing is trained and nothing is removed from the weights.
"""

from dataclasses import dataclass

from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model.diffusion import family
from erase.pipelines.inference_only import RESPONSES, BlockListPipeline, words
from erase.training.run import Run


FAMILIES = ("sd1", "sd2")
PAPER = "SneakyPrompt: Jailbreaking Text-to-image Generative Models, arXiv 2305.12082"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings.

    Attributes:
        response: What a prompt that names the target gets: a ``blank`` image, mid-grey and flagged, or an ``error``,
            with which no evaluation of such prompts is possible.
    """

    response: str = "blank"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        if self.response not in RESPONSES:
            raise ValueError(f"The response {self.response!r} is unknown: choose one of {', '.join(RESPONSES)}.")


def trains(config: Config) -> str:
    """Return what changes."""
    return "nothing"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> BlockListPipeline:
    """Return a pipeline of the same components that does not draw prompts with a target or a synonym of ``concept``.

    ``pipe`` stays as it is. ``retain``, the anchor and the templates must be left alone: they would have no effect.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    with run.measure(pipe.unet):
        return BlockListPipeline(
            **pipe.components,
            requires_safety_checker=pipe.config.requires_safety_checker,
            names="\n".join((*concept.target, *concept.synonyms)),
            response=config.response,
        )


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute: nothing."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(
            f"The block list supports {', '.join(FAMILIES)}, but this model is {found}: choose another method."
        )
    if concept.anchor or concept.templates != ("{}",):
        given = f"the anchor {concept.anchor!r} was" if concept.anchor else "templates were"
        raise ValueError(f"A block list knows names only, but {given} given: leave that out.")
    if retain:
        raise ValueError(f"A block list protects nothing, but {len(retain)} retain prompts were given: omit them.")
    for name in (*concept.target, *concept.synonyms):
        if len(name.splitlines()) > 1:
            raise ValueError(f"The name {name!r} has several lines, which would be blocked one by one: write one line.")
        if not words(name):
            raise ValueError(f"The name {name!r} has no letter or digit, so no prompt could hold it: leave it out.")
    return {"updates": 0, "unet_forwards": 0, "unet_backwards": 0, "images": 0}
