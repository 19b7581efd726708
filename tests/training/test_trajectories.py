import copy
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from erase.concept import Concept
from erase.model.delta import Delta
from erase.model.diffusion import encode_prompts, select_parameters
from erase.training.run import Run
from erase.training.trajectories import Sampling, Trajectories


SAMPLING = Sampling(
    policy="frozen", updates=12, batch_size=1, num_inference_steps=4, guidance_scale=3.0, pool_size=12, refresh=5
)
CONCEPT = Concept(target="a cat")


def build(pipe, concept: Concept = CONCEPT, *, seed: int = 0, **changes: object) -> Trajectories:
    pairs = concept.pairs()
    conditioning = encode_prompts(pipe, ["", *(text for pair in pairs for text in pair)], device=pipe.device)
    sampling, delta = replace(SAMPLING, **changes), Delta(select_parameters(pipe, "x"))
    run = Run(seed=seed, quiet=True)
    return Trajectories(pipe, pairs, sampling, conditioning=conditioning, delta=delta, run=run)


def fill(trajectories: Trajectories) -> list[int]:
    with trajectories.run.measure(trajectories.unet):
        return list(trajectories.fill())


@pytest.mark.parametrize("fixture", ["tiny_pipe", "tiny_pipe_v", "tiny_pipe_xl"])
def test_frozen_states_are_those_of_the_pipeline_itself(request, fixture: str) -> None:
    pipe = request.getfixturevalue(fixture)
    trajectories = build(pipe, updates=8, pool_size=8)  # two trajectories, walked together
    fill(trajectories)
    pool = trajectories.tensors()
    assert pool["timesteps"].tolist() == [751, 501, 251, 1] * 2
    for i in range(2):
        noise = torch.randn(1, 4, 8, 8, generator=trajectories.run.generator("noise.pool", i))
        visited = [noise]

        def collect(pipe: object, step: int, timestep: int, inputs: dict, visited: list = visited) -> dict:
            visited.append(inputs["latents"])
            return inputs

        pipe(
            "a cat",
            negative_prompt=None,
            guidance_scale=3.0,
            num_inference_steps=4,
            latents=noise,
            output_type="latent",
            callback_on_step_end=collect,
        )
        torch.testing.assert_close(pool["latents"][4 * i : 4 * i + 4], torch.cat(visited[:-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("anchor", ["", "a dog"])
def test_the_pools_predictions_are_the_bases_at_exactly_these_states(tiny_pipe, anchor: str) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    trajectories = build(tiny_pipe, Concept(target="a cat", anchor=anchor))
    with trajectories.delta as delta:
        for tensor in delta.student().values():
            tensor.mul_(1.5)
        fill(trajectories)
        states = trajectories.batch(3)
    prompts = {"uncond": "", "target": "a cat", "anchor": anchor}
    for role, prompt in prompts.items():
        embeds = tiny_pipe.encode_prompt(prompt, "cpu", 1, False)[0]
        with torch.no_grad():
            expected = base(states.latents, states.timesteps, embeds).sample
        torch.testing.assert_close(getattr(states, f"noise_pred_{role}"), expected, rtol=1e-4, atol=1e-5)
    assert trajectories.run.summary()["unet_forwards"] == 3 * 4 * (3 if anchor else 2)


def test_with_an_anchor_a_pool_may_keep_some_states_of_each_trajectory_and_costs_the_same(tiny_pipe) -> None:
    concept = Concept(target=("a cat", "a cow"), anchor="a dog")
    whole = build(tiny_pipe, concept, updates=36, batch_size=2, pool_size=24)
    thinned = build(tiny_pipe, concept, updates=36, batch_size=2, pool_size=24, anchored=2)
    for trajectories in (whole, thinned):
        fill(trajectories)
    # six trajectories of 8 forwards without an anchor; of 10 with two anchored states there are four
    assert (
        thinned.run.summary()["unet_forwards"]
        == 4 * (2 * 4 + 2)
        == thinned.sampling.expected_forwards(2, has_anchor=True)
    )
    kept = [sorted(torch.randperm(4, generator=thinned.run.generator("kept", i)).tolist()[:2]) for i in range(4)]
    assert len({tuple(states) for states in kept}) > 1
    rows = [4 * i + state for i, states in enumerate(kept) for state in states]
    for name, tensor in thinned.tensors().items():
        torch.testing.assert_close(tensor, whole.tensors()[name][rows], rtol=1e-4, atol=1e-5)
    visits = [thinned._pool_row(draw) for draw in range(72)]
    assert all(row // 2 % 2 == draw % 2 for draw, row in enumerate(visits))  # the trajectories of a prompt alone
    assert {visits.count(row) for row in range(8)} == {9}
    unanchored = build(tiny_pipe, pool_size=24, anchored=2)
    assert unanchored.sampling.kept_states(has_anchor=False) == 4


def test_a_resumed_run_goes_on_between_the_trajectories_of_which_some_states_are_kept(tiny_pipe, monkeypatch) -> None:
    monkeypatch.setattr("erase.training.trajectories.WALK_BATCH", 1)
    concept = Concept(target="a cat", anchor="a dog")
    whole, killed, resumed = (build(tiny_pipe, concept, updates=24, pool_size=24, anchored=3) for _ in range(3))
    fill(whole)
    assert next(iter(killed.fill())) == 3
    resumed.restore(killed.tensors())
    fill(resumed)
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor)


def test_trajectories_walked_together_equal_single_ones(tiny_pipe, monkeypatch) -> None:
    pools = []
    for together in (4, 1):
        monkeypatch.setattr("erase.training.trajectories.WALK_BATCH", together)
        trajectories = build(tiny_pipe, Concept(target=("a cat", "a dog")))
        assert len(fill(trajectories)) == (1 if together == 4 else 3)
        pools.append(trajectories.tensors())
    for name in pools[0]:
        torch.testing.assert_close(pools[0][name], pools[1][name], rtol=1e-4, atol=1e-5)


def test_a_pool_is_gone_through_completely_before_a_state_comes_back(tiny_pipe) -> None:
    trajectories = build(tiny_pipe, updates=36, batch_size=2, pool_size=12)
    fill(trajectories)
    rows = [trajectories._pool_row(draw) for draw in range(72)]
    rounds = [rows[first : first + 12] for first in range(0, 72, 12)]
    assert all(sorted(visited) == list(range(12)) for visited in rounds)
    assert len({tuple(visited) for visited in rounds}) == 6
    again, other = (build(tiny_pipe, updates=36, batch_size=2, seed=seed) for seed in (0, 1))
    assert rows == [again._pool_row(draw) for draw in range(72)]
    assert rows != [other._pool_row(draw) for draw in range(72)]


@pytest.mark.parametrize("policy", ["frozen", "stale", "fresh"])
def test_targets_and_prompts_take_turns(tiny_pipe, policy: str) -> None:
    concept = Concept(target=("a cat", "a dog", "a cow"), templates=("{}", "see {}"))
    trajectories = build(tiny_pipe, concept, policy=policy, updates=6, batch_size=2, refresh=3)
    with trajectories.delta:
        fill(trajectories)
        batches = [trajectories.batch(update) for update in range(6)]
    prompts = [prompt for states in batches for prompt in states.prompts]
    assert prompts == [pair.target for pair in concept.pairs()] * 2
    for states in batches:
        rows = trajectories.conditioning.rows(states.prompts)
        with torch.no_grad():
            expected = trajectories.unet(states.latents, states.timesteps, **rows).sample
        torch.testing.assert_close(states.noise_pred_target, expected, rtol=1e-4, atol=1e-5)


def test_stale_states_come_from_the_student_and_their_predictions_from_the_base(tiny_pipe) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    trajectories = build(tiny_pipe, policy="stale", refresh=3, updates=6)
    run = trajectories.run
    with trajectories.delta as delta, run.measure(tiny_pipe.unet):
        for walk in range(2):
            for tensor in delta.student().values():
                tensor.mul_(1.5)  # the student of this walk
            student = copy.deepcopy(tiny_pipe.unet)
            before = run.summary()["unet_forwards"]
            states = [trajectories.batch(3 * walk + i) for i in range(3)]
            steps = torch.randperm(4, generator=run.generator(f"steps.{walk}", 0)).tolist()[:3]
            assert [int(state.timesteps) for state in states] == [[751, 501, 251, 1][step] for step in steps]
            # two for each step before the last state, and the base's two at each of three states
            assert run.summary()["unet_forwards"] - before == 2 * max(steps) + 2 * 3
            noise = torch.randn(1, 4, 8, 8, generator=run.generator(f"noise.walk.{walk}", 0))
            visited = _walk(tiny_pipe, student, noise)
            for step, state in zip(steps, states, strict=True):
                torch.testing.assert_close(state.latents, visited[step], rtol=1e-4, atol=1e-5)
                embeds = tiny_pipe.encode_prompt("a cat", "cpu", 1, False)[0]
                with torch.no_grad():
                    expected = base(state.latents, state.timesteps, embeds).sample
                torch.testing.assert_close(state.noise_pred_target, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def _walk(pipe, unet: torch.nn.Module, latents: torch.Tensor) -> list[torch.Tensor]:
    """Classifier-free guidance and DDIM in closed form."""
    scheduler, visited = pipe.scheduler, []
    target, uncond = pipe.encode_prompt("a cat", "cpu", 1, True)
    for timestep in (751, 501, 251, 1):
        visited.append(latents)
        empty, cat = (unet(latents, timestep, embeds).sample for embeds in (uncond, target))
        guided = empty + 3.0 * (cat - empty)
        now, then = (scheduler.alphas_cumprod[max(t, 0)] for t in (timestep, timestep - 250))
        latents = then.sqrt() * (latents - (1 - now).sqrt() * guided) / now.sqrt() + (1 - then).sqrt() * guided
    return visited


def test_fresh_walks_for_every_update_to_a_random_level(tiny_pipe) -> None:
    trajectories = build(tiny_pipe, policy="fresh", updates=20)
    with trajectories.delta, trajectories.run.measure(tiny_pipe.unet):
        levels = Counter(int(trajectories.batch(update).timesteps) for update in range(20))
    assert set(levels) == {751, 501, 251, 1}
    steps = {751: 0, 501: 1, 251: 2, 1: 3}
    assert trajectories.run.summary()["unet_forwards"] == sum(n * (2 * steps[t] + 2) for t, n in levels.items())
    expected = trajectories.sampling.expected_forwards(1, has_anchor=False)
    assert expected == 20 * (2 * 1.5 + 2)
    assert abs(trajectories.run.summary()["unet_forwards"] - expected) < 25


@torch.no_grad()
def _walk_upstream(pipe, unet: torch.nn.Module, latents: torch.Tensor) -> list[torch.Tensor]:
    """The states k = 3, 2, 1, 0 of the authors' samplers, by diffusers' DDIM from the second of four timesteps."""
    sampler, visited = DDIMScheduler.from_config(pipe.scheduler.config), []
    sampler.set_timesteps(4)
    target, uncond = pipe.encode_prompt("a cat", "cpu", 1, True)
    for timestep in sampler.timesteps[1:]:
        empty, cat = (unet(latents, timestep, embeds).sample for embeds in (uncond, target))
        latents = sampler.step(empty + 3.0 * (cat - empty), timestep, latents).prev_sample
        visited.append(latents)
    return [*visited, latents]  # k = 0 stops where k = 1 does


@pytest.mark.parametrize("anchor", ["", "a dog"])
def test_upstream_takes_noise_for_the_second_level_and_predicts_above_the_level_of_each_state(
    tiny_pipe, anchor: str
) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    trajectories = build(tiny_pipe, Concept(target="a cat", anchor=anchor), compat="upstream")
    with trajectories.delta as delta:
        for tensor in delta.student().values():
            tensor.mul_(1.5)
        fill(trajectories)
    pool = trajectories.tensors()
    for i in range(3):
        noise = torch.randn(1, 4, 8, 8, generator=trajectories.run.generator("noise.pool", i))
        expected = torch.cat(_walk_upstream(tiny_pipe, base, noise))
        torch.testing.assert_close(pool["latents"][4 * i : 4 * i + 4], expected, rtol=1e-4, atol=1e-5)
    assert (pool["timesteps"] // 250).tolist() == [3, 2, 1, 0] * 3
    assert len(set((pool["timesteps"] % 250).tolist())) > 9  # of 12
    for role, prompt in {"uncond": "", "target": "a cat", "anchor": anchor}.items():
        if f"noise_pred_{role}" in pool:
            embeds = tiny_pipe.encode_prompt(prompt, "cpu", 1, False)[0].expand(12, -1, -1)
            with torch.no_grad():
                expected = base(pool["latents"], pool["timesteps"], embeds).sample
            torch.testing.assert_close(pool[f"noise_pred_{role}"], expected, rtol=1e-4, atol=1e-5)
    assert ("noise_pred_anchor" in pool) == bool(anchor)
    planned = trajectories.sampling.expected_forwards(1, has_anchor=bool(anchor))
    assert trajectories.run.summary()["unet_forwards"] == planned == 3 * (2 * 3 + 4 * (3 if anchor else 2))


def test_upstream_has_the_student_walk_to_the_same_levels(tiny_pipe) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    trajectories = build(tiny_pipe, policy="stale", refresh=3, updates=6, compat="upstream")
    run = trajectories.run
    with trajectories.delta as delta, run.measure(tiny_pipe.unet):
        for walk in range(2):
            for tensor in delta.student().values():
                tensor.mul_(1.5)  # the student of this walk
            student = copy.deepcopy(tiny_pipe.unet)
            before = run.summary()["unet_forwards"]
            batches = [trajectories.batch(3 * walk + i) for i in range(3)]
            order = torch.randperm(4, generator=run.generator(f"steps.{walk}", 0)).tolist()[:3]
            assert run.summary()["unet_forwards"] - before == 2 * min(max(order) + 1, 3) + 2 * 3
            noise = torch.randn(1, 4, 8, 8, generator=run.generator(f"noise.walk.{walk}", 0))
            visited = _walk_upstream(tiny_pipe, student, noise)
            embeds = tiny_pipe.encode_prompt("a cat", "cpu", 1, False)[0]
            for state, states in zip(order, batches, strict=True):
                assert int(states.timesteps) // 250 == 3 - state
                torch.testing.assert_close(states.latents, visited[state], rtol=1e-4, atol=1e-5)
                with torch.no_grad():
                    expected = base(states.latents, states.timesteps, embeds).sample
                torch.testing.assert_close(states.noise_pred_target, expected, rtol=1e-4, atol=1e-5)


def test_the_expected_steps_of_upstream_are_the_authors() -> None:
    fresh = replace(SAMPLING, policy="fresh", updates=100, compat="upstream")
    assert fresh.expected_forwards(1, has_anchor=False) == 100 * (2 * (1 + 2 + 3 + 3) / 4 + 2)
    fifty = replace(fresh, num_inference_steps=50)
    assert fifty.expected_forwards(1, has_anchor=True) == round(100 * (2 * 25.48 + 3))
    stale = replace(fresh, policy="stale", refresh=2, updates=300)
    walked = [min(max(two) + 1, 3) for two in itertools.combinations(range(4), 2)]
    assert stale.expected_forwards(1, has_anchor=False) == 150 * 2 * 2 + 150 * 2 * sum(walked) // len(walked)


@pytest.mark.parametrize("policy", ["frozen", "stale"])
def test_the_labels_of_upstream_follow_the_seed_and_a_resumed_run_has_the_same(tiny_pipe, monkeypatch, policy) -> None:
    monkeypatch.setattr("erase.training.trajectories.WALK_BATCH", 1)
    whole, killed, resumed, other = (
        build(tiny_pipe, policy=policy, compat="upstream", seed=seed) for seed in (0, 0, 0, 1)
    )
    next(iter(killed.fill()), None)  # one of three trajectories
    if policy == "stale":
        killed.batch(4)  # the first of three walks
    resumed.restore(killed.tensors())
    for trajectories in (whole, resumed, other):
        fill(trajectories)
    labels = []
    for update in range(3, 12):
        expected, found = whole.batch(update), resumed.batch(update)
        assert all(torch.equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))
        labels.append((int(expected.timesteps) % 250, int(other.batch(update).timesteps) % 250))
    assert sum(one == another for one, another in labels) < 3


def test_more_draws_in_a_walk_than_steps_take_a_second_trajectory() -> None:
    sampling = replace(SAMPLING, policy="stale", refresh=5, batch_size=2)
    assert sampling.walks(0, 1) == [(0, [0, 1, 2, 3]), (0, [4, 5, 6, 7]), (0, [8, 9])]
    assert sampling.walks(2, 2) == [(0, [20, 22]), (1, [21, 23])]  # the last walk is cut at the last draw
    assert sampling.walks(3, 2) == []


def test_the_pool_is_never_larger_than_training_and_holds_every_prompt() -> None:
    assert replace(SAMPLING, pool_size=200).pool_trajectories(1, has_anchor=False) == 3
    assert replace(SAMPLING, pool_size=1).pool_trajectories(5, has_anchor=True) == 5
    with pytest.raises(ValueError, match="12 updates of batch size 1 cannot visit all 13 forget prompts"):
        SAMPLING.expected_forwards(13, has_anchor=False)


@pytest.mark.parametrize("policy", ["frozen", "stale"])
def test_restored_trajectories_go_on_without_computing_again(tiny_pipe, policy: str) -> None:
    first = build(tiny_pipe, policy=policy)
    with first.delta:
        fill(first)
        expected = [first.batch(update) for update in range(2)]
    saved = {name: tensor.clone() for name, tensor in sorted(first.tensors().items(), reverse=True)}
    second = build(tiny_pipe, policy=policy)
    second.restore(saved)
    with second.delta, second.run.measure(second.unet):
        assert list(second.fill()) == []
        found = second.batch(1)
    assert second.run.summary()["unet_forwards"] == 0
    for name in found._fields[1:]:
        assert torch.equal(getattr(found, name), getattr(expected[1], name))


@pytest.mark.parametrize(("name", "value"), [("policy", "often"), ("refresh", 0), ("pool_size", 0), ("updates", 0)])
def test_meaningless_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="unknown: choose one of" if name == "policy" else f"{name} is 0"):
        replace(SAMPLING, **{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "theirs"}, "compat 'theirs' is unknown: choose one of none, upstream"),
        ({"compat": "upstream", "num_inference_steps": 1}, "leaves out the first: raise it"),
    ],
)
def test_a_meaningless_compat_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **changes)
