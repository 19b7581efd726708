"""The shipped canvas weights, loaded and written: plain diffusers folders in half precision."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from erase import shipped
from erase.canvas.generator import new_scheduler
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from erase.shipped import base_folder, gold_names


def load_base(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The base pipeline."""
    return StableDiffusionPipeline.from_pretrained(base_folder(), dtype=dtype, local_files_only=True)


def load_gold(name: str, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The base pipeline with the UNet that never saw ``name``; VAE and text encoder are shared with the base.

    Raises:
        ValueError: there is no gold model of that name.
    """
    if name not in gold_names():
        raise ValueError(
            f"There is no gold model for {name!r}; there is one for {', '.join(gold_names()) or 'nothing'}."
        )
    unet = UNet2DConditionModel.from_pretrained(shipped.FOLDER / "gold" / name, dtype=dtype, local_files_only=True)
    return StableDiffusionPipeline.from_pretrained(base_folder(), unet=unet, dtype=dtype, local_files_only=True)


def write_base(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    out: Path,
) -> None:
    """Write the base pipeline to ``out/base``."""
    pipe = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(out / "base", ignore_errors=True)
    pipe.save_pretrained(out / "base")
    # transformers 4 reads the text encoder only with the hub's prefix, and starts from random weights without it
    path = out / "base" / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    _readable(out / "base")


def write_gold(unet: UNet2DConditionModel, name: str, out: Path) -> None:
    """Write a gold UNet to ``out/gold/<name>``."""
    if name not in (*STYLE_NAMES, *OBJECT_NAMES):
        raise ValueError(f"{name!r} is neither a style nor an object of the canvas.")
    unet.half().save_pretrained(out / "gold" / name)
    _readable(out / "gold" / name)


def write_recipe(stage: str, recipe: dict[str, object], out: Path) -> None:
    """Write how the weights of one stage were made beside them."""
    path = out / "recipe.json"
    stages = json.loads(path.read_text())["stages"] if path.exists() else {}
    path.write_text(json.dumps({"schema_version": 2, "stages": {**stages, stage: recipe}}, indent=2) + "\n")


def _readable(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600
