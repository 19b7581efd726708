"""UnGuide: train a LoRA away from the target, and let guidance decide where to use it (https://arxiv.org/abs/2508.05755).

The student, the base with the adapter, learns eps0(anchor) - gamma (eps0(target) - eps0(anchor)) for the target prompt,
at states that it walks to itself; with an empty anchor, eps0(anchor) is the unconditional prediction. When images are
made, ``erase.pipelines.unguide`` blends w * base + (1 - w) * adapter with a w that is found for each sample.

Differs from the authors' code: states are evaluated at their own noise level, the decision is made during generation
instead of in 10 to 30 generations before it, by the disagreement about the prompt over the root of that about the empty
prompt, and benign samples are left to the base; with ``retain_weight`` the student also keeps the base's predictions
for benign prompts, which the paper does not do. ``mode="upstream"`` gives w, the disagreement about the prompt alone,
and the empty prompt as the threshold, as theirs; ``compat="upstream"`` trains at timesteps above x_t's, as they do.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from erase.concept import Concept
from erase.model.delta import Delta, only_trainable
from erase.model.diffusion import backward, encode_prompts, family, predict_noise, select_parameters
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.pipelines.unguide.unguidance import ADAPTER, UnGuidance
from erase.prompts import take_turns
from erase.training import checkpoint
from erase.training.run import Run
from erase.training.trajectories import Sampling, States, Trajectories


logger = logging.getLogger(__name__)

FAMILIES = ("sd1", "sd2")
PAPER = "UnGuide: Learning to Forget with LoRA-Guided Diffusion Models, arXiv 2508.05755"
VARIANTS = ("strict", "u")
MODES = ("exact", "upstream")
_OBSERVED_BATCH = 8  # samples of the calibration that are made together
_RECOGNISED = 0.5  # the least share of each target's samples that has to be above a threshold


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's values, except for ``trajectory``, where the paper's own ``fresh`` costs 4 times as much.

    Attributes:
        variant: Layers with an adapter: ``strict`` has the keys and values of the cross-attention (objects, styles),
            ``u`` every Linear but the cross-attention, the time embedding and the output (explicit content).
        trajectory: Where x_t comes from: ``stale``, ``fresh`` or ``frozen``, see ``erase.training.trajectories``.
        refresh: Updates between two walks of the student under ``stale``; it should grow with the forget prompts.
        pool_size: States to cache under ``frozen``.
        retain_weight: Weight of a second loss, which the paper has not: at the same states the student keeps the base's
            prediction for a prompt of the retain set, so that fewer benign samples are taken for the target and erased.
            0 trains on the target alone.
        mode: ``exact`` leaves benign samples to the base, bit for bit, with a threshold from the retain set;
            ``upstream`` has the authors' w = -1 or 2 and their threshold, the empty prompt.
        target_weight: w for samples that show the target, in ``exact``; 0 is the adapter alone.
        observe_steps: k, the first steps of ``generation_steps``, which follow the base and decide; the target is
            erased in the steps after them.
        generation_steps: Denoising steps of the images that the threshold is found on; for other numbers the same
            share of the steps decides.
        generation_guidance: The guidance scale of these images.
        calibration_samples: How many of them, for the forget and for the retain prompts each; targets share them.
        quantile: Share of the retain samples that the threshold leaves to the base. If None, choose the threshold that
            best separates forget from retain samples (Youden's index).
    """

    variant: str = "strict"
    rank: int = 1  # r
    alpha: float = 8.0  # alpha, which the authors multiply with as it is, not divided by r
    steps: int = 200
    lr: float = 3e-5  # with Adam
    negative_guidance: float = 2.0  # gamma
    retain_weight: float = 0.0
    guidance_scale: float = 9.0  # of the classifier-free guidance that leads to x_t
    num_inference_steps: int = 50  # of DDIM
    batch_size: int = 1
    trajectory: str = "stale"
    refresh: int = 10  # R
    pool_size: int = 200
    compat: str = "none"  # or upstream, see erase.training.trajectories
    mode: str = "exact"
    target_weight: float = -1.0  # w
    observe_steps: int = 3  # k
    generation_steps: int = 50
    generation_guidance: float = 7.5
    calibration_samples: int = 64
    quantile: float | None = 0.95

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        for name, choices in (("variant", VARIANTS), ("mode", MODES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"The {name} {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}.")
        for name in ("rank", "steps", "observe_steps", "generation_steps", "calibration_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least 1 is needed: raise it.")
        for name in ("lr", "alpha", "generation_guidance"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but a positive number is needed.")
        for name, choice in (("negative_guidance", "2"), ("retain_weight", "0 or 1")):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but 0 or more is needed: choose {choice}.")
        if not self.target_weight < 1:
            raise ValueError(f"target_weight is {self.target_weight}, but 1 is the base: choose -1 to 0.")
        if self.quantile is not None and not 0 < self.quantile <= 1:
            raise ValueError(f"quantile is {self.quantile}, but a share above 0 and up to 1 is needed: choose 0.95.")
        if 4 * self.observe_steps > self.generation_steps:
            raise ValueError(
                f"observe_steps is {self.observe_steps} of {self.generation_steps} steps, in which nothing is erased: "
                "choose at most a quarter of them."
            )
        self.sampling()

    def sampling(self) -> Sampling:
        """Return the part that says which states are seen."""
        return Sampling(
            policy=self.trajectory,
            updates=self.steps,
            batch_size=self.batch_size,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            pool_size=self.pool_size,
            refresh=self.refresh,
            compat=self.compat,
        )


def trains(config: Config) -> str:
    """Return what changes."""
    return "adapter"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> UnGuidePipeline:
    """Erase ``concept`` with an adapter on the UNet of ``pipe``, and return the pipeline that guides with it.

    The two share their components: the UNet carries the adapter from now on, so ``pipe`` itself follows the adapter
    alone. If anything goes wrong, the adapter is taken off and ``pipe`` is as it was. The retain set is what the
    threshold is found on; it is trained on where ``retain_weight`` is above 0.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    pairs = concept.pairs()
    with run.measure(pipe.unet), only_trainable(pipe, {}, gradient_checkpointing=run.gradient_checkpointing):
        benign = [prompt for update in range(config.steps) for prompt in _benign(retain, update, config, run)]
        prompts = ["", *(text for pair in pairs for text in pair), *benign]
        conditioning = encode_prompts(pipe, prompts, device=run.device)
        settings = run.settings("unguide", pipe, concept, config, conditioning=conditioning)
        with _adapter(pipe, config, run) as parameters:
            with Delta(parameters) as delta:
                states = Trajectories(pipe, pairs, config.sampling(), conditioning=conditioning, delta=delta, run=run)
                _train(states, retain, config, settings=settings)
                delta.commit()
            return _decide(pipe, concept, retain, config, run)


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute, in samples: the expectation for ``stale`` and ``fresh``, else exact.

    The threshold takes up to four samples for each observed step: two of the base's guidance, two of the adapter.
    """
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(f"UnGuide supports {', '.join(FAMILIES)}, but this model is {found}: choose another method.")
    if config.mode == "exact" and not retain:
        raise ValueError("UnGuide finds its threshold on benign prompts, but there are none: add some to 'retain'.")
    if config.calibration_samples < len(concept.target):
        raise ValueError(
            f"calibration_samples is {config.calibration_samples} for {len(concept.target)} targets, but each target "
            "needs a sample to show that it is recognised: raise it."
        )
    if config.retain_weight and not retain:
        raise ValueError("retain_weight needs benign prompts, but there are none: add some to 'retain'.")
    sampling = config.sampling()
    kept = sampling.draws if config.retain_weight else 0
    states = sampling.expected_forwards(len(concept.pairs()), has_anchor=bool(concept.anchor))
    sets = 1 + bool(retain) + (config.mode == "upstream")  # forget prompts, retain prompts, the empty prompt
    samples = config.calibration_samples * sets
    rows = 4 if config.mode == "exact" else 2 + (config.generation_guidance > 1)
    return {
        "updates": config.steps,
        "unet_forwards": states + sampling.draws + 2 * kept + samples * config.observe_steps * rows,
        "unet_backwards": sampling.draws + kept,
        "images": 0,
    }


def target_prediction(states: States, negative_guidance: float) -> torch.Tensor:
    """Return what the student has to predict at each state."""
    direction = states.noise_pred_target - states.noise_pred_anchor
    return states.noise_pred_anchor - negative_guidance * direction


@contextmanager
def _adapter(pipe: DiffusionPipeline, config: Config, run: Run) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Add the adapter and yield its parameters; it stays on the UNet unless the block fails.

    With B = 0 the adapter adds nothing, so the student's initial values are the base's role.
    """
    unet = pipe.unet
    with torch.random.fork_rng(devices=[]):  # the values it draws are overwritten
        unet.add_adapter(_lora_config(pipe, config), adapter_name=ADAPTER)
    try:
        parameters = {name: each for name, each in unet.named_parameters() if "lora_" in name}
        logger.info("UnGuide trains %d tensors of rank %d", len(parameters), config.rank)
        for index, (name, parameter) in enumerate(sorted(parameters.items())):
            parameter.data = torch.zeros_like(parameter, dtype=run.dtype, device=run.device)
            if "lora_A" in name:  # A ~ N(0, 1/r), B = 0
                noise = torch.randn(parameter.shape, generator=run.generator("adapter", index))
                parameter.data.copy_(noise / math.sqrt(config.rank))
        unet.eval()
        yield parameters
    except BaseException:
        unet.unload_lora()
        raise


def _lora_config(pipe: DiffusionPipeline, config: Config) -> LoraConfig:
    paths = {name.rpartition(".")[0] for name in select_parameters(pipe, config.variant)}
    linear = sorted(path for path in paths if isinstance(pipe.unet.get_submodule(path), torch.nn.Linear))
    # a fraction is as good as the int that peft's annotation asks for: it is only divided by the rank
    alpha: Any = config.alpha * config.rank
    return LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=linear)


def _train(trajectories: Trajectories, retain: list[str], config: Config, *, settings: dict[str, Any]) -> None:
    """Fill the pool, then update; goes on from the run's checkpoint if there is one."""
    run, delta = trajectories.run, trajectories.delta
    optimizer = torch.optim.Adam(delta.parameters.values(), lr=config.lr)

    def save(done: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in delta.student().items()}
        tensors |= {f"states.{name}": tensor for name, tensor in trajectories.tensors().items()}
        run.save_checkpoint(tensors, optimizer=optimizer, settings=settings, done=done, force=done == config.steps)

    done = 0
    if saved := run.load_checkpoint(optimizer=optimizer, settings=settings):
        done = saved.meta["done"]
        delta.load_student(checkpoint.under("student.", saved.tensors))
        trajectories.restore(checkpoint.under("states.", saved.tensors))
    for _ in trajectories.fill():
        save(done)
    with run.stage("training"), run.progress("UnGuide", total=config.steps, initial=done) as bar:
        for update in range(done, config.steps):
            loss = _update(trajectories, update, optimizer, retain, config)
            run.record(update + 1, {"loss": loss}, bar)
            save(update + 1)


def _update(
    trajectories: Trajectories, update: int, optimizer: torch.optim.Optimizer, retain: list[str], config: Config
) -> float:
    run, unet = trajectories.run, trajectories.unet
    states = trajectories.batch(update)
    prompts, target = states.prompts, target_prediction(states, config.negative_guidance)
    latents, timesteps, weight = states.latents, states.timesteps, torch.ones(len(prompts), device=run.device)
    if kept := _benign(retain, update, config, run):
        with torch.no_grad(), trajectories.delta.base():
            rows = trajectories.conditioning.rows(kept)
            target = torch.cat([target, predict_noise(unet, latents, timesteps, conditioning=rows)])
        prompts, weight = prompts + kept, torch.cat([weight, config.retain_weight * weight])
        latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
    rows = trajectories.conditioning.rows(prompts)
    with torch.enable_grad():  # the caller may be inside no_grad
        noise_pred = predict_noise(unet, latents, timesteps, conditioning=rows)
        loss = (weight * (noise_pred - target).square().flatten(1).mean(1)).sum() / len(states.prompts)
    backward(loss, trajectories.delta.parameters.values(), dtype=run.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _benign(retain: list[str], update: int, config: Config, run: Run) -> list[str]:
    """Return the benign prompts of one update; no others are encoded."""
    if not config.retain_weight:
        return []
    picked = torch.randint(len(retain), (config.batch_size,), generator=run.generator("retain", update))
    return [retain[index] for index in picked.tolist()]


def _decide(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> UnGuidePipeline:
    """Find the threshold of the decision, and return the pipeline that has it; refuse one that misses a target."""
    lora = _lora_of(pipe.unet)
    guider = UnGuidance(
        threshold=math.inf,
        early_thresholds=[None] * (config.observe_steps - 1),
        observe_steps=config.observe_steps,
        num_inference_steps=config.generation_steps,
        target_weight=config.target_weight if config.mode == "exact" else -1.0,
        benign_weight=1.0 if config.mode == "exact" else 2.0,
        mode=config.mode,
        rank=config.rank,
        alpha=config.alpha,
        target_modules=sorted({name.partition(".lora_")[0] for name in lora}),
        calibration={},
    )
    guider.weights = lora
    with run.stage("threshold"):
        shown = _observe(pipe, guider, [concept.prompts(name) for name in concept.target], config, run)
        benign = _observe(pipe, guider, [retain], config, run) if retain else torch.empty(config.observe_steps, 0)
        if config.mode == "exact":
            thresholds = [_threshold(*after, config.quantile) for after in zip(shown, benign, strict=True)]
        else:
            thresholds = [float(after.mean()) for after in _observe(pipe, guider, [[""]], config, run)]
    by_targets = [_by_target(*after, concept) for after in zip(shown, thresholds, strict=True)]
    early = [
        threshold if math.isfinite(threshold) and min(by_target.values()) >= _RECOGNISED else None
        for threshold, by_target in zip(thresholds[:-1], by_targets[:-1], strict=True)
    ]
    threshold, by_target, shown, benign = thresholds[-1], by_targets[-1], shown[-1], benign[-1]
    calibration = {"forget_above": (shown > threshold).double().mean().item(), "forget_above_by_target": by_target}
    if len(benign):
        calibration["retain_above"] = (benign > threshold).double().mean().item()
        calibration["auroc"] = (shown[:, None] > benign).double().mean().item()
    run.log({"event": "threshold", "threshold": threshold, "early_thresholds": early, **calibration})
    logger.info("UnGuide decides at %.4g: %s", threshold, calibration)
    missed = min(by_target, key=lambda name: by_target[name])
    if not math.isfinite(threshold) or by_target[missed] < _RECOGNISED:
        raise ValueError(
            f"The adapter changes only {by_target[missed]:.0%} of the samples of {missed!r} by more than benign ones "
            f"(threshold {threshold:.3g}), so the target would not be erased: raise steps or lr."
        )
    guider.register_to_config(threshold=threshold, early_thresholds=early, calibration=calibration)
    return _guided(pipe, guider)


def _by_target(shown: torch.Tensor, threshold: float, concept: Concept) -> dict[str, float]:
    """Return the share above the threshold of each target's samples, among which targets take turns."""
    turns = len(concept.target)
    return {name: (shown[i::turns] > threshold).double().mean().item() for i, name in enumerate(concept.target)}


def _threshold(shown: torch.Tensor, benign: torch.Tensor, quantile: float | None) -> float:
    return _parting(shown, benign) if quantile is None else float(torch.quantile(benign, quantile))


def _parting(shown: torch.Tensor, benign: torch.Tensor) -> float:
    """Return the threshold with the largest Youden index; of several the lowest, above which more is erased."""
    values = torch.cat([shown, benign]).double().unique()  # sorted
    between = (values[1:] + values[:-1]) / 2
    index = (shown > between[:, None]).double().mean(1) - (benign > between[:, None]).double().mean(1)
    return float(between[index.argmax()]) if len(between) else math.inf


def _lora_of(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _guided(pipe: DiffusionPipeline, guider: UnGuidance, **components: Any) -> UnGuidePipeline:  # noqa: ANN401
    needs_checker = pipe.config.requires_safety_checker
    return UnGuidePipeline(**{**pipe.components, **components}, guider=guider, requires_safety_checker=needs_checker)


def _observe(
    pipe: DiffusionPipeline, guider: UnGuidance, sets: Sequence[Sequence[str]], config: Config, run: Run
) -> torch.Tensor:
    """Return the disagreement of ``calibration_samples`` generations, which stop once it is known; sets take turns.

    It has a row for each observed step, after which it is: (observe_steps, samples).
    """
    # the caller's scheduler keeps its state
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    observer = _guided(pipe, guider, scheduler=scheduler, safety_checker=None)
    observer.set_progress_bar_config(disable=True)

    def stop(pipeline: UnGuidePipeline, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._interrupt = step + 1 >= config.observe_steps
        return tensors

    count = config.calibration_samples
    picked = take_turns(sets, count)
    found = []
    for first in range(0, count, _OBSERVED_BATCH):
        batch = range(first, min(first + _OBSERVED_BATCH, count))
        observer(
            [picked[index] for index in batch],
            generator=[run.generator("threshold", index) for index in batch],  # the same noise for every set
            num_inference_steps=config.generation_steps,
            guidance_scale=config.generation_guidance,
            output_type="latent",
            callback_on_step_end=stop,
        )
        found.append(guider.statistics)
    return torch.cat(found, dim=1)
