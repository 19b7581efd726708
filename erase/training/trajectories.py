"""Denoising states x_t at their exact timestep, and the frozen predictions there, computed as rarely as possible.

A trajectory starts at noise and follows classifier-free guidance with the target prompt. Three policies:

- ``frozen``: the base walks, once, before training. Its guidance already computes the predictions for the empty and the
  target prompt at every state, so they cost nothing extra. This is exact for methods whose x_t comes from the base.
  An anchor's prediction does cost a forward, so ``anchored`` may keep only so many states of a trajectory, drawn at
  random, and the pool then holds as many trajectories as cost what it would without an anchor.
- ``stale``: the student walks, every ``refresh`` updates, and each trajectory yields several states. The frozen
  predictions are computed with the delta off.
- ``fresh``: the same for every single update, as in the ESD paper.

The authors' samplers stop 39 to 58 timesteps away from the level at which they then evaluate the student; here both
are at the level of x_t. ``compat="upstream"`` has it their way. Of S steps with spacing g the first is left out, so
that noise is taken for the second timestep; state s = S - 1 - k is reached after min(S - k, S - 1) steps, at the level
g (k - 2) + 1, but student and base are evaluated at a label t ~ U{g k, ..., g k + g - 1}. The guidance's own
predictions are at the level, so ``frozen`` computes those at the label besides.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.concept import PromptPair
from erase.model.delta import Delta
from erase.model.diffusion import Conditioning, ddim_sampler, latent_shape, predict_noise
from erase.training.run import Run


POLICIES = ("frozen", "stale", "fresh")
COMPAT = ("none", "upstream")
WALK_BATCH = 4  # trajectories that walk together; the UNet sees two or three samples of each


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which states a training sees; ``draws`` is how many samples it takes in all."""

    policy: str
    updates: int
    batch_size: int
    num_inference_steps: int
    guidance_scale: float
    pool_size: int  # states to cache under the policy frozen
    refresh: int  # updates between two walks under the policy stale
    compat: str = "none"  # upstream: levels and labels as in the authors' code
    anchored: int | None = None  # states to keep of a trajectory under frozen where there is an anchor; None is all

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.policy not in POLICIES:
            raise ValueError(f"The trajectory policy {self.policy!r} is unknown: choose one of {', '.join(POLICIES)}.")
        for name in ("updates", "batch_size", "num_inference_steps", "pool_size", "refresh"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least 1 is needed: raise it.")
        if self.compat not in COMPAT:
            raise ValueError(f"The compat {self.compat!r} is unknown: choose one of {', '.join(COMPAT)}.")
        if self.is_upstream and self.num_inference_steps < 2:
            raise ValueError("num_inference_steps is 1, of which compat 'upstream' leaves out the first: raise it.")

    @property
    def is_upstream(self) -> bool:
        """Whether levels and labels are those of the authors' code."""
        return self.compat == "upstream"

    @property
    def draws(self) -> int:
        """Samples over the whole training."""
        return self.updates * self.batch_size

    def check_visits(self, pairs: int) -> None:
        """Refuse a training that is too short to see every forget prompt."""
        if self.draws < pairs:
            raise ValueError(
                f"{self.updates} updates of batch size {self.batch_size} cannot visit all {pairs} forget prompts, so "
                "some would not be erased: raise steps, or give fewer targets or templates."
            )

    def steps_to(self, state: int) -> int:
        """Return how many steps a trajectory takes to one of its states 0 ... num_inference_steps - 1."""
        return min(state + 1, self.num_inference_steps - 1) if self.is_upstream else state

    def kept_states(self, *, has_anchor: bool) -> int:
        """States of a trajectory that the pool holds."""
        if self.anchored is None or not has_anchor or self.is_upstream:
            return self.num_inference_steps
        return self.anchored

    def pool_trajectories(self, pairs: int, *, has_anchor: bool) -> int:
        """Trajectories that fill the pool: no more than training can use, and one at least for every prompt."""
        steps, kept = self.num_inference_steps, self.kept_states(has_anchor=has_anchor)
        trajectories = math.ceil(min(self.pool_size, self.draws) / steps)
        if kept < steps:
            trajectories = trajectories * 2 * steps // (2 * steps + kept)
        return max(pairs, trajectories)

    def walks(self, walk: int, pairs: int) -> list[tuple[int, list[int]]]:
        """Return pair and draws of every trajectory of one walk under ``stale`` and ``fresh``."""
        length = self.batch_size * (self.refresh if self.policy == "stale" else 1)
        draws = range(walk * length, min((walk + 1) * length, self.draws))
        walks = []
        for pair in range(pairs):
            mine = [draw for draw in draws if draw % pairs == pair]
            chunks = range(0, len(mine), self.num_inference_steps)
            walks += [(pair, mine[first : first + self.num_inference_steps]) for first in chunks]
        return walks

    def expected_forwards(self, pairs: int, *, has_anchor: bool) -> int:
        """UNet forwards, in samples, for states and frozen predictions: exact for ``frozen``, else the expectation."""
        self.check_visits(pairs)
        roles, steps = 2 + has_anchor, self.num_inference_steps
        if self.policy == "frozen":
            anchors = self.kept_states(has_anchor=has_anchor) * has_anchor
            besides = 2 * (steps - 1) if self.is_upstream else 0  # the guidance, where it is not at the label
            return self.pool_trajectories(pairs, has_anchor=has_anchor) * (2 * steps + anchors + besides)
        forwards, walk = 0.0, 0
        while walks := self.walks(walk, pairs):
            for _, draws in walks:
                # a walk ends at the last of its states: the expected maximum of that many of 0 ... steps - 1
                last = len(draws) * (steps + 1) / (len(draws) + 1) - 1
                if self.is_upstream:  # one step more, except to the last state, which is among them this often
                    last += 1 - len(draws) / steps
                forwards += 2 * last + roles * len(draws)
            walk += 1
        return round(forwards)


class States(NamedTuple):
    """A batch of states; the predictions are the base's."""

    prompts: list[str]  # the target prompt of each row
    latents: torch.Tensor  # (B, C, h, w), fp32 like the predictions
    timesteps: torch.Tensor  # (B,), of the predictions; that of x_t too, except under compat
    noise_pred_uncond: torch.Tensor
    noise_pred_target: torch.Tensor
    noise_pred_anchor: torch.Tensor


class Trajectories:
    """The states of one training, in an order that is fixed by the run's seed.

    Draw k belongs to pair k modulo the number of pairs, so that targets and prompts take turns; a pool is gone through
    completely, in a new order each time, before a state comes back.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        pairs: Sequence[PromptPair],
        sampling: Sampling,
        *,
        conditioning: Conditioning,
        delta: Delta,
        run: Run,
    ) -> None:
        """Prepare; nothing is computed before ``fill`` or ``batch``."""
        sampling.check_visits(len(pairs))
        self.unet, self.latent_shape = pipe.unet, latent_shape(pipe)
        self.pairs, self.sampling, self.conditioning = list(pairs), sampling, conditioning
        self.delta, self.run = delta, run
        self.sampler = ddim_sampler(pipe, sampling.num_inference_steps)
        self.walked = self.sampler.timesteps[1 if sampling.is_upstream else 0 :]
        self.has_anchor = any(pair.anchor for pair in pairs)
        self._kept = sampling.kept_states(has_anchor=self.has_anchor)  # of each trajectory
        self._pool_trajectories = sampling.pool_trajectories(len(pairs), has_anchor=self.has_anchor)
        self._walk = -1  # the walk that the states below belong to, under stale and fresh
        self._states: dict[str, torch.Tensor] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint needs."""
        walk = {"walk": torch.tensor(self._walk)} if self._states and self.sampling.policy != "frozen" else {}
        return {**self._states, **walk}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what ``tensors`` returned."""
        self._states = {name: tensor.to(self.run.device) for name, tensor in tensors.items() if name != "walk"}
        self._walk = int(tensors["walk"]) if "walk" in tensors else -1

    def fill(self) -> Iterator[int]:
        """Fill the pool of the policy ``frozen``; yields how many states it has after each group of trajectories."""
        if self.sampling.policy != "frozen":
            return
        kept, total = self._kept, self._pool_trajectories
        done = len(self._states["timesteps"]) // kept if self._states else 0
        with self.run.stage("pool"), self.run.progress("states", total=total * kept, initial=done * kept) as bar:
            for first in range(done, total, WALK_BATCH):
                group = range(first, min(first + WALK_BATCH, total))
                with self.delta.base():
                    states = self._walk_base(group, self._noise("pool", group), self._labels("pool", group))
                self._states = {
                    name: torch.cat([self._states[name], tensor]) if self._states else tensor
                    for name, tensor in states.items()
                }
                bar.update(len(group) * kept)
                yield len(self._states["timesteps"])

    def batch(self, update: int) -> States:
        """Return the states of one update."""
        size = self.sampling.batch_size
        draws = range(update * size, (update + 1) * size)
        if self.sampling.policy == "frozen":
            return self.draw(draws)
        updates = self.sampling.refresh if self.sampling.policy == "stale" else 1
        walk = update // updates
        if walk != self._walk:
            with self.run.stage("pool"):
                self._refresh(walk)
        return self._pick([draw - walk * updates * size for draw in draws], draws)

    def draw(self, draws: Sequence[int]) -> States:
        """Return the states of these draws, in any order; for the policy ``frozen``, whose pool holds all states."""
        return self._pick([self._pool_row(draw) for draw in draws], draws)

    def _pick(self, rows: list[int], draws: Sequence[int]) -> States:
        picked = {name: tensor[rows] for name, tensor in self._states.items()}
        # without an anchor the anchor's prediction is the unconditional one: computed and stored once
        picked.setdefault("noise_pred_anchor", picked["noise_pred_uncond"])
        return States([self.pairs[draw % len(self.pairs)].target for draw in draws], **picked)

    def _pool_row(self, draw: int) -> int:
        count, kept = len(self.pairs), self._kept
        visit, pair = divmod(draw, count)
        size = len(range(pair, self._pool_trajectories, count)) * kept  # states of this pair
        round_, place = divmod(visit, size)
        state = self._permutation(f"order.{pair}", round_, size)[place]
        return (pair + count * (state // kept)) * kept + state % kept

    @torch.no_grad()
    def _walk_base(self, group: Sequence[int], latents: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Denoise with the base; returns the kept states and predictions, ordered trajectory by trajectory."""
        pairs = [self.pairs[i % len(self.pairs)] for i in group]
        kept = [sorted(self._permutation("kept", i, len(self.sampler.timesteps))[: self._kept]) for i in group]
        visited, predictions = [latents], []
        with_anchor = self.has_anchor and not self.sampling.is_upstream
        for step, timestep in enumerate(self.walked):
            asked = [
                pair if step in states else pair._replace(anchor="") for pair, states in zip(pairs, kept, strict=True)
            ]
            predictions.append(self._predict(visited[-1], timestep, asked, with_anchor=with_anchor))
            visited.append(self._step(predictions[-1], timestep, visited[-1]))
        states = [visited[self.sampling.steps_to(state)] for state in range(self.sampling.num_inference_steps)]
        if self.sampling.is_upstream:
            predictions = [
                self._predict(x_t, timesteps, pairs, with_anchor=self.has_anchor)
                for x_t, timesteps in zip(states, labels.unbind(1), strict=True)
            ]
        rows, columns = torch.arange(len(kept))[:, None], torch.tensor(kept)
        stacked = torch.stack(predictions, dim=2)[:, rows, columns].flatten(1, 2)  # (roles, kept states, C, h, w)
        timesteps = labels[rows, columns].flatten().to(self.run.device)
        return self._named(torch.stack(states, dim=1)[rows, columns].flatten(0, 1), timesteps, stacked)

    @torch.no_grad()
    def _refresh(self, walk: int) -> None:
        """Let the student walk to the states of this walk's draws, then predict there with the base."""
        walks = self.sampling.walks(walk, len(self.pairs))
        steps = self.sampling.num_inference_steps
        found: dict[int, tuple[torch.Tensor, int, PromptPair]] = {}  # draw -> x_t, label, prompts
        for first in range(0, len(walks), WALK_BATCH):
            group = range(first, min(first + WALK_BATCH, len(walks)))
            pairs = [self.pairs[walks[i][0]] for i in group]
            wanted = [dict(zip(self._permutation(f"steps.{walk}", i, steps), walks[i][1], strict=False)) for i in group]
            noise, labels = self._noise(f"walk.{walk}", group), self._labels(f"walk.{walk}", group)
            found |= self._walk_student(pairs, noise, labels, wanted)
        latents = torch.stack([found[draw][0] for draw in sorted(found)])
        timesteps = torch.tensor([found[draw][1] for draw in sorted(found)], device=self.run.device)
        prompts = [found[draw][2] for draw in sorted(found)]
        predictions = []
        with self.delta.base():
            for first in range(0, len(prompts), WALK_BATCH):
                part = slice(first, first + WALK_BATCH)
                predictions.append(
                    self._predict(latents[part], timesteps[part], prompts[part], with_anchor=self.has_anchor)
                )
        self._states = self._named(latents, timesteps, torch.cat(predictions, dim=1))
        self._walk = walk

    def _walk_student(
        self, pairs: list[PromptPair], latents: torch.Tensor, labels: torch.Tensor, wanted: list[dict[int, int]]
    ) -> dict[int, tuple[torch.Tensor, int, PromptPair]]:
        """Denoise with the student; ``wanted`` maps state to draw for each row, and a row stops at its last state."""
        found: dict[int, tuple[torch.Tensor, int, PromptPair]] = {}
        rows = list(range(len(pairs)))
        for step in range(self.sampling.num_inference_steps):
            for place, row in enumerate(rows):
                for state, draw in wanted[row].items():
                    if self.sampling.steps_to(state) == step:
                        found[draw] = (latents[place], int(labels[row, state]), pairs[row])
            going = [place for place, row in enumerate(rows) if self.sampling.steps_to(max(wanted[row])) > step]
            if not going:
                break
            rows, latents = [rows[place] for place in going], latents[going]
            timestep = self.walked[step]
            predictions = self._predict(latents, timestep, [pairs[row] for row in rows], with_anchor=False)
            latents = self._step(predictions, timestep, latents)
        return found

    def _predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, pairs: list[PromptPair], *, with_anchor: bool
    ) -> torch.Tensor:
        """Predict for the empty, the target and, if asked, the anchor prompts in one call: (roles, B, C, h, w).

        The anchor's prediction where there is no anchor is that for the empty prompt.
        """
        count = len(pairs)
        anchored = [row for row, pair in enumerate(pairs) if with_anchor and pair.anchor]
        prompts = [""] * count + [pair.target for pair in pairs] + [pairs[row].anchor for row in anchored]
        rows = [*range(count), *range(count), *anchored]
        timesteps = timesteps.to(self.run.device).expand(count)[rows]
        conditioning = self.conditioning.rows(prompts)
        noise_pred = predict_noise(self.unet, latents[rows], timesteps, conditioning=conditioning)
        roles = list(noise_pred[: 2 * count].chunk(2))
        if with_anchor:
            roles.append(roles[0].clone())
            roles[-1][anchored] = noise_pred[2 * count :]
        return torch.stack(roles)

    def _step(self, predictions: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        uncond, target = predictions[0], predictions[1]
        guided = uncond + self.sampling.guidance_scale * (target - uncond)
        return self.sampler.step(guided, int(timestep), latents, return_dict=False)[0]

    def _noise(self, stage: str, group: Sequence[int]) -> torch.Tensor:
        noise = [torch.randn(self.latent_shape, generator=self.run.generator(f"noise.{stage}", i)) for i in group]
        return torch.stack(noise).to(self.run.device) * self.sampler.init_noise_sigma

    def _labels(self, stage: str, group: Sequence[int]) -> torch.Tensor:
        """Return the timesteps that the networks are told at every state: (trajectories, steps)."""
        if not self.sampling.is_upstream:
            return self.sampler.timesteps.repeat(len(group), 1)
        steps = self.sampling.num_inference_steps
        spacing = self.sampler.config.num_train_timesteps // steps
        above = [torch.randint(spacing, (steps,), generator=self.run.generator(f"label.{stage}", i)) for i in group]
        return spacing * torch.arange(steps).flip(0) + torch.stack(above)

    def _permutation(self, stage: str, index: int, size: int) -> list[int]:
        return torch.randperm(size, generator=self.run.generator(stage, index)).tolist()

    def _named(
        self, latents: torch.Tensor, timesteps: torch.Tensor, predictions: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the tensors by the names of the fields of ``States``."""
        names = ("noise_pred_uncond", "noise_pred_target", "noise_pred_anchor")
        return {"latents": latents, "timesteps": timesteps, **dict(zip(names, predictions, strict=False))}
