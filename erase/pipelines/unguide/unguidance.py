"""UnGuidance: follow the base for benign samples and w * base + (1 - w) * adapter for those that show the target.

https://arxiv.org/abs/2508.05755. How far base and adapter disagree in the first steps decides, while the image is made.
With ``mode="exact"`` the disagreement about the prompt is divided by the root of that about the empty prompt, which
the adapter changes as well, at the same states: so a threshold parts target and benign samples better.
This file is copied into the artefact and imports nothing but torch, diffusers, peft and safetensors.

A benign image takes at most 1.25 times, and one that shows the target at most 2.1 times, the UNet's rows of the plain
pipeline. Where the empty prompt is not in the base's call, because there is a negative prompt or no classifier-free
guidance, to observe it takes one more row; fewer steps are then observed, and decide by a threshold of their own, if
they told every target. Then the bounds hold from 4 steps on with guidance, from 6 on with a negative prompt and from 20
on without guidance, where a plain step is one row; with less steps one is observed all the same. A callback that ends
the guidance on the way makes the plain image cheaper, but what is observed as dear as before.

While a sample is undecided it follows the base. So the samples that are then decided benign have followed nothing else
(with ``benign_weight`` 1), and the disagreement is measured where the authors measure it: along the base's way.

The adapter's rows are a call of their own, of as many rows as still need it, instead of a part of one mixed batch: the
costs in samples are the same, and the base's call is then the very call that the plain pipeline would make, which gives
the same bits on every device whatever kernels a batch size selects there. Blending before classifier-free guidance
is the same as after it, because guidance is linear in the predictions and both roles have the same scale.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import BaseGuidance
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file


ADAPTER = "unguide"
LORA = "pytorch_lora_weights.safetensors"
SCHEMA_VERSION = 3
_ROWS = "encoder_hidden_states"  # the only argument of the UNet, beside the sample, that is split by rows


class Observation(NamedTuple):
    """How many steps are observed, and the threshold of what is then found."""

    steps: int
    threshold: float


class UnGuidance(BaseGuidance):
    """The adapter's weights and how they are used; attached to a UNet by the pipeline.

    Args:
        threshold: A sample whose disagreement, see above, is above it shows the target.
        early_thresholds: The same after each of the first ``observe_steps - 1`` steps, or None where these did not tell
            a target; used where all of them would cost too much.
        observe_steps: k, the steps before the decision, of ``num_inference_steps``; other numbers of steps observe the
            same share of them, at least one and at most a quarter.
        num_inference_steps: The steps for which ``threshold`` was found.
        target_weight: w for samples that show the target.
        benign_weight: w for the others; 1 leaves them to the base, bit for bit, and at its cost.
        mode: ``exact``, or ``upstream``, where the disagreement about the prompt alone decides.
        rank: Of the adapter.
        alpha: The factor of the adapter (not divided by the rank).
        target_modules: The layers of the UNet that carry it.
        calibration: How well the threshold parts the samples that it was found on, also for each target alone.
        schema_version: Of this format.
    """

    @register_to_config
    def __init__(
        self,
        *,
        threshold: float,
        early_thresholds: list[float | None],
        observe_steps: int,
        num_inference_steps: int,
        target_weight: float,
        benign_weight: float,
        mode: str,
        rank: int,
        alpha: float,
        target_modules: list[str],
        calibration: dict[str, Any],
        schema_version: int = SCHEMA_VERSION,
    ) -> None:
        """Remember the settings; ``weights`` must follow before it is attached."""
        # the parent's own __init__ serves modular pipelines only, and warns at each call
        self.weights: dict[str, torch.Tensor] = {}
        self.statistic = torch.empty(0)  # of each sample of the latest generation
        self.statistics = torch.empty(0)  # (observed steps, samples): the same if it had ended after fewer steps
        self.weight = torch.empty(0)  # w of each of these samples

    def __repr__(self) -> str:
        """Show the settings."""
        return f"UnGuidance({json.dumps(dict(self.config), default=str)})"

    @classmethod
    def from_pretrained(cls, folder: str | Path, **unused: Any) -> "UnGuidance":  # noqa: ANN401 - diffusers' options
        """Read a guider from its folder."""
        settings = json.loads((Path(folder) / cls.config_name).read_text(encoding="utf-8"))
        if (version := settings.get("schema_version")) != SCHEMA_VERSION:
            raise ValueError(
                f"{folder} has schema_version {version}, but this code reads {SCHEMA_VERSION}: erase again."
            )
        guider = cls(**{name: value for name, value in settings.items() if not name.startswith("_")})
        tensors = load_file(Path(folder) / LORA)
        guider.weights = {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
        return guider

    def save_pretrained(self, folder: str | Path, **unused: Any) -> None:  # noqa: ANN401 - diffusers' options
        """Write the settings, the adapter and this file, which the folder needs to be loaded.

        The adapter's file is as ``save_lora_weights`` of diffusers writes it, but for what differs from run to run: the
        order of a set, and that of several entries of a header.
        """
        self.save_config(folder)
        settings = self._lora_config().to_dict() | {"target_modules": sorted(self.config.target_modules)}
        header = json.dumps({f"unet.{name}": value for name, value in settings.items()}, indent=2, sort_keys=True)
        tensors = {f"unet.{name}": tensor for name, tensor in self.weights.items()}
        save_file(tensors, Path(folder) / LORA, metadata={LORA_ADAPTER_METADATA_KEY: header})
        shutil.copyfile(__file__, Path(folder) / "unguidance.py")

    def attach(self, unet: UNet2DConditionModel) -> None:
        """Give the UNet the adapter, active, so that the UNet alone is erased too; one that is there already stays."""
        if ADAPTER not in vars(unet).get("peft_config", {}):
            required = {parameter: parameter.requires_grad for parameter in unet.parameters()}
            with torch.random.fork_rng(devices=[]):  # the values it draws are overwritten
                unet.add_adapter(self._lora_config(), adapter_name=ADAPTER)
            for parameter, flag in required.items():
                parameter.requires_grad_(flag)
            set_peft_model_state_dict(unet, self.weights, adapter_name=ADAPTER)
        layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            for part in (*layer.lora_A.values(), *layer.lora_B.values()):
                part.to(unet.device, unet.dtype).requires_grad_(False).eval()
        attached = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
        if attached.keys() != self.weights.keys():
            odd = min(attached.keys() ^ self.weights.keys())
            raise ValueError(f"The adapter and this UNet differ in {odd}: the pipeline would not be erased.")

    @contextmanager
    def detached(self, unet: UNet2DConditionModel) -> Iterator[None]:
        """Take the adapter off the UNet in this block, which then has the base's own layers."""
        unet.unload_lora()
        try:
            yield
        finally:
            self.attach(unet)

    @contextmanager
    def guide(
        self,
        unet: UNet2DConditionModel,
        *,
        is_guided: bool,
        steps: int,
        weight: float | Sequence[float] | None = None,
        empty_prompt: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Guide every call of the UNet in this block, which makes one batch of images.

        Args:
            unet: The UNet with the adapter.
            is_guided: Whether each sample has two rows, unconditional ones first; later calls may have one or two.
            steps: The calls that the images will take.
            weight: w for all samples or for each, in the place of a decision.
            empty_prompt: Embeddings of the empty prompt, (1, tokens, channels); needed for a decision if ``mode`` is
                ``exact``. It is not read off the batch, whose unconditional rows may hold a negative prompt. For
                prompts of another length it is repeated, which changes nothing to attention, and cut.

        Raises:
            ValueError: The adapter is not as it was trained, ``empty_prompt`` is missing, there is no step after the
                decision, the UNet was called with what cannot be split by rows, or the prompts of which it is decided
                changed.
            RuntimeError: The block ended before the decision.
        """
        if weight is None and steps < 2:
            raise ValueError(
                "One denoising step is asked for, but the first one only decides, so no image would be erased: use 2 "
                "or more, or pass the weight."
            )
        if self.config.mode == "exact" and weight is None and empty_prompt is None:
            raise ValueError("The decision needs the embeddings of the empty prompt: pass empty_prompt.")
        layers = self._check(unet)
        empty = empty_prompt if self.config.mode == "exact" else None
        generation = _Generation(self, unet, layers, is_guided=is_guided, steps=steps, weight=weight, empty=empty)
        _switch(layers, on=False)
        hook = unet.register_forward_hook(generation, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
            _switch(layers, on=True)
        if not generation.is_decided:
            raise RuntimeError(
                "The generation ended before it was decided which samples show the target, so they are not erased: "
                "use the pipeline's own UNet, and do not stop it in its first steps."
            )
        self.statistics, self.weight = generation.statistics.cpu(), generation.weight.cpu()
        self.statistic = self.statistics[-1] if len(self.statistics) else self.statistics

    def observation(self, steps: int, *, rows: int, extra: int) -> Observation:
        """Return what decides a generation of this many steps.

        Args:
            steps: At least 2.
            rows: What the base takes for a step, for each sample: 2 with classifier-free guidance, else 1.
            extra: What to observe a step takes more.
        """
        share = self.config.observe_steps / self.config.num_inference_steps
        most = max(1, min(round(share * steps), steps // 4))
        affordable = steps * rows // (4 * extra)  # a benign image has the base's rows and these
        if extra > rows:  # one with the target has twice the base's rows, but for the steps that are observed
            affordable = min(affordable, steps * rows // (10 * (extra - rows)))
        thresholds = [*self.config.early_thresholds, self.config.threshold]
        for observed in range(max(1, affordable), most):
            threshold = thresholds[math.ceil(observed / most * len(thresholds)) - 1]
            if threshold is not None:
                return Observation(observed, threshold)
        return Observation(most, self.config.threshold)

    def _lora_config(self) -> LoraConfig:
        rank = self.config.rank
        modules = list(self.config.target_modules)
        # a fraction is as good as the int that peft's annotation asks for: it is only divided by the rank
        return LoraConfig(r=rank, lora_alpha=self.config.alpha * rank, target_modules=modules)

    def _check(self, unet: UNet2DConditionModel) -> list[LoraLayer]:
        """Return the adapter's layers, or refuse a UNet in which the adapter would not do what it was trained for."""
        layers: list[LoraLayer] = [module for module in unet.modules() if isinstance(module, LoraLayer)]
        intact = len(layers) == len(self.config.target_modules) and all(
            layer.active_adapters == [ADAPTER]
            and not layer.merged
            and math.isclose(layer.scaling[ADAPTER], self.config.alpha)
            for layer in layers
        )
        if not intact:
            raise ValueError(
                f"The adapter {ADAPTER!r} of this UNet was removed, fused, rescaled or joined by another one, so the "
                "images would not be erased: load the pipeline again and leave its adapter as it is."
            )
        return layers


class _Generation:
    """A forward hook of the UNet for one batch: adds the adapter's rows to the base's call and blends them."""

    def __init__(
        self,
        guider: UnGuidance,
        unet: UNet2DConditionModel,
        layers: list[LoraLayer],
        *,
        is_guided: bool,
        steps: int,
        weight: float | Sequence[float] | None,
        empty: torch.Tensor | None,
    ) -> None:
        self.guider, self.unet, self.layers, self.is_guided = guider, unet, layers, is_guided
        self.steps, self.given, self.empty = steps, weight, empty
        self.prompts = torch.empty(0)  # (samples, tokens, channels), of the first call
        self.observation = Observation(0, math.nan)
        self.calls = 0
        self.is_decided = False
        self.is_inside = False  # a call of ours
        # for each step (1 or 2, samples): about the prompt, and about the empty prompt
        self.disagreements: list[torch.Tensor] = []
        self.statistics = torch.empty(0)  # (observed steps, samples)
        self.weight = torch.empty(0)

    def __call__(self, unet: UNet2DConditionModel, inputs: tuple, arguments: dict[str, Any], output: Any) -> Any:  # noqa: ANN401
        """Return the prediction to follow, or None where it is the base's."""
        if self.is_inside:
            return None
        _refuse_unknown(inputs, arguments)
        base, embeds = output[0], arguments[_ROWS]
        if self.calls == 0:
            self._begin(len(base) // (2 if self.is_guided else 1), embeds)
        self.calls += 1
        count = len(self.weight)
        if self.given is None and not torch.equal(embeds[-count:], self.prompts):
            raise ValueError(
                "The prompt embeddings changed during the generation, but what shows the target is decided for the "
                "first ones: leave them as they are, or pass the weight."
            )
        if not self.is_decided:
            self._observe(base, count, inputs, arguments)
            if self.calls == self.observation.steps:
                self._decide()
            return None
        samples = (self.weight != 1.0).nonzero().flatten().tolist()
        if not samples:
            return None
        rows = [half + sample for half in range(0, len(base), count) for sample in samples]
        weight = self.weight.repeat(len(base) // count)[rows].view(-1, 1, 1, 1).to(base.dtype)
        adapter = self._predict(rows, inputs, arguments, embeds[rows])
        blended = base.clone()
        blended[rows] = weight * base[rows] + (1 - weight) * adapter
        return (blended, *output[1:]) if isinstance(output, tuple) else type(output)(blended)

    def _begin(self, count: int, embeds: torch.Tensor) -> None:
        self.weight = torch.full((count,), math.nan, device=embeds.device)
        if self.given is not None:
            given = [self.given] * count if isinstance(self.given, int | float) else list(self.given)
            if len(given) != count:
                raise ValueError(f"{len(given)} weights were given for {count} samples: give one, or one for each.")
            self.weight = torch.tensor(given, dtype=torch.float32, device=embeds.device)
            self.is_decided = True
            return
        self.prompts = embeds[-count:].clone()  # a callback may change the tensor itself
        extra = 1
        if self.empty is not None:
            tokens = embeds.shape[1]
            copies = math.ceil(tokens / self.empty.shape[1])
            self.empty = self.empty.to(embeds).repeat(1, copies, 1)[:, :tokens].expand_as(embeds[:count])
            extra = 2 if _is_there(self.empty, embeds) else 3
        self.observation = self.guider.observation(self.steps, rows=2 if self.is_guided else 1, extra=extra)

    def _observe(self, base: torch.Tensor, count: int, inputs: tuple, arguments: dict[str, Any]) -> None:
        """Keep the disagreements of one step: about the prompt, and about the empty prompt."""
        rows = list(range(len(base) - count, len(base)))
        prompts, reference = arguments[_ROWS][rows], base[rows]
        if self.empty is not None:
            known = base[:count]
            if not _is_there(self.empty, arguments[_ROWS]):  # a callback may have ended the guidance
                known = self._predict(rows, inputs, arguments, self.empty, adapter=False)
            rows, prompts, reference = rows * 2, torch.cat([prompts, self.empty]), torch.cat([reference, known])
        difference = self._predict(rows, inputs, arguments, prompts).float() - reference.float()
        self.disagreements.append(difference.square().flatten(1).mean(1).sqrt().view(-1, count))

    def _decide(self) -> None:
        found = self.disagreements
        self.statistics = torch.stack([_statistic(found[: done + 1]) for done in range(len(found))])
        settings = self.guider.config
        # a statistic that is not a number is not below the threshold: what cannot be judged is erased
        is_benign = self.statistics[-1] <= self.observation.threshold
        target = torch.full_like(self.weight, settings.target_weight)
        self.weight = torch.where(is_benign, torch.full_like(target, settings.benign_weight), target)
        self.is_decided = True

    def _predict(
        self,
        rows: list[int],
        inputs: tuple,
        arguments: dict[str, Any],
        prompts: torch.Tensor,
        *,
        adapter: bool = True,
    ) -> torch.Tensor:
        """Return the adapter's prediction, or the base's, for these rows of the call with these prompts."""
        sample, timestep = inputs
        if torch.is_tensor(timestep) and timestep.ndim:
            timestep = timestep[rows]
        kept = {name: value for name, value in arguments.items() if name != "return_dict"}
        kept[_ROWS] = prompts
        self.is_inside = True
        _switch(self.layers, on=adapter)
        try:
            return self.unet(sample[rows], timestep, **kept, return_dict=False)[0]
        finally:
            _switch(self.layers, on=False)
            self.is_inside = False


def _is_there(empty: torch.Tensor, embeds: torch.Tensor) -> bool:
    """Return whether the unconditional rows are the empty prompt, which the caller encoded in another batch."""
    return len(embeds) > len(empty) and torch.allclose(embeds[: len(empty)], empty, rtol=1e-2, atol=1e-3)


def _statistic(disagreements: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean over steps of what (1 or 2, samples) hold, the first over the root of the second; (samples,)."""
    means = torch.stack([each / len(disagreements) for each in disagreements]).sum(0)
    return means[0] / means[1].sqrt() if len(means) == 2 else means[0]


def _switch(layers: list[LoraLayer], *, on: bool) -> None:
    for layer in layers:
        layer.enable_adapters(on)
        if on:  # switching on makes them trainable
            layer.lora_A.requires_grad_(False)
            layer.lora_B.requires_grad_(False)


def _refuse_unknown(inputs: tuple, arguments: dict[str, Any]) -> None:
    """Refuse a call of the UNet whose rows could not be told apart."""
    unknown = [name for name, value in arguments.items() if name not in (_ROWS, "return_dict") and value is not None]
    if unknown or len(inputs) != 2 or _ROWS not in arguments:
        raise ValueError(
            f"The UNet was called with {unknown[0] if unknown else 'other arguments'}, which UnGuidance cannot split "
            "by rows: leave out IP adapters, ControlNets and cross_attention_kwargs."
        )
