"""AdvUnlearn: train the text encoder against the prompt prefix that revives the target (https://arxiv.org/abs/2405.15234).

Bilevel (eq. 5): in every iteration an attack finds token embeddings delta* in front of the target prompt c for which
the student predicts what the base predicts for c (eq. 4; one step of ``sign`` is the fast variant, eq. 7). The update
then minimises the ESD loss at c + delta* (eq. 3) and gamma times the distance from the base on retain prompts (eq. 6).
Every x_t and every base prediction is computed once, before training: exact, since the UNet never changes and x_t is
drawn with the base's text encoder. ``compat: upstream`` repeats three defects of the authors' attack: gradients are
never zeroed, the prefix before the last step is used, and room for it is made after as many tokens as the prompt has
words. It also evaluates student and base at timesteps above that of x_t, as they do (see
``erase.training.trajectories``), and layer 1 stands for layers 10 and 11 as well, since they tell a layer by the first
digits of its number.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept, PromptPair
from erase.model.delta import Delta, only_trainable
from erase.model.diffusion import (
    backward,
    check_length,
    encode_prompts,
    encode_with_gradient,
    family,
    predict_noise,
    select_parameters,
    select_text_encoder_parameters,
)
from erase.training import checkpoint
from erase.training.attack import OPTIMIZERS, attack_prefix, random_prefix
from erase.training.run import Run
from erase.training.trajectories import Sampling, States, Trajectories


logger = logging.getLogger(__name__)

FAMILIES = ("sd1", "sd2")
PAPER = "Defensive Unlearning with Adversarial Training for Robust Concept Erasure, arXiv 2405.15234"
CHOICES = {
    "component": ("text_encoder", "unet"),
    "attack": ("gradient", "random", "none"),
    "attack_optimizer": OPTIMIZERS,
    "attack_init": ("random", "last"),
    "compat": ("none", "upstream"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's values for nudity; for styles and objects it trains layer 0 with gamma 0.5.

    Attributes:
        component: ``unet`` is a control: the same budget spent on its cross-attention, with x_t from the base.
        layers: Layers of the text encoder to train; none given means all of them and the final layer norm.
        warmup_steps: First iterations, with the prompt as it is; they count as ``steps``.
        retain_weight: 0 is a control, for which no retain prompts are needed.
        attack: Besides ``gradient`` two controls: a new ``random`` prefix in each iteration, and ``none``.
        attack_init: Random tokens of the vocabulary, or the ``last`` prefix found for the same prompt.
        target_trajectories: The most walks of the base for forget prompts, and one at least for each.
        retain_trajectories: The most walks for retain prompts, in turns; of more prompts a random choice is used.
    """

    component: str = "text_encoder"
    layers: list[int] = field(default_factory=list)  # N
    steps: int = 1000
    warmup_steps: int = 200
    lr: float = 1e-5  # with Adam
    negative_guidance: float = 1.0  # eta
    retain_weight: float = 0.3  # gamma
    retain_batch: int = 5
    attack: str = "gradient"
    attack_steps: int = 30
    attack_lr: float = 1e-3  # alpha
    attack_optimizer: str = "adam"
    attack_init: str = "random"
    prefix_tokens: int = 1
    guidance_scale: float = 3.0  # s of the classifier-free guidance that leads to x_t
    num_inference_steps: int = 50  # of DDIM
    target_trajectories: int = 40
    retain_trajectories: int = 240
    compat: str = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}.")
        for name in ("steps", "attack_steps", "prefix_tokens", "retain_batch", "target_trajectories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least 1 is needed: raise it.")
        for name in ("lr", "attack_lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but a positive number is needed.")
        for name in ("negative_guidance", "retain_weight", "warmup_steps"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but 0 or more is needed.")
        if self.attack != "none" and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} of {self.steps} steps, so nothing would be attacked: lower it."
            )
        if self.retains and self.retain_trajectories < self.retain_batch:
            raise ValueError(
                f"retain_trajectories is {self.retain_trajectories}, fewer than the retain_batch of "
                f"{self.retain_batch}: raise it."
            )
        if self.component == "unet" and self.layers:
            raise ValueError("layers are those of the text encoder, but component is 'unet': leave one of them out.")
        self.sampling()

    @property
    def retains(self) -> bool:
        """Whether there is a retain term."""
        return self.retain_weight > 0

    def attack_draws(self, iteration: int) -> int:
        """Return how many states the attack of one iteration looks at."""
        return self.attack_steps if self.attack == "gradient" and iteration >= self.warmup_steps else 0

    def sampling(self) -> Sampling:
        """Return the part that says which states are seen."""
        return Sampling(
            policy="frozen",
            updates=self.steps,
            batch_size=1 + self.attack_steps + self.retain_batch,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            pool_size=1,  # there are as many trajectories as pairs are given
            refresh=1,
            compat=self.compat,
        )

    def walks(self, forget: int) -> tuple[int, int]:
        """Return the numbers of trajectories for forget and retain prompts: no more than training can use."""
        if self.steps < forget:
            raise ValueError(
                f"{self.steps} steps cannot visit all {forget} forget prompts, so some would not be erased: raise "
                "steps, or give fewer targets or templates."
            )
        draws = self.steps + sum(map(self.attack_draws, range(self.steps)))
        wanted = min(self.target_trajectories, math.ceil(draws / self.num_inference_steps))
        retain = min(self.retain_trajectories, self.steps * self.retain_batch) if self.retains else 0
        return max(forget, wanted), retain


def trains(config: Config) -> str:
    """Return what changes."""
    return config.component


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> DiffusionPipeline:
    """Erase ``concept`` from the text encoder of ``pipe``, in place, and return the same pipeline.

    If anything goes wrong the pipeline keeps its weights.
    """
    plan(pipe, concept, retain, config)
    schedule = _schedule(concept, retain, config, run)
    run.check(pipe)
    for pair in schedule.forget:
        check_length(pipe, pair.target, room=0 if config.attack == "none" else config.prefix_tokens)
    if config.component == "unet":
        parameters = select_parameters(pipe, "x")
    else:
        parameters = select_text_encoder_parameters(pipe, config.layers, by_prefix=config.compat == "upstream")
    logger.info("AdvUnlearn trains %d tensors, %d retain prompts", len(parameters), len(schedule.retain))
    with run.measure(pipe.unet), only_trainable(pipe, parameters, gradient_checkpointing=run.gradient_checkpointing):
        texts = ["", *(text for pair in schedule.pairs() for text in pair)]
        conditioning = encode_prompts(pipe, texts, device=run.device)
        settings = run.settings("advunlearn", pipe, concept, config, conditioning=conditioning)
        with Delta(parameters) as delta:
            states = Trajectories(
                pipe, schedule.pairs(), config.sampling(), conditioning=conditioning, delta=delta, run=run
            )
            _train(pipe, states, schedule, settings=settings)
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute, in samples, exactly."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(
            f"AdvUnlearn supports {', '.join(FAMILIES)}, which have one text encoder, but this model is {found}: "
            "choose another method."
        )
    _retain_prompts(concept, retain, config)
    attacks = sum(map(config.attack_draws, range(config.steps)))
    batch = 1 + config.retain_batch * config.retains
    forget, others = config.walks(len(concept.pairs()))
    pool = config.sampling().expected_forwards(forget + others, has_anchor=False)
    pool += forget * config.num_inference_steps * bool(concept.anchor)
    return {
        "updates": config.steps,
        "unet_forwards": pool + attacks + config.steps * batch,
        "unet_backwards": attacks + config.steps * batch,
        "images": 0,
    }


class _Schedule(NamedTuple):
    """Which states each iteration sees: a trajectory belongs to a prompt, and a prompt's trajectories take turns."""

    config: Config
    run: Run
    forget: list[PromptPair]
    retain: list[str]  # of which as many as the budget allows are used
    forget_walks: int
    retain_walks: int

    def pairs(self) -> list[PromptPair]:
        """Return the prompts of every trajectory: of all forget prompts in turns, then of all retain prompts."""
        forget = [self.forget[i % len(self.forget)] for i in range(self.forget_walks)]
        return forget + [PromptPair(self.retain[i % len(self.retain)], "") for i in range(self.retain_walks)]

    def turn(self, iteration: int) -> int:
        """Return which forget prompt it is the turn of."""
        return iteration % len(self.forget)

    def forget_draw(self, iteration: int, place: int) -> int:
        """Return the draw of the update (place 0) or of an attack step (1 and on) of an iteration.

        All draws of a prompt go through its trajectories in turns. Where their number shares a factor with that of the
        draws of an iteration, updates would see the same few trajectories for ever, so the turns are shifted by one
        whenever these two cycles close.
        """
        turn, prompts, config = self.turn(iteration), len(self.forget), self.config
        walks, earlier = range(turn, self.forget_walks, prompts), range(turn, iteration, prompts)
        attacked = earlier[max(0, math.ceil((config.warmup_steps - turn) / prompts)) :]
        steps = config.attack_draws(config.warmup_steps)
        visit = len(earlier) + steps * len(attacked) + place
        return self._draw(walks, visit, shift=visit // math.lcm(1 + steps, len(walks)))

    def retain_draws(self, iteration: int) -> list[int]:
        """Return the draws of an iteration's retain batch.

        Prompts are drawn without replacement, until fewer are left than a batch needs.
        """
        if not self.config.retains:
            return []
        size = self.config.retain_batch
        round_, place = divmod(iteration, len(self.retain) // size)
        order = torch.randperm(len(self.retain), generator=self.run.generator("retain.order", round_)).tolist()
        first, end = self.forget_walks, self.forget_walks + self.retain_walks
        picked = order[place * size : (place + 1) * size]
        return [self._draw(range(first + prompt, end, len(self.retain)), round_) for prompt in picked]

    def _draw(self, walks: range, visit: int, *, shift: int = 0) -> int:
        round_, place = divmod(visit, len(walks))
        return round_ * (self.forget_walks + self.retain_walks) + walks[(place + shift) % len(walks)]


def _schedule(concept: Concept, retain: list[str], config: Config, run: Run) -> _Schedule:
    pairs, prompts = concept.pairs(), _retain_prompts(concept, retain, config)
    forget_walks, retain_walks = config.walks(len(pairs))
    if len(prompts) > retain_walks:
        order = torch.randperm(len(prompts), generator=run.generator("retain.choice", 0)).tolist()
        prompts = [prompts[i] for i in sorted(order[:retain_walks])]
    return _Schedule(config, run, pairs, prompts, forget_walks, retain_walks)


def _retain_prompts(concept: Concept, retain: list[str], config: Config) -> list[str]:
    """Return the distinct retain prompts that training needs, or refuse a set that it cannot work with."""
    prompts = list(dict.fromkeys(retain)) if config.retains else []
    if config.retains and len(prompts) < config.retain_batch:
        raise ValueError(
            f"retain holds {len(prompts)} different prompts, but AdvUnlearn needs {config.retain_batch} in every "
            "iteration: give more retain prompts, or lower params.retain_batch, or set params.retain_weight to 0."
        )
    if both := [pair.target for pair in concept.pairs() if pair.target in prompts]:
        raise ValueError(f"The prompt {both[0]!r} is to be erased and retained: take it out of retain.")
    return prompts


def target_prediction(states: States, negative_guidance: float) -> torch.Tensor:
    """Return what the student has to predict at each state of a forget prompt (eq. 3)."""
    direction = states.noise_pred_target - states.noise_pred_uncond
    return states.noise_pred_anchor - negative_guidance * direction


def _train(
    pipe: DiffusionPipeline, trajectories: Trajectories, schedule: _Schedule, *, settings: dict[str, Any]
) -> None:
    """Fill the pool, then attack and update in turns; goes on from the run's checkpoint if there is one."""
    config, run, delta = schedule.config, schedule.run, trajectories.delta
    optimizer = torch.optim.Adam(delta.parameters.values(), lr=config.lr)
    last: dict[str, torch.Tensor] = {}  # the last prefix found for each forget prompt, by its number

    def save(done: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in delta.student().items()}
        tensors |= {f"prefix.{turn}": prefix for turn, prefix in last.items()}
        pool = {f"states.{name}": tensor for name, tensor in trajectories.tensors().items()}  # 2.7 GB for SD 1.x
        force = done == config.steps
        run.save_checkpoint(tensors, optimizer=optimizer, settings=settings, done=done, force=force, pool=pool)

    done = 0
    if saved := run.load_checkpoint(optimizer=optimizer, settings=settings):
        done = saved.meta["done"]
        delta.load_student(checkpoint.under("student.", saved.tensors))
        trajectories.restore(checkpoint.under("states.", saved.tensors))
        last = {turn: prefix.to(run.device) for turn, prefix in checkpoint.under("prefix.", saved.tensors).items()}
    for _ in trajectories.fill():
        save(done)
    with run.stage("training"), run.progress("AdvUnlearn", total=config.steps, initial=done) as bar:
        for iteration in range(done, config.steps):
            prefix, record = _find_prefix(pipe, trajectories, schedule, iteration, last)
            losses = _update(pipe, trajectories, schedule, iteration, prefix, optimizer)
            run.record(iteration + 1, losses, bar, more=record)
            save(iteration + 1)


def _find_prefix(
    pipe: DiffusionPipeline,
    trajectories: Trajectories,
    schedule: _Schedule,
    iteration: int,
    last: dict[str, torch.Tensor],
) -> tuple[torch.Tensor | None, dict[str, float]]:
    """Return the prefix of an iteration and what to log of its search; ``last`` is kept up to date."""
    config, turn = schedule.config, str(schedule.turn(iteration))
    if config.attack == "none" or iteration < config.warmup_steps:
        return None, {}
    start = last.get(turn) if config.attack_init == "last" else None
    if start is None:
        generator = schedule.run.generator("attack", iteration)
        start = random_prefix(pipe, config.prefix_tokens, generator=generator)
    if config.attack == "random":
        return start, {}

    def loss(prefix: torch.Tensor, step: int) -> torch.Tensor:  # eq. 4
        states = trajectories.draw([schedule.forget_draw(iteration, 1 + step)])
        gap = _gap(states.prompts[0], config)
        embeds = encode_with_gradient(pipe, states.prompts, prefix=prefix, gap=gap)
        arguments = {"encoder_hidden_states": embeds}
        noise_pred = predict_noise(pipe.unet, states.latents, states.timesteps, conditioning=arguments)
        return torch.nn.functional.mse_loss(noise_pred, states.noise_pred_target)

    found = attack_prefix(
        loss,
        start,
        steps=config.attack_steps,
        lr=config.attack_lr,
        optimizer=config.attack_optimizer,
        dtype=schedule.run.dtype,
        upstream=config.compat == "upstream",
    )
    last[turn] = found.prefix
    return found.prefix, {"attack_first": found.losses[0].item(), "attack_last": found.losses[-1].item()}


def _update(
    pipe: DiffusionPipeline,
    trajectories: Trajectories,
    schedule: _Schedule,
    iteration: int,
    prefix: torch.Tensor | None,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Take one step on the forget state and the retain batch, which go through the UNet together."""
    config, draws = schedule.config, schedule.retain_draws(iteration)
    states = trajectories.draw([schedule.forget_draw(iteration, 0), *draws])
    target = states.noise_pred_target.clone()
    target[:1] = target_prediction(states, config.negative_guidance)[:1]
    with torch.enable_grad():  # the caller may be inside no_grad
        gap = _gap(states.prompts[0], config)
        embeds = [encode_with_gradient(pipe, states.prompts[:1], prefix=prefix, gap=gap)]
        if draws:
            embeds.append(encode_with_gradient(pipe, states.prompts[1:]))
        arguments = {"encoder_hidden_states": torch.cat(embeds)}
        noise_pred = predict_noise(pipe.unet, states.latents, states.timesteps, conditioning=arguments)
        errors = (noise_pred - target).square().flatten(1).mean(1)
        forget, retain = errors[0], errors[1:].sum() / config.retain_batch
        loss = forget + config.retain_weight * retain
    backward(loss, trajectories.delta.parameters.values(), dtype=schedule.run.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"forget": forget.item(), "retain": retain.item()}


def _gap(prompt: str, config: Config) -> int | None:
    """Return where tokens give way to the prefix: at the end, or after the number of words as in the authors' code."""
    return 1 + len(prompt.split()) if config.compat == "upstream" else None
