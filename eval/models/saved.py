"""A pipeline on disk as its settings describe it, read without its weights and, for Stable Diffusion, without torch.

A plan answers at once because of this. The constants below repeat what diffusers does, and a test compares them with
diffusers. Every other class or scheduler is looked up in diffusers, which takes seconds to import.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.artifact.record import CARD, read_card
from erase.model import base_model
from erase.model.base_model import STABLE_DIFFUSION


GUIDANCE = {"StableDiffusionPipeline": 7.5, "StableDiffusionXLPipeline": 5.0}  # the defaults of their calls
ONE_CALL = (  # schedulers that call the UNet once per step
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
)
PLMS = "PNDMScheduler"  # Stable Diffusion's own: with skip_prk_steps, one call more than steps


@dataclass(frozen=True, kw_only=True)
class SavedPipeline:
    """The settings of a pipeline in a folder.

    Attributes:
        folder: Holds ``model_index.json`` and one folder for each part.
        index: The content of ``model_index.json``.
    """

    folder: Path
    index: dict[str, Any]

    @property
    def own_class(self) -> str:
        """The name of a class of this package, all of which derive from Stable Diffusion; empty for diffusers' own."""
        name = self.index["_class_name"]
        return name[1] if isinstance(name, list) else ""

    @property
    def class_name(self) -> str:
        """The class of diffusers that it is or derives from."""
        return STABLE_DIFFUSION[0] if self.own_class else self.index["_class_name"]

    @property
    def is_stable_diffusion(self) -> bool:
        """Whether its UNet, sizes and forwards follow from the settings."""
        return self.class_name in STABLE_DIFFUSION

    @property
    def is_guided_twice(self) -> bool:
        """Whether it calls the UNet again for samples that show the target."""
        return self.own_class == "UnGuidePipeline"

    def guidance(self, asked: float | None) -> float | None:
        """The guidance that is asked for or, if None is, the default of the pipeline's call.

        Raises:
            ValueError: The pipeline draws from more than a text.
        """
        if self.is_stable_diffusion:
            return GUIDANCE[self.class_name] if asked is None else float(asked)
        from eval.models import text_to_image

        cls = text_to_image.find_class(self.class_name)
        if asked is not None:
            return float(asked)
        parts = [self._settings(name) for name in text_to_image.DENOISERS if (self.folder / name).is_dir()]
        return text_to_image.own_guidance(cls, self.index, parts)

    def calls(self, steps: int) -> int:
        """How often Stable Diffusion's scheduler calls the UNet."""
        name, settings = self.index["scheduler"][1], self._settings("scheduler", "scheduler_config.json")
        if settings.get("timestep_spacing") != "trailing":  # which rounds, so that some numbers of steps get one more
            if name in ONE_CALL:
                return steps
            if name == PLMS and settings.get("skip_prk_steps") and steps > 1:
                return steps + 1
        import diffusers

        scheduler = getattr(diffusers, name).from_config(settings)
        scheduler.set_timesteps(steps)
        return len(scheduler.timesteps)

    def side(self) -> int:
        """Height and width in pixels that Stable Diffusion draws by itself."""
        unet, vae = self._settings("unet"), self._settings("vae")
        return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)

    def unet(self) -> str:
        """The settings of the UNet as text: equal for models of one architecture."""
        settings = {name: value for name, value in self._settings("unet").items() if not name.startswith("_")}
        return json.dumps(settings, sort_keys=True)

    def _settings(self, part: str, file: str = "config.json") -> Mapping[str, Any]:
        return json.loads((self.folder / part / file).read_text(encoding="utf-8"))


def find_saved(model: str) -> SavedPipeline | None:
    """Find a model without downloading: an artefact, of a delta its base, a diffusers folder, a hub id, or ``canvas``.

    Returns:
        The settings; None if the hub may have the model and this machine does not.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It could not be loaded, or would run foreign code.
    """
    folder = _find_folder(model)
    if folder is None:
        return None
    return SavedPipeline(folder=folder, index=json.loads((folder / "model_index.json").read_text(encoding="utf-8")))


def _find_folder(model: str) -> Path | None:
    folder = Path(model)
    if (folder / CARD).is_file():
        card = read_card(folder)
        return folder if card["form"] == "pipeline" else base_model.resolve(card["base"]["id"], local_only=True)
    try:
        return base_model.resolve(model, local_only=True)
    except FileNotFoundError:
        if folder.exists() or base_model.HUB_ID.fullmatch(model) is None:
            raise
        return None
