import copy
import math

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch.func import functional_call

from erase.concept import Concept
from erase.methods import unguide
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.prompts import take_turns
from erase.training.run import Run, hash_tensors


CAT = Concept(target="a cat", kind="object")
BENIGN = ["a cat"]  # random weights tell no prompts apart: the threshold is then the least of the target's own values
SMALL = {"steps": 4, "num_inference_steps": 4, "refresh": 2, "lr": 3e-2, "generation_steps": 8, "observe_steps": 2}
QUICK = {**SMALL, "calibration_samples": 4, "quantile": 0.01}


def run_unguide(pipe, concept: Concept = CAT, *, run: Run | None = None, **changes: object) -> UnGuidePipeline:
    """Erase; the first target is its own retain set."""
    run = run or Run(quiet=True, dtype=pipe.unet.dtype)
    return unguide.erase(pipe, concept, BENIGN, unguide.Config(**{**QUICK, **changes}), run)


def result(guided: UnGuidePipeline) -> tuple[str, float]:
    return hash_tensors(guided.guider.weights), guided.guider.config.threshold


def base_hash(unet: torch.nn.Module) -> str:
    state = {name: tensor for name, tensor in unet.state_dict().items() if "lora_" not in name}
    return hash_tensors({name.replace(".base_layer.", "."): tensor for name, tensor in state.items()})


class _Probe:
    """Records, for every training call of a UNet, the adapter, the input and the gradients that follow."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.updates: list[tuple] = []
        unet.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, unet: torch.nn.Module, inputs: tuple, arguments: dict) -> None:
        trained = {name: each for name, each in unet.named_parameters() if "lora_" in name and each.requires_grad}
        if not torch.is_grad_enabled() or not trained:
            return
        if not self.updates:
            for name, each in trained.items():
                each.register_post_accumulate_grad_hook(lambda p, name=name: self._keep(name, p))
        snapshot = {name: each.detach().clone() for name, each in trained.items()}
        self.updates.append((snapshot, *inputs, arguments["encoder_hidden_states"], {}))

    def _keep(self, name: str, parameter: torch.nn.Parameter) -> None:
        self.updates[-1][-1][name] = parameter.grad.clone()


def _merged(base: torch.nn.Module, adapter: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """The weights W + alpha B A of the layers that carry the adapter."""
    weights = dict(base.named_parameters())
    paths = {name.partition(".lora_")[0] for name in adapter}
    parts = {path: [adapter[f"{path}.lora_{part}.unguide.weight"] for part in "BA"] for path in paths}
    return {f"{path}.weight": weights[f"{path}.weight"].detach() + alpha * b @ a for path, (b, a) in parts.items()}


@pytest.mark.parametrize(
    ("fixture", "variant", "anchor", "retain_weight"),
    [
        ("tiny_pipe", "strict", "", 0.0),
        ("tiny_pipe", "u", "a dog", 0.0),
        ("tiny_pipe_v", "strict", "a dog", 0.0),
        ("tiny_pipe", "strict", "a dog", 0.7),
    ],
)
def test_gradients_equal_a_recomputation_with_a_second_unet(
    request, fixture: str, variant: str, anchor: str, retain_weight: float
) -> None:
    pipe = request.getfixturevalue(fixture)
    base, probe = copy.deepcopy(pipe.unet), _Probe(pipe.unet)
    concept = Concept(target=("a cat", "a fish"), anchor=anchor)
    settings = {"variant": variant, "negative_guidance": 1.5, "retain_weight": retain_weight}
    run_unguide(pipe, concept, steps=2, batch_size=2, rank=2, alpha=3.0, **settings)
    assert len(probe.updates) == 2
    for adapter, latents, timesteps, embeds, gradients in probe.updates:
        leaves = {name: tensor.requires_grad_() for name, tensor in adapter.items()}
        weights = _merged(base, leaves, 3.0)
        losses = []
        for i, name in enumerate(concept.target):
            x_t, timestep = latents[i : i + 1], timesteps[i]
            target, lead = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in (name, anchor))
            assert torch.equal(embeds[i], target[0])
            with torch.no_grad():
                cat, anchored = base(x_t, timestep, target).sample, base(x_t, timestep, lead).sample
            wanted = anchored - 1.5 * (cat - anchored)
            noise_pred = functional_call(base, weights, (x_t, timestep, target)).sample
            losses.append((noise_pred - wanted).square().mean())
        assert len(latents) == (4 if retain_weight else 2)
        for i in range(2, len(latents)):  # the same states, with a benign prompt
            assert torch.equal(latents[i], latents[i - 2])
            benign = pipe.encode_prompt(BENIGN[0], "cpu", 1, False)[0]
            with torch.no_grad():
                wanted = base(latents[i : i + 1], timesteps[i], benign).sample
            noise_pred = functional_call(base, weights, (latents[i : i + 1], timesteps[i], benign)).sample
            losses.append(retain_weight * (noise_pred - wanted).square().mean())
        expected = torch.autograd.grad(sum(losses) / 2, [leaves[name] for name in gradients])
        scale = max(gradient.abs().max() for gradient in expected)
        assert scale > 0
        for name, gradient in zip(gradients, expected, strict=True):
            assert (gradients[name] - gradient).abs().max() <= 1e-5 * max(scale, 1), name


@pytest.mark.parametrize("variant", ["strict", "u"])
def test_the_base_s_weights_stay_and_the_layers_are_those_of_the_paper(tiny_pipe, variant: str) -> None:
    before = base_hash(tiny_pipe.unet)
    others = [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)]
    linear = {name for name, module in tiny_pipe.unet.named_modules() if isinstance(module, torch.nn.Linear)}
    guided = run_unguide(tiny_pipe, variant=variant)
    assert base_hash(tiny_pipe.unet) == before
    assert [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)] == others
    crossing = {name for name in linear if name.endswith(("attn2.to_k", "attn2.to_v"))}
    rest = {name for name in linear if ".attn2." not in name and not name.startswith(("time_embedding", "conv_out"))}
    assert set(guided.guider.config.target_modules) == (crossing if variant == "strict" else rest)
    assert any(".time_emb_proj" in name for name in rest)


def test_the_loss_falls_towards_the_target(tiny_pipe) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    run_unguide(tiny_pipe, Concept(target="a cat", anchor="a dog"), steps=60, lr=3e-3)
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    cat, lead = (tiny_pipe.encode_prompt(text, "cpu", 8, False)[0] for text in ("a cat", "a dog"))
    with torch.no_grad():
        old, anchored, new = base(latents, 501, cat).sample, base(latents, 501, lead).sample, None
        new = tiny_pipe.unet(latents, 501, cat).sample
    target = anchored - 2 * (old - anchored)
    assert (new - target).square().mean() < 0.9 * (old - target).square().mean()


def test_same_seed_same_bytes_and_another_seed_others(tiny_pipe) -> None:
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    one = result(run_unguide(first, run=Run(seed=1, quiet=True)))
    state = torch.manual_seed(99).get_state()  # the global generator has no say
    two = result(run_unguide(second, run=Run(seed=1, quiet=True)))
    assert torch.equal(torch.get_rng_state(), state)
    assert one == two
    assert one[0] != result(run_unguide(third, run=Run(seed=2, quiet=True)))[0]


class _Stop(Exception):
    pass


def interrupted(pipe, at: int, run: Run, **settings: object) -> None:
    calls: list[int] = []

    def stop(*_: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise _Stop

    hook = pipe.unet.register_forward_pre_hook(stop)
    with pytest.raises(_Stop):
        run_unguide(pipe, run=run, **settings)
    hook.remove()


@pytest.mark.parametrize("fails_at", [1, 6, 8, 14])  # in a walk, in training, while the threshold is found
def test_an_interrupted_run_leaves_the_pipeline_as_it_was(tiny_pipe, fails_at: int) -> None:
    unet = tiny_pipe.unet.train()
    unet.mid_block.requires_grad_(False)
    names, before = [name for name, _ in unet.named_modules()], hash_tensors(unet.state_dict())
    flags = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    steps = tiny_pipe.scheduler.timesteps.clone()
    interrupted(tiny_pipe, fails_at, Run(quiet=True))
    assert [name for name, _ in unet.named_modules()] == names
    assert hash_tensors(unet.state_dict()) == before
    assert {name: parameter.requires_grad for name, parameter in unet.named_parameters()} == flags
    assert all(module.training for module in unet.modules())
    assert not unet._forward_hooks
    assert torch.equal(tiny_pipe.scheduler.timesteps, steps)
    run_unguide(tiny_pipe)  # and it can be erased again


@pytest.mark.parametrize("killed_at", [6, 11, 16])
def test_a_resumed_run_ends_in_the_same_bytes(tiny_pipe, tmp_path, killed_at: int) -> None:
    whole = result(run_unguide(copy.deepcopy(tiny_pipe)))

    def run() -> Run:
        return Run(quiet=True, folder=tmp_path, checkpoint_seconds=0)

    interrupted(copy.deepcopy(tiny_pipe), killed_at, run())
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert result(run_unguide(tiny_pipe, run=run())) == whole
    assert "resumed" in (tmp_path / "log.jsonl").read_text()


def test_the_budget_of_200_updates_holds_with_the_walks(tiny_pipe) -> None:
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
    run, config = Run(quiet=True), unguide.Config(calibration_samples=16, quantile=0.01, lr=1e-3)
    unguide.erase(tiny_pipe, Concept(target="a cat", anchor="a dog"), BENIGN, config, run)
    cost = run.summary()
    stages = cost["by_stage"]
    assert stages["pool"]["unet_forwards"] + stages["training"]["unet_forwards"] <= 15 * 200
    assert (cost["unet_backwards"], stages["training"]["unet_forwards"]) == (200, 200)
    assert stages["threshold"]["unet_forwards"] == 2 * 16 * 3 * 4  # sets, samples, steps, rows
    planned = unguide.plan(None, Concept(target="a cat", anchor="a dog"), BENIGN, config)
    assert planned["unet_forwards"] == pytest.approx(cost["unet_forwards"], rel=0.05)


def test_what_the_retain_loss_costs_is_planned_and_a_resumed_run_draws_the_same(tiny_pipe, tmp_path) -> None:
    run, settings = Run(quiet=True), {"retain_weight": 1.0, "batch_size": 2}
    whole = result(run_unguide(copy.deepcopy(tiny_pipe), run=run, **settings))
    cost, planned = run.summary(), unguide.plan(None, CAT, BENIGN, unguide.Config(**QUICK, **settings))
    assert cost["unet_backwards"] == planned["unet_backwards"] == 2 * 2 * 4
    assert cost["by_stage"]["training"]["unet_forwards"] == 3 * 2 * 4  # the base's prediction, and two of the student
    assert planned["unet_forwards"] == pytest.approx(cost["unet_forwards"], rel=0.2)
    halfway = Run(quiet=True, folder=tmp_path, checkpoint_seconds=0)
    interrupted(copy.deepcopy(tiny_pipe), 10, halfway, **settings)
    assert result(run_unguide(tiny_pipe, run=Run(quiet=True, folder=tmp_path), **settings)) == whole


def test_only_the_benign_prompts_that_training_sees_are_encoded(tiny_pipe) -> None:
    benign, run = [f"{number} trees" for number in range(300)], Run(quiet=True)
    config = unguide.Config(**{**QUICK, "retain_weight": 1.0})
    encoded: list[int] = []

    def stop(*_: object) -> None:
        raise _Stop

    tiny_pipe.text_encoder.register_forward_hook(lambda module, inputs, output: encoded.append(len(output[0])))
    tiny_pipe.unet.register_forward_pre_hook(stop)
    with pytest.raises(_Stop):
        unguide.erase(tiny_pipe, CAT, benign, config, run)
    seen = {prompt for update in range(config.steps) for prompt in unguide._benign(benign, update, config, run)}
    assert sum(encoded) == 2 + len(seen)  # with the empty prompt and the target
    assert 1 < len(seen) <= config.steps


@pytest.mark.parametrize("policy", ["frozen", "stale"])
def test_compat_trains_at_other_levels(tiny_pipe, policy: str) -> None:
    other, run = copy.deepcopy(tiny_pipe), Run(quiet=True)
    anchored = Concept(target="a cat", anchor="a dog", kind="object")
    right = run_unguide(tiny_pipe, anchored, trajectory=policy)
    upstream = run_unguide(other, anchored, trajectory=policy, compat="upstream", run=run)
    assert result(right)[0] != result(upstream)[0]
    if policy == "frozen":
        config = unguide.Config(**QUICK, trajectory=policy, compat="upstream")
        assert unguide.plan(None, anchored, BENIGN, config)["unet_forwards"] == run.summary()["unet_forwards"]


def test_upstream_has_the_authors_weights_and_the_empty_prompt_s_threshold(tiny_pipe) -> None:
    guided = run_unguide(tiny_pipe, Concept(target="x" * 60), mode="upstream", steps=10, lr=0.1)
    settings = guided.guider.config
    assert (settings.target_weight, settings.benign_weight, settings.mode) == (-1.0, 2.0, "upstream")
    guided("", num_inference_steps=8, num_images_per_prompt=4, generator=torch.Generator().manual_seed(0))
    assert settings.threshold == pytest.approx(guided.guider.statistic.mean().item(), rel=0.3)


def test_without_a_quantile_the_threshold_parts_the_two_sets_best() -> None:
    generator = torch.Generator().manual_seed(0)
    shown, benign = 1 + torch.rand(30, generator=generator), torch.rand(40, generator=generator)
    assert benign.max() < unguide._parting(shown, benign) < shown.min()
    shown, benign = shown - 0.3, benign + 0.1 * torch.rand(40, generator=generator)
    found = unguide._parting(shown, benign)

    def youden(threshold: float) -> float:
        return ((shown > threshold).double().mean() - (benign > threshold).double().mean()).item()

    assert youden(found) == max(youden(value) for value in torch.linspace(0, 2, 20_001).tolist())
    assert 0 < youden(found) < 1
    assert unguide._parting(torch.ones(3), torch.ones(3)) == math.inf  # told apart by nothing: refused by the caller


def test_the_whole_erasure_finds_the_best_threshold(tiny_pipe) -> None:
    config = run_unguide(tiny_pipe, Concept(target="x" * 60), quantile=None, lr=0.1, steps=10).guider.config
    assert math.isfinite(config.threshold)
    assert config.calibration["forget_above"] >= config.calibration["retain_above"]


@pytest.mark.parametrize(("target", "is_told_early"), [("a cat", True), ("x" * 60, False)])
def test_fewer_observed_steps_have_a_threshold_where_they_tell_the_target(tiny_pipe, target, is_told_early) -> None:
    changes = {"observe_steps": 3, "generation_steps": 12, "lr": 0.1, "steps": 10}
    config = run_unguide(tiny_pipe, Concept(target=target), **changes).guider.config
    first, second = config.early_thresholds
    assert (first is not None) == is_told_early
    assert 0 < config.threshold < second  # the adapter of random weights does less at each further step
    assert first is None or second < first


def test_one_target_that_is_not_recognised_is_refused_although_the_others_are(tiny_pipe) -> None:
    fish = "x" * 60
    concept = Concept(target=("a cat", fish))
    with pytest.raises(ValueError, match=r"only \d+% of the samples of 'a cat' .* the target would not be erased"):
        unguide.erase(tiny_pipe, concept, [fish], unguide.Config(**QUICK), Run(quiet=True))
    config = run_unguide(tiny_pipe, concept).guider.config
    assert set(config.calibration["forget_above_by_target"]) == set(concept.target)
    with pytest.raises(ValueError, match="calibration_samples is 1 for 2 targets"):
        unguide.plan(None, concept, BENIGN, unguide.Config(calibration_samples=1))


@pytest.mark.parametrize(("targets", "templates", "count"), [(2, 64, 64), (3, 10, 64), (5, 80, 12), (1, 12, 64)])
def test_every_target_has_its_share_of_the_samples_and_its_templates_are_spread(
    targets: int, templates: int, count: int
) -> None:
    concept = Concept(
        target=[f"target {i}" for i in range(targets)], templates=[f"{{}} in place {i}" for i in range(templates)]
    )
    picked = take_turns([concept.prompts(name) for name in concept.target], count)
    for name in concept.target:
        own = [prompt for prompt in picked if prompt.startswith(f"{name} ")]
        assert len(own) in (count // targets, -(-count // targets))
        places = [int(prompt.split()[-1]) for prompt in own]
        assert len(set(places)) == min(len(own), templates)
        assert places == sorted(places)
        assert max(places) >= templates - 1 - templates // len(own)
    if targets == 1:
        prompts = [pair.target for pair in concept.pairs()]
        assert picked == [prompts[index * templates // count] for index in range(count)]


def test_half_precision_trains_and_generates(tiny_pipe) -> None:
    tiny_pipe.to(torch.bfloat16, silence_dtype_warnings=True)
    guided = run_unguide(tiny_pipe)
    assert {parameter.dtype for parameter in guided.unet.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in guided.guider.weights.values()} == {torch.bfloat16}
    guided.guider.register_to_config(threshold=-1.0)
    assert guided("a cat", num_inference_steps=4, output_type="latent").images.isfinite().all()


def test_what_cannot_be_done_is_refused(tiny_pipe, tiny_pipe_xl) -> None:
    run = Run(quiet=True)
    with pytest.raises(ValueError, match="there are none: add some to 'retain'"):
        unguide.erase(tiny_pipe, CAT, [], unguide.Config(), run)
    with pytest.raises(ValueError, match="retain_weight needs benign prompts"):
        unguide.erase(tiny_pipe, CAT, [], unguide.Config(mode="upstream", retain_weight=1.0), run)
    with pytest.raises(ValueError, match="supports sd1, sd2, but this model is sdxl"):
        unguide.erase(tiny_pipe_xl, CAT, BENIGN, unguide.Config(), run)
    assert run.summary()["unet_forwards"] == 0
    with pytest.raises(ValueError, match=r"Update \d+ has a loss that is not finite \(loss (nan|inf)\)"):
        run_unguide(tiny_pipe, lr=1e30)
    with pytest.raises(ValueError, match="so the target would not be erased: raise steps or lr"):
        run_unguide(tiny_pipe, quantile=1.0)
    assert isinstance(tiny_pipe, StableDiffusionPipeline)
    assert not any("lora_" in name for name, _ in tiny_pipe.unet.named_modules())
    run_unguide(tiny_pipe)
    with pytest.raises(ValueError, match="carries LoRA layers"):
        run_unguide(tiny_pipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "x"}, "choose one of strict, u"),
        ({"mode": "fast"}, "choose one of exact, upstream"),
        ({"rank": 0}, "rank is 0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"negative_guidance": -1.0}, "negative_guidance is -1.0"),
        ({"retain_weight": -1.0}, "retain_weight is -1.0"),
        ({"target_weight": 1.0}, "1 is the base"),
        ({"quantile": 0.0}, "quantile is 0.0"),
        ({"observe_steps": 6, "generation_steps": 20}, "at most a quarter"),
        ({"trajectory": "often"}, "choose one of frozen, stale, fresh"),
    ],
)
def test_meaningless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unguide.Config(**changes)
