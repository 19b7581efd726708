import copy
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, UNet2DConditionModel

from erase.concept import Concept
from erase.config import method_config, read_config
from erase.methods import esd
from erase.training.run import Run, hash_tensors


REPOSITORY = Path(__file__).parents[2]
CAT = Concept(target="a cat", kind="object")
SMALL = {"steps": 6, "num_inference_steps": 4, "pool_size": 8, "lr": 1e-3}


def run_esd(pipe, concept: Concept = CAT, *, seed: int = 0, **changes: object) -> Run:
    run = Run(seed=seed, quiet=True, dtype=pipe.unet.dtype)
    assert esd.erase(pipe, concept, [], esd.Config(**{**SMALL, **changes}), run) is pipe
    return run


def weights(pipe) -> str:
    return hash_tensors(pipe.unet.state_dict())


@pytest.mark.parametrize(
    ("fixture", "variant", "anchor", "policy"),
    [
        ("tiny_pipe", "x", "", "frozen"),
        ("tiny_pipe", "u", "a dog", "stale"),
        ("tiny_pipe_v", "strict", "a dog", "frozen"),
        ("tiny_pipe_xl", "x", "", "frozen"),
        ("tiny_pipe_xl", "u", "a dog", "stale"),
    ],
)
def test_gradients_equal_a_recomputation_with_a_second_unet(
    request, fixture: str, variant: str, anchor: str, policy: str
) -> None:
    pipe = request.getfixturevalue(fixture)
    base, probe = copy.deepcopy(pipe.unet), _Probe(pipe.unet, esd.select_parameters(pipe, variant))
    concept = Concept(target=("a cat", "a fish"), anchor=anchor)
    run_esd(pipe, concept, variant=variant, trajectory=policy, steps=2, batch_size=2, negative_guidance=1.5, refresh=1)
    assert len(probe.updates) == 2
    student = copy.deepcopy(base)
    for snapshot, latents, timesteps, arguments, gradients in probe.updates:
        student.load_state_dict(snapshot, strict=False)
        trained = dict(student.named_parameters())
        for i in range(2):
            assert torch.equal(arguments["encoder_hidden_states"][i], _condition(pipe, concept.target[i])[0][0])
        losses = []
        for i, name in enumerate(concept.target):
            x_t, timestep = latents[i : i + 1], timesteps[i]
            with torch.no_grad():
                empty, cat, lead = (_predict(pipe, base, x_t, timestep, text) for text in ("", name, anchor))
            target = lead - 1.5 * (cat - empty)
            losses.append((_predict(pipe, student, x_t, timestep, name) - target).square().mean())
        expected = torch.autograd.grad(sum(losses) / 2, [trained[name] for name in gradients])
        scale = max(gradient.abs().max() for gradient in expected)
        assert scale > 0
        for name, gradient in zip(gradients, expected, strict=True):
            assert (gradients[name] - gradient).abs().max() <= min(1e-5, 1e-4 * scale), name  # fp32: 1e-5 of scale


class _Probe:
    """Records, for every training call of a UNet, its weights, its input and the gradients that follow."""

    def __init__(self, unet: torch.nn.Module, parameters: dict[str, torch.nn.Parameter]) -> None:
        self.updates: list[tuple] = []
        self.parameters = parameters
        unet.register_forward_pre_hook(self._record, with_kwargs=True)
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._keep(name, p))

    def _record(self, unet: torch.nn.Module, inputs: tuple, arguments: dict) -> None:
        if torch.is_grad_enabled() and next(iter(self.parameters.values())).requires_grad:
            snapshot = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
            self.updates.append((snapshot, *inputs, arguments, {}))

    def _keep(self, name: str, parameter: torch.nn.Parameter) -> None:
        self.updates[-1][-1][name] = parameter.grad.clone()


def _condition(pipe, prompt: str) -> tuple[torch.Tensor, dict | None]:
    """The pipeline's own conditioning, by its own code."""
    if "text_encoder_2" not in pipe.components:
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0], None
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(prompt or "x", device="cpu")
    time_ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]])
    embeds, pooled = (embeds, pooled) if prompt else (negative, negative_pooled)
    return embeds, {"text_embeds": pooled, "time_ids": time_ids}


def _predict(pipe, unet, latents: torch.Tensor, timestep: torch.Tensor, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        embeds, added = _condition(pipe, prompt)
    return unet(latents, timestep, embeds, added_cond_kwargs=added).sample


@pytest.mark.parametrize("variant", ["x", "strict", "u"])
def test_only_the_trained_tensors_change(tiny_pipe, variant: str) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    others = [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)]
    trained = set(esd.select_parameters(tiny_pipe, variant))
    run_esd(tiny_pipe, variant=variant)
    changed = {name for name, tensor in tiny_pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= trained
    assert len(changed) > 0.7 * len(trained)
    assert [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)] == others


def test_the_loss_falls_and_the_direction_is_away_from_the_target(tiny_pipe) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    run_esd(tiny_pipe, steps=25, lr=3e-3)
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    cat, empty = (tiny_pipe.encode_prompt(text, "cpu", 8, False)[0] for text in ("a cat", ""))
    with torch.no_grad():
        old, lead, new = base(latents, 501, cat).sample, base(latents, 501, empty).sample, None
        new = tiny_pipe.unet(latents, 501, cat).sample
    target = lead - (old - lead)
    assert (new - target).square().mean() < 0.8 * (old - target).square().mean()


def test_same_seed_same_bytes_and_another_seed_others(tiny_pipe) -> None:
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    run_esd(first, seed=1)
    torch.manual_seed(99)  # the global generator has no say
    run_esd(second, seed=1)
    run_esd(third, seed=2)
    assert weights(first) == weights(second) != weights(third)


@pytest.mark.parametrize("policy", ["frozen", "stale"])
def test_the_callers_pipeline_comes_back_as_it_went_in(tiny_pipe, policy: str) -> None:
    unet = tiny_pipe.unet.train()
    unet.mid_block.requires_grad_(False)
    grads = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    modes = [module.training for part in (unet, tiny_pipe.vae, tiny_pipe.text_encoder) for module in part.modules()]
    steps, generator = tiny_pipe.scheduler.timesteps.clone(), torch.get_rng_state()
    pointers = [parameter.data_ptr() for parameter in unet.parameters()]
    with torch.no_grad():
        run_esd(tiny_pipe, trajectory=policy)
    assert {name: parameter.requires_grad for name, parameter in unet.named_parameters()} == grads
    parts = (unet, tiny_pipe.vae, tiny_pipe.text_encoder)
    assert [module.training for part in parts for module in part.modules()] == modes
    assert not unet._forward_hooks
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(tiny_pipe.scheduler.timesteps, steps)
    assert [parameter.data_ptr() for parameter in unet.parameters()] == pointers
    assert all(parameter.grad is None for parameter in unet.parameters())


@pytest.mark.parametrize("fails_at", [2, 6])  # in the pool, in training
def test_an_interrupted_run_leaves_the_base(tiny_pipe, fails_at: int) -> None:
    before, calls = weights(tiny_pipe), []

    def interrupt(module: object, inputs: object) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyboardInterrupt

    hook = tiny_pipe.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_esd(tiny_pipe)
    hook.remove()
    assert weights(tiny_pipe) == before
    assert not tiny_pipe.unet._forward_hooks
    assert all(parameter.requires_grad for parameter in tiny_pipe.unet.parameters())


def test_a_diverging_run_leaves_the_base(tiny_pipe) -> None:
    before = weights(tiny_pipe)
    with pytest.raises(ValueError, match=r"Update \d+ has a loss that is not finite \(loss (nan|inf)\)"):
        run_esd(tiny_pipe, lr=1e30)
    assert weights(tiny_pipe) == before


def test_the_budget_of_200_updates_holds_with_the_pool(tiny_pipe) -> None:
    tiny_pipe.unet = UNet2DConditionModel(  # even smaller: what is counted does not depend on the size
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    run = run_esd(tiny_pipe, steps=200, num_inference_steps=50, pool_size=200)
    cost = run.summary()
    assert cost["unet_forwards"] <= 3 * 200
    assert cost["unet_backwards"] == 200
    assert (cost["by_stage"]["pool"]["unet_forwards"], cost["by_stage"]["training"]["unet_forwards"]) == (400, 200)
    assert _counts(esd.plan(None, CAT, [], esd.Config(steps=200))) == _counts(cost)
    # 1,000 updates compute the same pool once: plan() is exact for frozen, as the line above has shown
    assert esd.plan(None, CAT, [], esd.Config(steps=1000))["unet_forwards"] == 1400 <= 1.5 * 1000


@pytest.mark.parametrize("anchor", ["", "a dog"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_counts_are_those_of_a_hand_count_and_of_the_plan(tiny_pipe, anchor: str, batch_size: int) -> None:
    concept = Concept(target=("a cat", "a fish"), anchor=anchor)
    cost = run_esd(tiny_pipe, concept, batch_size=batch_size).summary()
    pool = 2 * (2 * 4 + (2 if anchor else 0))  # trajectories; two prompts in every step, the anchor in two of four
    assert _counts(cost) == (pool + 6 * batch_size, 6 * batch_size)
    config = esd.Config(**SMALL, batch_size=batch_size)
    assert _counts(esd.plan(tiny_pipe, concept, [], config)) == _counts(cost)


@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("anchor", ["", "a dog"])
def test_the_defaults_keep_both_bounds_with_an_anchor_and_several_prompts_too(anchor: str, targets: int) -> None:
    concept = Concept(target=("a cat", "a fish", "a cow")[:targets], anchor=anchor)
    for steps, most in ((200, 3), (1000, 1.5)):
        planned = esd.plan(None, concept, [], esd.Config(steps=steps))
        assert planned["unet_forwards"] <= most * steps
        assert planned["unet_forwards"] > 1.39 * steps  # the pool is not starved
        assert planned["unet_backwards"] == steps
        sampling = esd.Config(steps=steps).sampling()
        kept = sampling.kept_states(has_anchor=bool(anchor))
        assert kept * sampling.pool_trajectories(targets, has_anchor=bool(anchor)) == (99 if anchor else 200)


@pytest.mark.parametrize(("prompts", "walk", "anchor"), [(4, 50, ""), (20, 10, ""), (3, 50, "a"), (6, 25, "a")])
def test_both_bounds_hold_up_to_so_many_prompts_times_steps_of_a_walk(prompts: int, walk: int, anchor: str) -> None:
    def forwards_per_update(prompts: int, steps: int) -> float:
        concept = Concept(target="a cat", anchor=anchor, templates=tuple(f"{{}} {i}" for i in range(prompts)))
        config = esd.Config(steps=steps, num_inference_steps=walk)
        return esd.plan(None, concept, [], config)["unet_forwards"] / steps

    assert prompts * walk == (150 if anchor else 200)
    assert forwards_per_update(prompts, 200) <= 3
    assert forwards_per_update(prompts, 1000) <= 1.5
    assert forwards_per_update(prompts + 1, 200) > 3


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "esd").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configurations_keep_the_bound(path: Path) -> None:
    config = read_config(str(path))
    planned = esd.plan(None, config.to_concept(), [], method_config(config))
    assert planned["updates"] == planned["unet_backwards"] == 1000
    assert planned["unet_forwards"] <= 1.5 * 1000


@pytest.mark.parametrize("policy", ["frozen", "stale", "fresh"])
def test_upstream_trains_at_other_levels(tiny_pipe, policy: str) -> None:
    other = copy.deepcopy(tiny_pipe)
    run_esd(tiny_pipe, trajectory=policy)
    run = run_esd(other, trajectory=policy, compat="upstream")
    assert weights(tiny_pipe) != weights(other)
    if policy == "frozen":
        plan = esd.plan(None, CAT, [], esd.Config(**SMALL, compat="upstream"))
        assert _counts(plan) == _counts(run.summary()) == (2 * (2 * 3 + 2 * 4) + 6, 6)


@pytest.mark.parametrize(("policy", "most"), [("stale", 15), ("fresh", 53)])
def test_the_other_policies_cost_what_the_design_allows(policy: str, most: int) -> None:
    plan = esd.plan(None, CAT, [], esd.Config(steps=200, trajectory=policy))
    assert plan["unet_forwards"] <= most * 200


def _counts(record: dict) -> tuple[int, int]:
    return record["unet_forwards"], record["unet_backwards"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_fp32_masters(tiny_pipe, dtype: torch.dtype) -> None:
    reference = copy.deepcopy(tiny_pipe)
    run_esd(reference, steps=2, lr=1e-2)
    tiny_pipe.unet.to(dtype)
    tiny_pipe.text_encoder.to(dtype)
    trained = esd.select_parameters(tiny_pipe, "x")
    before, seen = {name: p.detach().float() for name, p in trained.items()}, set()
    tiny_pipe.unet.register_forward_pre_hook(lambda *_: seen.add(next(iter(trained.values())).dtype))
    run_esd(tiny_pipe, steps=2, lr=1e-2)
    assert seen == {dtype, torch.float32}
    assert {parameter.dtype for parameter in tiny_pipe.unet.parameters()} == {dtype}
    full = esd.select_parameters(reference, "x")
    moved = torch.cat([(trained[name].float() - before[name]).flatten() for name in trained])
    wanted = torch.cat([(full[name] - before[name]).detach().flatten() for name in trained])
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.8


def test_what_cannot_be_done_is_refused_before_anything_is_computed(tiny_pipe) -> None:
    run = Run(quiet=True)
    with pytest.raises(ValueError, match="no retain term, but 1 retain prompts"):
        esd.erase(tiny_pipe, CAT, ["a dog"], esd.Config(), run)
    with pytest.raises(ValueError, match="only Stable Diffusion"):
        esd.erase(DDIMPipeline(tiny_pipe.unet, tiny_pipe.scheduler), CAT, [], esd.Config(), run)
    with pytest.raises(ValueError, match=r"the run is on cpu in torch\.bfloat16"):
        esd.erase(tiny_pipe, CAT, [], esd.Config(), Run(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="cannot visit all 2 forget prompts"):
        esd.plan(None, Concept(target=("a cat", "a fish")), [], esd.Config(steps=1))
    assert run.summary()["unet_forwards"] == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("variant", "xattn", "choose one of x, strict, u"),
        ("trajectory", "often", "choose one of frozen, stale, fresh"),
        ("steps", 0, "steps is 0"),
        ("lr", 0.0, "lr is 0.0"),
        ("lr", math.inf, "lr is inf"),
        ("negative_guidance", -1.0, "negative_guidance is -1.0"),
        ("batch_size", 0, "batch_size is 0"),
        ("compat", "theirs", "choose one of none, upstream"),
    ],
)
def test_meaningless_settings_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        esd.Config(**{name: value})
