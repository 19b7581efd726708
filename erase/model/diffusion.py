"""The leaves that methods share: encode, predict, noise, select parameters.

This is the only file that knows model families: Stable Diffusion 1.x, 2.x (epsilon or v-prediction) and XL.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline


FAMILIES = ("sd1", "sd2", "sdxl")
VARIANTS = ("x", "strict", "u", "attention")
ENCODE_BATCH = 32  # prompts in one call of the text encoder: CLIP-L takes 3.5 MiB for each of them while it computes
_PREDICTION_TYPES = ("epsilon", "v_prediction")
_FP16_LOSS_SCALE = 4096.0
_ENCODER_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")  # CLIPTextModel has a text_model. prefix or none


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, addressed by their text, so that every prompt is encoded once."""

    index: dict[str, int]  # prompt -> row
    prompt_embeds: torch.Tensor  # (N, 77, D)
    pooled_prompt_embeds: torch.Tensor | None = None  # (N, P), SDXL
    time_ids: torch.Tensor | None = None  # (1, 6), SDXL

    def rows(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the UNet's keyword arguments for a batch with these prompts."""
        picked = [self.index[prompt] for prompt in prompts]
        arguments: dict[str, Any] = {"encoder_hidden_states": self.prompt_embeds[picked]}
        if self.pooled_prompt_embeds is not None and self.time_ids is not None:
            time_ids = self.time_ids.expand(len(picked), -1)
            arguments["added_cond_kwargs"] = {"text_embeds": self.pooled_prompt_embeds[picked], "time_ids": time_ids}
        return arguments


def family(pipe: DiffusionPipeline) -> str:
    """Return ``sd1``, ``sd2`` or ``sdxl``; ``ValueError`` for every pipeline whose erasure could not be guaranteed."""
    check_class(type(pipe))
    config = pipe.unet.config
    if config.in_channels != pipe.vae.config.latent_channels or config.time_cond_proj_dim is not None:
        raise ValueError(
            f"The UNet has in_channels {config.in_channels} and time_cond_proj_dim {config.time_cond_proj_dim}, so "
            "this is an inpainting, editing or distilled model: pass a plain text-to-image model."
        )
    if any("lora_" in name for name, _ in pipe.unet.named_modules()):
        raise ValueError(
            "The UNet carries LoRA layers, which would be saved apart from the erased weights: "
            "call pipe.fuse_lora() and pipe.unload_lora_weights() first."
        )
    if prediction_type(pipe) not in _PREDICTION_TYPES:
        raise ValueError(
            f"The scheduler's prediction_type is {prediction_type(pipe)!r}, but {' or '.join(_PREDICTION_TYPES)} "
            "is needed: pass a model that predicts noise or velocity."
        )
    if isinstance(pipe, StableDiffusionXLPipeline):
        return "sdxl"
    return "sd2" if config.use_linear_projection else "sd1"


def check_class(pipeline_class: type) -> None:
    """Refuse a class of pipelines that are of no family."""
    if not issubclass(pipeline_class, StableDiffusionPipeline | StableDiffusionXLPipeline):
        raise ValueError(
            f"The pipeline is a {pipeline_class.__name__}, but only Stable Diffusion 1.x, 2.x and XL text-to-image "
            "pipelines are supported: load the model as StableDiffusionPipeline or StableDiffusionXLPipeline."
        )


def names_sdxl(class_name: str) -> bool:
    """Whether a model index with this pipeline class is of the family ``sdxl``.

    Example:
        >>> names_sdxl("StableDiffusionXLPipeline"), names_sdxl("StableDiffusionPipeline")
        (True, False)
    """
    return class_name.startswith("StableDiffusionXL")


def prediction_type(pipe: DiffusionPipeline) -> str:
    """Return what the UNet predicts, by the scheduler's configuration; the oldest ones do not say and mean epsilon."""
    return pipe.scheduler.config.get("prediction_type", "epsilon")


def ddim_sampler(pipe: DiffusionPipeline, num_inference_steps: int) -> DDIMScheduler:
    """Return a deterministic sampler of the model's own noise schedule; the pipeline's scheduler is not touched."""
    # clipping to [-1, 1] is for pixels: on latents it would change every trajectory without a word
    sampler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if num_inference_steps > sampler.config.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}, but the model was trained on "
            f"{sampler.config.num_train_timesteps} timesteps: choose fewer."
        )
    sampler.set_timesteps(num_inference_steps)
    return sampler


def latent_shape(pipe: DiffusionPipeline) -> tuple[int, int, int]:
    """Return (channels, height, width) of a latent at the resolution that the UNet was trained at."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return pipe.unet.config.in_channels, height, width


def encode_prompts(
    pipe: DiffusionPipeline, prompts: Sequence[str], *, device: torch.device, is_empty_unconditional: bool = True
) -> Conditioning:
    """Encode every distinct prompt once and keep all of them, about 230 KiB per prompt of Stable Diffusion 1.x.

    Args:
        pipe: A Stable Diffusion pipeline.
        prompts: At least one.
        device: Where the text encoder is.
        is_empty_unconditional: Let the empty prompt be this pipeline's own unconditional prompt, which is zero in most
            SDXL models. If False, encode it by its tokens like every other prompt.

    Raises:
        ValueError: A prompt is longer than the text encoder reads.
    """
    distinct = list(dict.fromkeys(prompts))
    batches = encode_in_batches(pipe, distinct, device=device, is_empty_unconditional=is_empty_unconditional)
    first = next(batches)
    whole = Conditioning(
        _rows_of(distinct), _enlarged(first.prompt_embeds, len(distinct)), first.pooled_prompt_embeds, first.time_ids
    )
    if first.pooled_prompt_embeds is not None:
        whole = replace(whole, pooled_prompt_embeds=_enlarged(first.pooled_prompt_embeds, len(distinct)))
    for batch in batches:
        rows = [whole.index[prompt] for prompt in batch.index]
        whole.prompt_embeds[rows] = batch.prompt_embeds
        if whole.pooled_prompt_embeds is not None and batch.pooled_prompt_embeds is not None:
            whole.pooled_prompt_embeds[rows] = batch.pooled_prompt_embeds
    return whole


def encode_in_batches(
    pipe: DiffusionPipeline, prompts: Sequence[str], *, device: torch.device, is_empty_unconditional: bool = True
) -> Iterator[Conditioning]:
    """Encode every distinct prompt once, in the order in which they first appear, and yield ``ENCODE_BATCH`` at a time.

    Whoever lets go of a batch before the next one needs memory that does not depend on the number of prompts. All
    prompts are checked before the first one is encoded. The arguments are those of ``encode_prompts``.
    """
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        check_length(pipe, prompt)
    for first in range(0, len(distinct), ENCODE_BATCH):
        batch = distinct[first : first + ENCODE_BATCH]
        yield _encode(pipe, batch, device=device, is_empty_unconditional=is_empty_unconditional)


def encode_with_gradient(
    pipe: DiffusionPipeline, prompts: Sequence[str], *, prefix: torch.Tensor | None = None, gap: int | None = None
) -> torch.Tensor:
    """Encode prompts with one CLIP text encoder so that gradients reach its weights and ``prefix``; (B, 77, D).

    This is the pipeline's own ``encode_prompt``: ``CLIPTextModel`` takes no embeddings, so the prefix enters where the
    encoder embeds the tokens.

    Args:
        pipe: A Stable Diffusion 1.x or 2.x pipeline.
        prompts: The texts, not only the distinct ones.
        prefix: Token embeddings to insert after the first token (BOS): (1, k, D) for every prompt, or (B, k, D).
        gap: The token position from which k tokens give way to the prefix; by default the padding at the end does.
    """
    encoder = pipe.text_encoder
    hooks = []
    if prefix is not None:
        if encoder.config.to_dict().get("use_attention_mask"):  # set by few; the mask would not fit what it masks
            raise ValueError("The text encoder masks its padding, so no prefix can be inserted: use another model.")
        for prompt in prompts if gap is None else ():
            check_length(pipe, prompt, room=prefix.shape[1])
        hooks.append(
            encoder.get_input_embeddings().register_forward_hook(
                lambda module, inputs, embeds: _insert_prefix(embeds, prefix, gap)
            )
        )
    try:
        # as in predict_noise: trained tensors are fp32 in a half-precision encoder
        half = encoder.dtype != torch.float32
        with torch.autocast(encoder.device.type, dtype=encoder.dtype if half else None, enabled=half):
            return pipe.encode_prompt(list(prompts), encoder.device, 1, False)[0].to(pipe.unet.dtype)
    finally:
        for hook in hooks:
            hook.remove()


def predict_noise(
    unet: torch.nn.Module, latents: torch.Tensor, timesteps: torch.Tensor, *, conditioning: dict[str, Any]
) -> torch.Tensor:
    """Return the UNet's fp32 prediction, in its own prediction type, for latents at ``timesteps`` (one, or one each).

    ``conditioning`` is what ``Conditioning.rows`` returns. Where the frozen weights are in half precision, the fp32
    student tensors among them are cast by autocast, entered for each call because its cache of cast weights would
    otherwise outlive an optimiser step and a change of roles.
    """
    dtype = conditioning["encoder_hidden_states"].dtype
    with torch.autocast(latents.device.type, dtype=dtype, enabled=dtype != torch.float32):
        return unet(latents.to(dtype), timesteps, **conditioning, return_dict=False)[0].float()


def backward(loss: torch.Tensor, parameters: Iterable[torch.Tensor], *, dtype: torch.dtype) -> None:
    """Set the gradients of ``loss`` for ``parameters`` alone, in fp32; scaled on the way where the model is fp16.

    The mean over a latent gives gradients near fp16's smallest number. The parameters come without gradients.
    """
    trained = list(parameters)
    if dtype != torch.float16:
        loss.backward(inputs=trained)
        return
    (loss * _FP16_LOSS_SCALE).backward(inputs=trained)
    torch._foreach_div_([each.grad for each in trained if each.grad is not None], _FP16_LOSS_SCALE)


def add_noise(
    scheduler: DDIMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, with one timestep for each row."""
    signal, sigma = _signal_and_sigma(scheduler, latents, timesteps)
    return signal * latents + sigma * noise


def predict_original(
    scheduler: DDIMScheduler, noise_pred: torch.Tensor, latents: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return x_0 as implied by a prediction at x_t, for epsilon- and v-prediction, with one timestep for each row."""
    signal, sigma = _signal_and_sigma(scheduler, latents, timesteps)
    if scheduler.config.prediction_type == "v_prediction":
        return signal * latents - sigma * noise_pred
    return (latents - sigma * noise_pred) / signal


def training_target(
    scheduler: DDIMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return what the diffusion loss asks for at x_t: the noise, or v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0."""
    if scheduler.config.prediction_type != "v_prediction":
        return noise
    signal, sigma = _signal_and_sigma(scheduler, latents, timesteps)
    return signal * noise - sigma * latents


@contextmanager
def start_token_detached(unet: torch.nn.Module) -> Iterator[None]:
    """Let no gradient pass through the keys and values of the first token, as the Custom Diffusion code has it.

    The predictions are unchanged.
    """

    def detach(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    modules = [module for name, module in unet.named_modules() if name.endswith((".attn2.to_k", ".attn2.to_v"))]
    hooks = [module.register_forward_hook(detach) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def select_parameters(pipe: DiffusionPipeline, variant: str) -> dict[str, torch.nn.Parameter]:
    """Return the UNet's parameters of a variant by name: those of the Linear and Conv2d modules that it trains.

    ``x`` is all of the cross-attention (q, k, v, out); ``strict`` its keys and values; ``attention`` all of cross- and
    self-attention; ``u`` everything but the cross-attention, the time embedding and the output layer, and in SDXL only
    what is inside the blocks and no embedding of any kind, as ESD's authors do.
    """
    if variant not in VARIANTS:
        raise ValueError(f"The variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}.")
    is_sdxl = isinstance(pipe, StableDiffusionXLPipeline)
    parameters = {
        f"{path}.{name}": parameter
        for path, module in pipe.unet.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and _is_trained(path, variant, is_sdxl)
        for name, parameter in module.named_parameters(recurse=False)
    }
    if not parameters:
        raise ValueError(
            f"The variant {variant!r} selects no parameter of this {type(pipe.unet).__name__}, so nothing would be "
            "erased: choose another variant or a UNet with cross-attention."
        )
    return parameters


def select_text_encoder_parameters(
    pipe: DiffusionPipeline, layers: Sequence[int], *, by_prefix: bool = False
) -> dict[str, torch.nn.Parameter]:
    """Return the text encoder's parameters by name: those of some layers, or with none given of its whole encoder.

    The whole encoder is all layers and the final layer norm, never the embeddings. A layer is told by its number, or
    as in AdvUnlearn's code ``by_prefix``: layers 10 and 11 are then taken for layer 1 as well.
    """
    named = dict(pipe.text_encoder.named_parameters())
    if any("lora_" in name for name in named):
        raise ValueError(
            "The text encoder carries LoRA layers, which would be saved apart from the erased weights: "
            "call pipe.fuse_lora() and pipe.unload_lora_weights() first."
        )
    numbers = {name: int(match[1]) for name in named if (match := _ENCODER_LAYER.search(name))}
    if unknown := sorted(set(layers) - set(numbers.values())):
        raise ValueError(
            f"The text encoder has no layer {unknown[0]}: choose from 0 to {max(numbers.values())}, or none for all."
        )
    if layers and by_prefix:
        digits = tuple(map(str, layers))
        return {name: named[name] for name, number in numbers.items() if str(number).startswith(digits)}
    if layers:
        return {name: named[name] for name, number in numbers.items() if number in layers}
    return {name: tensor for name, tensor in named.items() if name in numbers or ".final_layer_norm." in f".{name}"}


def check_length(pipe: DiffusionPipeline, prompt: str, *, room: int = 0) -> None:
    """Refuse a prompt that the encoder would cut, ``room`` further tokens included: that part would not be erased."""
    length, limit = len(pipe.tokenizer(prompt).input_ids) + room, pipe.tokenizer.model_max_length
    if length > limit:
        further = f" with a prefix of {room}" if room else ""
        raise ValueError(
            f"The prompt {prompt!r} has {length} tokens{further}, but the model reads {limit}: shorten it."
        )


@torch.no_grad()
def _encode(
    pipe: DiffusionPipeline, prompts: list[str], *, device: torch.device, is_empty_unconditional: bool
) -> Conditioning:
    texts = {"prompt": prompts, "device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    if not isinstance(pipe, StableDiffusionXLPipeline):
        prompt_embeds, _ = pipe.encode_prompt(**texts)
        return Conditioning(_rows_of(prompts), prompt_embeds.to(pipe.unet.dtype))
    prompt_embeds, _, pooled_prompt_embeds, _ = pipe.encode_prompt(**texts)
    if "" in prompts and is_empty_unconditional and pipe.config.force_zeros_for_empty_prompt:
        prompt_embeds[prompts.index("")] = 0.0
        pooled_prompt_embeds[prompts.index("")] = 0.0
    _, height, width = (side * pipe.vae_scale_factor for side in latent_shape(pipe))
    # original size, top left corner of the crop, target size: as pipe() fills them in for an uncropped image
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=pipe.unet.dtype, device=device)
    embeds = prompt_embeds.to(pipe.unet.dtype), pooled_prompt_embeds.to(pipe.unet.dtype)
    return Conditioning(_rows_of(prompts), *embeds, time_ids)


def _enlarged(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the tensor with room for further rows after its own; no second copy of all rows ever exists."""
    enlarged = tensor.new_empty(rows, *tensor.shape[1:])
    enlarged[: len(tensor)] = tensor
    return enlarged


def _insert_prefix(embeds: torch.Tensor, prefix: torch.Tensor, gap: int | None) -> torch.Tensor:
    tokens = prefix.shape[1]
    gap = embeds.shape[1] - tokens if gap is None else gap
    inserted = prefix.to(embeds.dtype).expand(len(embeds), -1, -1)
    return torch.cat([embeds[:, :1], inserted, embeds[:, 1:gap], embeds[:, gap + tokens :]], dim=1)


def _is_trained(path: str, variant: str, is_sdxl: bool) -> bool:
    if variant == "strict":
        return path.endswith((".attn2.to_k", ".attn2.to_v"))
    if variant == "x":
        return ".attn2." in path
    if variant == "attention":
        return ".attn1." in path or ".attn2." in path
    if ".attn2." in path or path.startswith(("time_embedding.", "conv_out")):
        return False
    return not is_sdxl or (path.startswith(("down_blocks.", "mid_block.", "up_blocks.")) and "emb" not in path)


def _rows_of(prompts: list[str]) -> dict[str, int]:
    return {prompt: row for row, prompt in enumerate(prompts)}


def _signal_and_sigma(
    scheduler: DDIMScheduler, latents: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    alphas = scheduler.alphas_cumprod.to(latents.device)[timesteps].view(-1, 1, 1, 1)
    return alphas.sqrt(), (1 - alphas).sqrt()
