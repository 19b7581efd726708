"""The names of one tensor in other projects: CompVis code (LatentDiffusion, UnGuide) and kohya's trainers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint


_BLOCK = re.compile(r"^(input_blocks|output_blocks)_(\d+)_(\d+)_|^(middle_block)_(\d+)_")
_NUMBERED = re.compile(r"(in_layers|out_layers|emb_layers)_(\d+)")


def from_ldm(names: Iterable[str], unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Return diffusers' name for each CompVis name of a UNet tensor, whole model or any part of it.

    Args:
        names: Such as ``input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight``, without
            ``model.diffusion_model.``.
        unet_config: The configuration of the diffusers UNet.

    Returns:
        CompVis name to diffusers name; names that are no part of any block are left out.

    Example:
        >>> config = {"block_out_channels": [8, 16], "layers_per_block": 1}
        >>> from_ldm(["middle_block.1.norm.weight", "betas"], config)
        {'middle_block.1.norm.weight': 'mid_block.attentions.0.norm.weight'}
    """
    wanted = list(names)
    blocks = len(unet_config["block_out_channels"]) * (unet_config["layers_per_block"] + 1)
    # diffusers counts the blocks by the names that are there, and would drop the last ones of a part of a model
    fillers = [f"{side}_blocks.{index}.filler" for side in ("input", "output") for index in range(blocks)]
    fillers += [f"middle_block.{index}.filler" for index in range(3)]
    if unet_config.get("addition_embed_type") == "text_time":
        fillers += [f"label_emb.0.{index}.{part}" for index in (0, 2) for part in ("weight", "bias")]
    # and it takes the bias of a sampler for granted where there is a weight
    fillers += [
        name.removesuffix("weight") + "bias" for name in wanted if name.endswith((".conv.weight", ".op.weight"))
    ]
    # values are only moved, so names can stand in the place of tensors
    moved = convert_ldm_unet_checkpoint({LDM_UNET_KEY + name: name for name in [*wanted, *fillers]}, unet_config)
    known = set(wanted)
    return {name: diffusers_name for diffusers_name, name in moved.items() if name in known}


def from_kohya(names: Iterable[str], paths: Iterable[str], unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Return the module path for each kohya name, which has underscores in the place of dots.

    Args:
        names: Such as ``lora_unet_mid_block_attentions_0_proj_in``; SDXL files may have CompVis blocks instead.
        paths: The module paths of the pipeline, component first: ``unet.mid_block.attentions.0.proj_in``.
        unet_config: The configuration of the diffusers UNet.

    Returns:
        Kohya name to module path; names that fit no path are left out.

    Example:
        >>> from_kohya(["lora_unet_conv_in", "lora_te_x"], ["unet.conv_in"], {"block_out_channels": [8]})
        {'lora_unet_conv_in': 'unet.conv_in'}
    """
    flat = {path.replace(".", "_"): path for path in paths}
    found: dict[str, str] = {}
    for name in names:
        component, _, rest = name.removeprefix("lora_").partition("_")
        component = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}.get(component, component)
        if component == "unet" and _BLOCK.match(rest):
            dotted = _NUMBERED.sub(r"\1.\2", _BLOCK.sub(_dot, rest)) + ".weight"
            rest = from_ldm([dotted], unet_config).get(dotted, rest).removesuffix(".weight").replace(".", "_")
        if f"{component}_{rest}" in flat:
            found[name] = flat[f"{component}_{rest}"]
    return found


def _dot(match: re.Match[str]) -> str:
    return ".".join(part for part in match.groups() if part) + "."
