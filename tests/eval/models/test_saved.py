"""What a plan reads from settings alone is what diffusers does."""

import inspect
from pathlib import Path

import diffusers
import pytest
from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from erase.model.base_model import STABLE_DIFFUSION
from eval.models.saved import GUIDANCE, ONE_CALL, PLMS, find_saved


@pytest.mark.parametrize("name", STABLE_DIFFUSION)
def test_the_guidance_of_a_call_is_that_of_diffusers(name: str) -> None:
    call = inspect.signature(getattr(diffusers, name).__call__)
    assert GUIDANCE[name] == call.parameters["guidance_scale"].default


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' schedulers pass tensors to numpy
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", [*ONE_CALL, PLMS, "HeunDiscreteScheduler"])
def test_calls_are_those_of_the_scheduler(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, name: str, spacing: str
) -> None:
    plms = {"skip_prk_steps": True} if name == PLMS else {}
    scheduler = getattr(diffusers, name)(timestep_spacing=spacing, **plms)
    tiny_pipe.scheduler = scheduler
    tiny_pipe.save_pretrained(tmp_path)
    pipe = find_saved(str(tmp_path))
    for steps in (1, 2, 7, 20, 50, 61, 100):  # 61: a trailing spacing gets one more
        try:
            scheduler.set_timesteps(steps)
        except IndexError:
            continue  # some do not draw in one step
        assert pipe.calls(steps) == len(scheduler.timesteps), steps


def test_a_scheduler_with_other_steps_is_asked(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    tiny_pipe.scheduler = PNDMScheduler()
    tiny_pipe.save_pretrained(tmp_path)
    assert find_saved(str(tmp_path)).calls(20) == 29  # with Runge-Kutta steps at the beginning


def test_sizes_are_those_of_the_pipeline(
    tiny_pipe: StableDiffusionPipeline, tiny_pipe_xl: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    for name, pipe in (("one", tiny_pipe), ("xl", tiny_pipe_xl)):
        pipe.save_pretrained(tmp_path / name)
        saved = find_saved(str(tmp_path / name))
        assert saved.side() == pipe.unet.config.sample_size * pipe.vae_scale_factor
        assert saved.is_stable_diffusion
        assert (saved.own_class, saved.is_guided_twice) == ("", False)


def test_the_unet_of_two_models_of_one_architecture_is_measured_once(
    tiny_pipe: StableDiffusionPipeline, tiny_pipe_v: StableDiffusionPipeline, tmp_path: Path
) -> None:
    for name, pipe in (("one", tiny_pipe), ("other", tiny_pipe), ("v", tiny_pipe_v)):
        pipe.save_pretrained(tmp_path / name)
    texts = [find_saved(str(tmp_path / name)).unet() for name in ("one", "other", "v")]
    assert texts[0] == texts[1] != texts[2]


def test_a_hub_id_that_is_not_here_is_none() -> None:
    assert find_saved("nobody/nothing") is None
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_saved("./none")
