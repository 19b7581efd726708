"""What other projects' files mean: which layout the names of a file show, and what it changes in the base model.

``esd`` holds tensors of the UNet by their names, all or some (ESD, UCE, RECE, SalUn); ``esd-modules`` the same by
module; ``ldm`` a LatentDiffusion checkpoint; ``concept-ablation`` its ``delta.bin``, also DoCo's; ``advunlearn`` a
wrapped text encoder, ``text-encoder`` a plain one; ``unguide``, ``kohya`` and ``peft`` are LoRAs.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from diffusers import DiffusionPipeline
from peft.utils.other import get_pattern_key

from erase.interop.names import from_kohya, from_ldm
from erase.interop.source import Source


Value = TypeVar("Value")

UNGUIDE_ALPHA = 8  # what the authors' scripts pass; the file of weights does not hold it
_LDM_UNET = "model.diffusion_model."
_LDM_TEXT = "cond_stage_model.transformer."
_LDM_OPEN_CLIP = "cond_stage_model.model."  # of SD 2.x, where the text encoder is one of OpenCLIP
# parts of a LatentDiffusion checkpoint that no erasure changes: the autoencoder, averaged copies, the noise schedule
_LDM_OTHER = re.compile(
    r"first_stage_model\.|model_ema\.|logvar$|betas$|lvlb_weights$|scale_factor$|alphas_cumprod|sqrt_|log_one_minus|"
    r"posterior_"
)
_TEXT = "text_model."
_ALIASES = ("embedding.", "encoder.", "final_layer_norm.")  # of the wrapper's text encoder: the same tensors again
_TEXT_NAMES = (_TEXT, "embeddings.", "encoder.", "final_layer_norm.")
_TEXT_CONFIG = ("hidden_act", "hidden_size", "num_attention_heads", "num_hidden_layers", "layer_norm_eps")
_UNET_NAMES = re.compile(
    r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding)\."
)
_KOHYA = re.compile(r"(?P<module>lora_(unet|te|te1|te2)_\w+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)")
# of the header of a kohya LoRA, or of SPM: what made the weights. The rest are captions, folders, host names and counts
# of its author's data, which are nobody else's business and may be megabytes
_KOHYA_SETTINGS = (
    *("prompts", "rank", "alpha"),
    *("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_base_model_version", "ss_v2"),
    *("ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_seed", "ss_steps", "ss_num_epochs"),
    *("ss_learning_rate", "ss_unet_lr", "ss_text_encoder_lr", "ss_lr_scheduler", "ss_optimizer", "ss_mixed_precision"),
    *("modelspec.architecture", "modelspec.prediction_type"),
)
_UNGUIDE = re.compile(r"(?P<module>.+)\.lora\.(?P<part>A|B)")
_MOVES_BASE = ("pissa", "olora", "corda", "loftq")  # ways to initialise a LoRA
_PEFT = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B)\.weight")


class LowRank(NamedTuple):
    """A change W + scale * up @ down of one weight."""

    down: torch.Tensor  # (r, in) or (r, in, height, width)
    up: torch.Tensor  # (out, r) or (out, r, 1, 1)
    scale: float


class Changes(NamedTuple):
    """What a file changes, by the names that ``artifact.named_tensors`` gives the base model's tensors.

    Attributes:
        weights: New values.
        low_rank: Changes that are added to a weight.
        settings: What the files say about how they were made.
        notes: What had to be assumed or was left out, for the record.
    """

    weights: dict[str, torch.Tensor]
    low_rank: dict[str, LowRank]
    settings: dict[str, Any]
    notes: list[str]


class Layout(NamedTuple):
    """One way of laying out a file.

    Attributes:
        matches: Whether the content of a file has it.
        read: What a file with it changes in a pipeline whose tensors have these names.
        method: The one method that writes it, if there is only one.
        families: The model families that it exists for.
    """

    matches: Callable[[dict[str, Any]], bool]
    read: Callable[[Source, DiffusionPipeline, Mapping[str, torch.Tensor]], Changes]
    method: str | None = None
    families: tuple[str, ...] = ("sd1", "sd2")


def sniff(source: Source) -> str:
    """Return the layout of a file by its names; ``ValueError`` if it is none that is known."""
    found = [name for name, layout in LAYOUTS.items() if layout.matches(source.content)]
    if not found:
        example = next(iter(source.content))
        raise ValueError(
            f"{source.path} has an unknown layout, with names such as {example!r}: it has to be one of "
            f"{', '.join(LAYOUTS)}."
        )
    return found[0]


def _read_esd(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    return Changes({f"unet.{name}": value for name, value in source.content.items()}, {}, {}, [])


def _read_esd_modules(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    # the authors' class walks a module that holds the UNet as ``unet``
    named = (
        (f"unet.{path.removeprefix('unet.')}.{name}", value)
        for path, part in source.content.items()
        for name, value in part.items()
    )
    return Changes(_once(source, named), {}, {}, [])


def _read_concept_ablation(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    weights = {f"unet.{name}": value for name, value in source.content["unet"].items()}
    if "text_encoder" in source.content:
        weights |= _text_weights(source, source.content["text_encoder"], base)
    return Changes(weights, {}, {}, [])


def _read_ldm(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    content = _ldm_state(source.content)
    if any(name.startswith(_LDM_OPEN_CLIP) for name in content):
        raise ValueError(
            f"{source.path} holds an OpenCLIP text encoder under {_LDM_OPEN_CLIP!r}, as whole checkpoints of SD 2.x "
            f"do, whose names are not read: if only the UNet was trained, save the tensors under {_LDM_UNET!r} alone."
        )
    inner = [name.removeprefix(_LDM_UNET) for name in content if name.startswith(_LDM_UNET)]
    names = from_ldm(inner, pipe.unet.config)
    weights = _once(source, ((f"unet.{names.get(own, own)}", content[_LDM_UNET + own]) for own in inner))
    text: dict[str, torch.Tensor] = {}
    left_out: set[str] = set()
    for name, value in content.items():
        if name.startswith(_LDM_UNET):
            continue
        if name.startswith(_LDM_TEXT):
            text[name.removeprefix(_LDM_TEXT)] = value
        elif _LDM_OTHER.match(name):
            left_out.add(name.partition(".")[0])
        else:
            weights[name] = value  # refused with its own name
    notes = [f"left out: {', '.join(sorted(left_out))}"] if left_out else []
    weights |= _text_weights(source, text, base) if text else {}
    return Changes(weights, {}, {}, notes)


def _read_advunlearn(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    inner: dict[str, torch.Tensor] = {}
    unknown: dict[str, torch.Tensor] = {}
    for name, value in source.content.items():
        if name.startswith("text_encoder."):
            inner[name.removeprefix("text_encoder.")] = value
        elif not name.startswith(_ALIASES):
            unknown[name] = value
    return Changes(unknown | _text_weights(source, inner, base), {}, {}, [])


def _read_text_encoder(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    # two encoders of one shape may differ in their activation, and would then be loaded without a word
    config, own = source.settings.get("config.json", {}), pipe.text_encoder.config.to_dict()
    for name in _TEXT_CONFIG:
        if name in config and config[name] != own[name]:
            raise ValueError(
                f"{source.path.parent} is a text encoder with {name} {config[name]!r}, but the base model's has "
                f"{own[name]!r}: pass the base model that it was made from."
            )
    return Changes(_text_weights(source, source.content, base), {}, {}, [])


def _read_unguide(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    settings = source.settings.get("train_config.json", {})
    notes = ["the adapter alone, without the guidance of UnGuide: it acts for every prompt"]
    if "lora_alpha" not in settings:
        notes.append(f"assumed: alpha {UNGUIDE_ALPHA}, as in the authors' scripts, for want of a train_config.json")
    alpha = _number(source, settings.get("lora_alpha", UNGUIDE_ALPHA))
    parts = _split(source.content, _UNGUIDE)
    names = from_ldm([f"{module}.weight" for module in parts], pipe.unet.config)
    low_rank = []
    for module, part in parts.items():
        _check_pair(source, module, part, ("A", "B"))
        name = names.get(f"{module}.weight", f"{module}.weight")
        # y = W x + alpha (x A) B, with A (in, r) and B (r, out): alpha is not divided by the rank
        low_rank.append((f"unet.{name}", LowRank(part["A"].T, part["B"].T, alpha)))
    return Changes({}, _once(source, low_rank), settings, notes)


def _read_kohya(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    parts = _split(source.content, _KOHYA)
    paths = [name.removesuffix(".weight") for name in base if name.endswith(".weight")]
    modules = from_kohya(parts, paths, pipe.unet.config)
    low_rank = []
    for module, part in parts.items():
        _check_pair(source, module, part, ("lora_down.weight", "lora_up.weight"))
        down, up = part["lora_down.weight"], part["lora_up.weight"]
        alpha = _number(source, part.get("alpha", down.shape[0]))
        low_rank.append((f"{modules.get(module, module)}.weight", LowRank(down, up, alpha / down.shape[0])))
    without = any("alpha" not in part for part in parts.values())
    notes = ["assumed: alpha is the rank where the file has none"] if without else []
    settings = {name: source.metadata[name] for name in _KOHYA_SETTINGS if name in source.metadata}
    if len(settings) < len(source.metadata):
        notes.append(f"not copied: {len(source.metadata) - len(settings)} other entries of the file's header")
    return Changes({}, _once(source, low_rank), settings, notes)


def _read_peft(source: Source, pipe: DiffusionPipeline, base: Mapping[str, torch.Tensor]) -> Changes:
    header = _peft_header(source)
    low_rank = []
    notes: list[str] = []
    for module, part in _split(source.content, _PEFT).items():
        _check_pair(source, module, part, ("A", "B"))
        component, _, path = module.partition(".")
        if module.startswith("base_model.model."):
            component, path = "unet", module.removeprefix("base_model.model.")
        config = source.settings.get("adapter_config.json") or {
            name.removeprefix(f"{component}."): value
            for name, value in header.items()
            if name.startswith(f"{component}.")
        }
        if not config:
            notes = ["assumed: alpha is the rank, as diffusers does where the file does not say"]
        scale = _peft_scale(source, config, path, rank=part["A"].shape[0])
        name = f"{component}.{_with_text_model(component, path)}.weight"
        low_rank.append((name, LowRank(part["A"], part["B"], scale)))
    settings = source.settings.get("adapter_config.json") or header
    return Changes({}, _once(source, low_rank), settings, notes)


def _peft_header(source: Source) -> dict[str, Any]:
    """Return the settings of the adapters that diffusers writes into the header, by component and name."""
    try:
        header = json.loads(source.metadata.get("lora_adapter_metadata", "{}"))
    except ValueError as error:
        raise ValueError(f"{source.path} has a damaged lora_adapter_metadata ({error}): get it again.") from error
    return header if isinstance(header, dict) else {}


def _peft_scale(source: Source, config: dict[str, Any], path: str, *, rank: int) -> float:
    start = str(config.get("init_lora_weights"))
    if start.startswith(_MOVES_BASE):
        raise ValueError(
            f"{source.path} began as {start!r}, which moves the base model's own weights, so it does not fit them: "
            "convert it to a plain LoRA first."
        )
    alphas = config.get("alpha_pattern") or {}
    try:
        alpha = alphas.get(get_pattern_key(list(alphas), path), config.get("lora_alpha", rank))
    except (AttributeError, TypeError, re.error) as error:
        raise ValueError(f"{source.path} has a damaged alpha_pattern ({error}): get it again.") from error
    alpha = _number(source, alpha)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _number(source: Source, alpha: object) -> float:
    if isinstance(alpha, torch.Tensor) and alpha.numel() == 1:
        alpha = alpha.item()
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(
            f"{source.path} has a LoRA whose alpha is no number, so its strength is unknown: get it again."
        )
    return float(alpha)


def _split(content: dict[str, Any], pattern: re.Pattern[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the parts of each module; names that do not match are kept as modules without parts, to be refused."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in content.items():
        match = pattern.fullmatch(name)
        module, part = (match["module"], match["part"]) if match else (name, "")
        parts.setdefault(module, {})[part] = value
    return parts


def _check_pair(source: Source, module: str, part: dict[str, torch.Tensor], names: tuple[str, str]) -> None:
    if missing := [name for name in names if name not in part]:
        raise ValueError(
            f"{source.path} has no {missing[0]} of {module!r}, so it is damaged or not a plain LoRA: pass a complete "
            "plain LoRA."
        )
    if any(not isinstance(part[name], torch.Tensor) or part[name].ndim < 2 or not part[name].numel() for name in names):
        raise ValueError(f"{source.path} has a LoRA of {module!r} that is no pair of matrices: pass a plain LoRA.")
    if not all(is_plain(part[name]) for name in names):
        raise ValueError(
            f"{source.path} has a LoRA of {module!r} that is not of plain floating point numbers: pass one that is "
            "neither quantised nor sparse."
        )


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its values as they are: quantised ones would be copied without their scales."""
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta


def _once(source: Source, named: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Return the values by name, or refuse two for one weight, of which one would be lost."""
    found: dict[str, Value] = {}
    for name, value in named:
        if name in found:
            raise ValueError(
                f"{source.path} holds {name!r} twice under different names, so one change would be lost: leave one out."
            )
        found[name] = value
    return found


def _text_weights(
    source: Source, state: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name the tensors of a whole CLIP text encoder as the hub does; older versions save their positions too."""
    names = ((f"text_encoder.{_with_text_model('text_encoder', str(name))}", value) for name, value in state.items())
    found = _once(source, ((name, value) for name, value in names if not name.endswith(".position_ids")))
    wanted = [name for name in base if name.startswith("text_encoder.")]
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{source.path} holds a text encoder without {missing[0]!r} (and {len(missing) - 1} more of {len(wanted)}),"
            " so a part of what was trained may be missing: pass the whole text encoder of this base model."
        )
    return found


def _with_text_model(component: str, name: str) -> str:
    flat = component == "text_encoder" and not name.startswith(_TEXT)
    return _TEXT + name if flat else name


def _ldm_state(content: dict[str, Any]) -> dict[str, Any]:
    inner = content.get("state_dict")
    return inner if isinstance(inner, dict) and all(isinstance(name, str) for name in inner) else content


def _is_nested(content: dict[str, Any]) -> bool:
    return all(isinstance(value, dict) for value in content.values())


def _is_concept_ablation(content: dict[str, Any]) -> bool:
    return _is_nested(content) and "unet" in content and content.keys() <= {"unet", "text_encoder"}


def _all(test: Callable[[str], object]) -> Callable[[dict[str, Any]], bool]:
    return lambda content: not _is_nested(content) and all(test(name) for name in content)


LAYOUTS = {
    "ldm": Layout(lambda content: any(name.startswith(_LDM_UNET) for name in _ldm_state(content)), _read_ldm),
    "concept-ablation": Layout(_is_concept_ablation, _read_concept_ablation, families=("sd1", "sd2", "sdxl")),
    "esd-modules": Layout(
        lambda content: (
            _is_nested(content) and any(_UNET_NAMES.match(f"{name.removeprefix('unet.')}.") for name in content)
        ),
        _read_esd_modules,
        method="esd",
        families=("sd1", "sd2", "sdxl"),
    ),
    # without its guidance the adapter is another method, and is not to be counted as UnGuide in a comparison
    "unguide": Layout(_all(_UNGUIDE.fullmatch), _read_unguide, method="unguide-adapter"),
    "kohya": Layout(_all(lambda name: name.startswith("lora_")), _read_kohya, families=("sd1", "sd2", "sdxl")),
    "peft": Layout(_all(lambda name: ".lora_" in name), _read_peft, families=("sd1", "sd2", "sdxl")),
    "advunlearn": Layout(
        lambda content: any(name.startswith("text_encoder.") for name in content), _read_advunlearn, method="advunlearn"
    ),
    "text-encoder": Layout(_all(lambda name: name.startswith(_TEXT_NAMES)), _read_text_encoder),
    "esd": Layout(
        lambda content: any(_UNET_NAMES.match(name) for name in content), _read_esd, families=("sd1", "sd2", "sdxl")
    ),
}
