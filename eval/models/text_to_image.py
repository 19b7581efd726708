"""What is asked of a text-to-image pipeline of diffusers, and what its class and its parts say about it.

``AutoPipelineForText2Image`` lists the classes of diffusers that draw from a text. A class of somebody else counts if
its call takes a prompt, the number of steps and a generator. diffusers ignores settings that a call does not use; here
they are refused.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn


# the parts that denoise, as the classes call them; Wuerstchen, Stable Cascade and Kandinsky have the last two
DENOISERS = ("unet", "transformer", "unconditional_transformer", "prior_prior", "decoder")
AUTOENCODERS = ("vae", "movq", "vqgan")
_STABLE_DIFFUSION = (StableDiffusionPipeline, StableDiffusionXLPipeline)
_NEEDED = ("prompt", "num_inference_steps", "generator")
_MORE_THAN_TEXT = ("control_image", "controlnet_conditioning_scale", "num_frames")


def find_class(name: str) -> type[DiffusionPipeline]:
    """The class of diffusers that a ``model_index.json`` names.

    Raises:
        ValueError: It does not draw images from text alone.
    """
    cls: Any = getattr(diffusers, name)
    check_class(cls)
    return cls


def check_class(cls: type[DiffusionPipeline]) -> None:
    """Refuse a pipeline that does not draw images from text alone.

    Raises:
        ValueError: It says why not.
    """
    takes = _parameters(cls)
    missing = [name for name in _NEEDED if name not in takes]
    is_stock = cls.__module__.startswith("diffusers.") and cls not in _STABLE_DIFFUSION
    if missing or (is_stock and (cls not in _stock() or any(name in takes for name in _MORE_THAN_TEXT))):
        without = f", whose call does not take {' and '.join(missing)}" if missing else ""
        raise ValueError(
            f"The model is a {cls.__name__}{without}, but images are drawn with pipelines that need nothing but a "
            "text, such as those of AutoPipelineForText2Image: pass one of these."
        )


def is_stable_diffusion(cls: type[DiffusionPipeline]) -> bool:
    """Whether this is the pipeline of Stable Diffusion 1.x, 2.x or XL, or one derived from it."""
    return issubclass(cls, _STABLE_DIFFUSION)


def find_guidance(pipe: DiffusionPipeline, guidance_scale: float | None) -> float | None:
    """The guidance that is asked for or, if None is, the default of the pipeline's call; see ``own_guidance``."""
    if guidance_scale is not None:
        return float(guidance_scale)
    return own_guidance(type(pipe), pipe.config, [part.config for part in denoisers(pipe).values()])


def own_guidance(
    cls: type[DiffusionPipeline], config: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]
) -> float | None:
    """The default of a pipeline's call; None if it takes no guidance, has no use for it, or finds it by itself.

    Args:
        cls: The class of the pipeline.
        config: The settings of the pipeline, which are those of ``model_index.json``.
        parts: The settings of its denoisers.

    >>> own_guidance(StableDiffusionPipeline, {}, [{}]), own_guidance(StableDiffusionXLPipeline, {}, [{}])
    (7.5, 5.0)
    >>> [own_guidance(diffusers.FluxPipeline, {}, [{"guidance_embeds": embeds}]) for embeds in (True, False)]
    [3.5, None]
    """
    takes = _parameters(cls)
    default = takes["guidance_scale"].default if "guidance_scale" in takes else None
    if not isinstance(default, int | float) or _is_distilled(takes, config, parts):
        return None
    return float(default)


def check_settings(pipe: DiffusionPipeline, *, guidance_scale: float | None, negative_prompt: str) -> None:
    """Refuse a setting that the pipeline would ignore or fail on.

    Args:
        pipe: The pipeline.
        guidance_scale: None leaves it to the pipeline.
        negative_prompt: Empty asks for none.

    Raises:
        ValueError: It names the setting.
    """
    name, takes = type(pipe).__name__, _parameters(type(pipe))
    parts = [part.config for part in denoisers(pipe).values()]
    if guidance_scale is not None and ("guidance_scale" not in takes or _is_distilled(takes, pipe.config, parts)):
        raise ValueError(
            f"The guidance_scale is {guidance_scale}, but this {name} has no use for one: leave it out (in a suite, "
            "write guidance_scale: null in its sampler)."
        )
    if negative_prompt and ("negative_prompt" not in takes or _needs_true_guidance(takes)):
        raise ValueError(
            f"The negative_prompt is {negative_prompt!r}, but this {name} has no use for one at its own settings: "
            "leave it out."
        )


def denoisers(pipe: DiffusionPipeline) -> dict[str, Any]:
    """The parts of a pipeline that denoise, by their names.

    Raises:
        ValueError: It has none of the known names.
    """
    parts = {name: pipe.components[name] for name in DENOISERS if isinstance(pipe.components.get(name), nn.Module)}
    if not parts:
        raise ValueError(
            f"The {type(pipe).__name__} has none of {', '.join(DENOISERS)}, so what it computes cannot be counted: "
            "pass a pipeline that has one."
        )
    return parts


def autoencoders(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The parts of a pipeline that turn latents into images; empty for one that draws pixels."""
    return [pipe.components[name] for name in AUTOENCODERS if isinstance(pipe.components.get(name), nn.Module)]


def drawing_dtype(pipe: DiffusionPipeline) -> torch.dtype:
    """The precision in which a pipeline denoises."""
    return next(next(iter(denoisers(pipe).values())).parameters()).dtype


def draws_like_stable_diffusion(pipe: DiffusionPipeline) -> bool:
    """Whether the initial latents have a known shape: in Stable Diffusion and in own classes around its UNet."""
    is_own = not type(pipe).__module__.startswith("diffusers.")
    is_around = is_own and isinstance(pipe.components.get("unet"), UNet2DConditionModel)
    return is_stable_diffusion(type(pipe)) or is_around


def own_side(pipe: DiffusionPipeline) -> int | None:
    """Height and width in pixels that Stable Diffusion draws by itself; None for a class whose images only show it."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor if draws_like_stable_diffusion(pipe) else None


def _parameters(cls: type[DiffusionPipeline]) -> dict[str, inspect.Parameter]:
    """What a call takes; a class that passes on ``**settings`` takes what its parent's call takes, too."""
    takes: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if "__call__" in vars(owner):
            own = inspect.signature(vars(owner)["__call__"]).parameters
            takes = {**own, **takes}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return takes


def _is_distilled(
    takes: Mapping[str, inspect.Parameter], config: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]
) -> bool:
    """Whether the model was trained to do without the guidance that its class passes on: Flux schnell, Flux 2 Klein."""
    is_embedded = "true_cfg_scale" in takes  # such a model reads guidance_scale as a number
    embeds = any(part.get("guidance_embeds") for part in parts)
    return bool(config.get("is_distilled")) or (is_embedded and not embeds)


def _needs_true_guidance(takes: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a negative prompt needs ``true_cfg_scale``, which is off by default (Flux)."""
    return "true_cfg_scale" in takes and takes["true_cfg_scale"].default <= 1


def _stock() -> set[type]:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING  # imports every family

    return set(AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values())
