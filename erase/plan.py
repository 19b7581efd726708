"""What a run would do and cost, found out without doing it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from erase.artifact.folder import CARD
from erase.artifact.output import check_out
from erase.config import RunConfig, load_method, method_config
from erase.experiment import artifact_bytes, check_family, has_result, is_complete
from erase.model import base_model


_TIMED = (3, 20)  # forwards that are timed, of which the fastest counts: on a busy machine few are undisturbed
_TIMING_SECONDS = 2.0  # after which the least number is enough
_BACKWARD = 2.0  # forwards that a backward is worth: one product for the activations, one for the weights


class Plan(NamedTuple):
    """The plan of one run; ``None`` is what cannot be known before the base model is on this machine."""

    config: RunConfig
    updates: int
    unet_forwards: int  # in samples
    unet_backwards: int
    images: int
    disk_bytes: int | None
    seconds_per_forward: float | None
    is_done: bool  # the output holds the result of these settings

    @property
    def unet_recomputed(self) -> int:
        """What backwards compute again, in samples: once each with gradient checkpointing."""
        return self.unet_backwards * self.config.gradient_checkpointing

    @property
    def seconds(self) -> float | None:
        """The estimated time: what the UNet takes, for one sample at a time."""
        if self.seconds_per_forward is None:
            return None
        forwards = self.unet_forwards + self.unet_recomputed
        return self.seconds_per_forward * (forwards + _BACKWARD * self.unet_backwards)


def make_plan(config: RunConfig) -> Plan:
    """Work out what a run would do; loads no weights, downloads and writes nothing.

    Raises:
        ValueError: The settings do not fit together, or the output holds something but their result.
    """
    config = replace(config, device=base_model.pick_device(config.device))
    settings = config.to_concept(), config.retain_prompts(), method_config(config)
    steps = load_method(config.method).plan(None, *settings)
    is_done = has_result(config)
    if config.out is not None and not is_done:
        check_out(Path(config.out))
    try:
        folder = base_model.resolve(config.base_model, local_only=True)
    except FileNotFoundError:
        if Path(config.base_model).exists() or base_model.HUB_ID.fullmatch(config.base_model) is None:
            raise
        return Plan(config, **steps, disk_bytes=None, seconds_per_forward=None, is_done=is_done)
    check_family(config, local_only=True)
    if is_done and not is_complete(config):  # made from other weights of that name
        check_out(Path(str(config.out)))
    seconds = time_forward(folder, device=config.device, dtype=config.dtype)
    disk = artifact_bytes(config)
    return Plan(config, **steps, disk_bytes=disk, seconds_per_forward=seconds, is_done=is_done)


def describe(plan: Plan) -> str:
    """Return the plan as YAML comments, so that it may stand below the settings in one file."""
    later = "unknown until the base model is on this machine"
    seconds, disk = plan.seconds, plan.disk_bytes
    per_forward = 1e3 * (plan.seconds_per_forward or 0.0)
    kind = "at most " if plan.config.save == "delta" else "about "
    about = later if disk is None else "not estimated for this model family"
    if seconds is not None:
        about = f"about {duration(seconds)} on {plan.config.device} (one forward: {per_forward:.3g} ms)"
    per_update = f", {plan.unet_forwards / plan.updates:.3g} per update" if plan.unet_forwards and plan.updates else ""
    recomputed = {"recomputed": f"{plan.unet_recomputed:,} samples, in backwards"} if plan.unet_recomputed else {}
    lines = {
        "updates": f"{plan.updates:,}",
        "UNet forwards": f"{plan.unet_forwards:,} samples{per_update}",
        "UNet backwards": f"{plan.unet_backwards:,} samples",
        **recomputed,
        "images": f"{plan.images:,}",
        "disk": later if disk is None else f"{kind}{disk / 1e6:,.3g} MB, and {CARD} with its cost",
        "time": about,
    }
    if plan.is_done:
        lines = {"exists": f"{plan.config.out} already holds the result of these settings"} | lines
    return "\n".join(f"# {name + ':':16}{text}" for name, text in lines.items())


def time_forward(folder: Path, *, device: str, dtype: str, samples: int = 1) -> float | None:
    """Return the seconds of one UNet forward, measured with empty weights; None for SDXL-like UNets.

    Args:
        folder: A diffusers folder, of which only the UNet's configuration is read.
        device: Where to measure.
        dtype: The name of the precision.
        samples: The batch of the forward.
    """
    settings = UNet2DConditionModel.load_config(folder, subfolder="unet")
    if settings.get("addition_embed_type") is not None:
        return None
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(settings)
    unet.to_empty(device=device)
    precision = base_model.pick_dtype(dtype)
    for parameter in unet.parameters():
        parameter.data = torch.zeros_like(parameter, dtype=precision)  # what empty memory holds may be slow denormals
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.zeros(samples, unet.config.in_channels, height, width, device=device, dtype=precision)
    embeds = torch.zeros(samples, 77, unet.config.cross_attention_dim, device=device, dtype=precision)
    seconds: list[float] = []
    with torch.no_grad():
        while len(seconds) < _TIMED[0] or (sum(seconds) < _TIMING_SECONDS and len(seconds) < _TIMED[1]):
            start = time.perf_counter()
            unet(sample, 1, embeds).sample.cpu()  # the copy waits for the device
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def duration(seconds: float) -> str:
    """Return a length of time in words.

    Example:
        >>> duration(90), duration(3600)
        ('90 seconds', '60 minutes')
    """
    if seconds < 120:
        return f"{seconds:.0f} seconds" if seconds >= 1 else "a second"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
