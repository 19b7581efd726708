import copy
import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from erase.concept import Concept
from erase.config import method_config, read_config
from erase.methods import concept_ablation, doco
from erase.prompts import find_data, read_prompts
from erase.training import surgery
from erase.training.run import Run, hash_tensors


CAT = Concept(target="cat", anchor="dog", kind="object", templates=("a {}", "one {} at night"))
RETAIN = ["a fish", "a bird"]
SMALL = {"steps": 5, "warmup_steps": 2, "batch_size": 2, "images": 6, "retain_images": 4, "num_inference_steps": 3}
FAST = {**SMALL, "lr": 1e-3, "discriminator_lr": 1e-3}


def run_doco(pipe, concept: Concept = CAT, retain: tuple = (), *, seed: int = 0, folder=None, **changes: object) -> Run:
    run = Run(seed=seed, quiet=True, dtype=pipe.unet.dtype, folder=folder, checkpoint_seconds=0)
    assert doco.erase(pipe, concept, list(retain), doco.Config(**{**FAST, **changes}), run) is pipe
    return run


def weights(pipe) -> str:
    return hash_tensors(pipe.unet.state_dict())


class Probe:
    """Records what UNet and discriminator are called with, and the gradients that each optimiser steps with."""

    def __init__(self, pipe) -> None:
        self.unet, self.trained = pipe.unet, doco.select_parameters(pipe, "strict")
        self.calls: list[dict] = []

    def __enter__(self) -> "Probe":
        self._hooks = [register_module_forward_pre_hook(self._call), register_optimizer_step_pre_hook(self._step)]
        self._hooks.append(self.unet.register_forward_pre_hook(self._predict, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _predict(self, unet: torch.nn.Module, inputs: tuple, arguments: dict) -> None:
        if torch.is_grad_enabled():
            student = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
            self.calls.append({"what": "unet", "inputs": inputs, "arguments": arguments, "student": student})

    def _call(self, module: torch.nn.Module, inputs: tuple) -> None:
        if isinstance(module, doco.Discriminator):
            frozen = not any(parameter.requires_grad for parameter in module.parameters())
            seen = inputs[0].detach().clone()
            self.calls.append({"what": "D", "frozen": frozen, "module": copy.deepcopy(module), "seen": seen})

    def _step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [parameter.grad.clone() for parameter in optimizer.param_groups[0]["params"]]
        self.calls.append({"what": type(optimizer).__name__, "gradients": gradients})


def condition(pipe, prompts: list[str]) -> tuple[torch.Tensor, dict | None]:
    """The pipeline's own conditioning, by its own code."""
    if "text_encoder_2" not in pipe.components:
        return pipe.encode_prompt(prompts, "cpu", 1, False)[0], None
    embeds, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    time_ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(prompts))
    return embeds, {"text_embeds": pooled, "time_ids": time_ids}


def predict(pipe, unet, latents: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        embeds, added = condition(pipe, prompts)
    return unet(latents, timesteps, embeds, added_cond_kwargs=added).sample


def original(pipe, noise_pred: torch.Tensor, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The predicted x_0 as diffusers' own scheduler computes it."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(1000)
    rows = zip(noise_pred, timesteps, latents, strict=True)
    return torch.stack([scheduler.step(pred, int(t), x).pred_original_sample for pred, t, x in rows])


@pytest.mark.parametrize(
    ("fixture", "seen", "mode"),
    [
        ("tiny_pipe", "original", "projection"),
        ("tiny_pipe", "noise_pred", "none"),
        ("tiny_pipe_v", "original", "sign_mask"),
        ("tiny_pipe_xl", "noise_pred", "upstream"),
    ],
)
def test_gradients_equal_a_recomputation_with_a_second_unet(request, fixture: str, seen: str, mode: str) -> None:
    pipe = request.getfixturevalue(fixture)
    base, student = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.unet)
    with Probe(pipe) as probe:
        run_doco(pipe, retain=RETAIN, discriminator_input=seen, surgery=mode, retain_weight=0.5, surgery_strength=0.7)
    kinds = [call["what"] for call in probe.calls]
    # real and fake in the warm-up; then student and frozen D, the retain term, the step, real and fake
    assert kinds == ["D", "D", "Adam"] * 2 + ["unet", "D", "unet", "AdamW", "D", "D", "Adam"] * 3
    for first in (6, 13, 20):
        forget, frozen, kept, step, real, fake, step_of_d = probe.calls[first : first + 7]
        assert frozen["frozen"]
        assert not real["frozen"]
        student.load_state_dict(forget["student"], strict=False)
        update = (first - 6) // 7 + 2
        (x_t, timesteps), names = forget["inputs"], ["a cat", "one cat at night"]
        assert torch.equal(forget["arguments"]["encoder_hidden_states"], condition(pipe, names)[0])
        with torch.no_grad():
            anchor = predict(pipe, base, x_t, timesteps, ["a dog", "one dog at night"])
        target = predict(pipe, student, x_t, timesteps, names)
        if seen == "original":
            anchor, target = (original(pipe, each, x_t, timesteps) for each in (anchor, target))
        torch.testing.assert_close(real["seen"], anchor, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fake["seen"], target.detach(), atol=1e-4, rtol=1e-4)
        logits = frozen["module"](target)
        trained = dict(student.named_parameters())
        wanted = [trained[name] for name in probe.trained]
        unlearn = torch.autograd.grad(binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)), wanted)
        loss = mse_loss(predict(pipe, student, *kept["inputs"], RETAIN), _truth(pipe, *kept["inputs"], update))
        retain = torch.autograd.grad(loss, wanted)
        named = [dict(zip(probe.trained, each, strict=True)) for each in (unlearn, retain)]
        combined = surgery.MODES[mode](*named, 0.7)
        for name, gradient in zip(probe.trained, step["gradients"], strict=True):
            expected = combined[name] + 0.5 * named[1][name]
            assert (gradient - expected).abs().max() <= 1e-5, name
        assert max(gradient.abs().max() for gradient in step["gradients"]) > 1e-4
        _check_discriminator(real, fake, step_of_d, contaminated=False)


def _truth(pipe, x_t: torch.Tensor, timesteps: torch.Tensor, update: int) -> torch.Tensor:
    """The noise of the retain batch, which the run's generator gives again; or the velocity it implies."""
    generator = Run(seed=0).generator("noise.retain", update)
    assert torch.equal(torch.randint(1000, (2,), generator=generator), timesteps)
    noise = torch.randn(x_t.shape, generator=generator)
    if pipe.scheduler.config.prediction_type == "epsilon":
        return noise
    alphas = pipe.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    image = (x_t - (1 - alphas).sqrt() * noise) / alphas.sqrt()
    return pipe.scheduler.get_velocity(image, noise, timesteps)


def _check_discriminator(real: dict, fake: dict, step: dict, *, contaminated: bool) -> None:
    module, zeros = real["module"], torch.zeros_like(real["module"](real["seen"]))
    logits = [module(each["seen"]) for each in (real, fake)]
    loss = binary_cross_entropy_with_logits(logits[0], zeros) + binary_cross_entropy_with_logits(logits[1], zeros + 1)
    if contaminated:
        loss = loss + binary_cross_entropy_with_logits(logits[1], zeros)
    expected = torch.autograd.grad(loss, list(module.parameters()))
    for gradient, wanted in zip(step["gradients"], expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_upstream_differs_from_the_paper_as_documented(tiny_pipe) -> None:
    with Probe(tiny_pipe) as probe:
        run_doco(tiny_pipe, compat="upstream")
    kinds = [call["what"] for call in probe.calls]
    assert kinds[:9] == ["D", "D", "Adam"] * 3  # one update more without the student
    forget, frozen, _, step, real, fake, _, step_of_d = probe.calls[9:17]
    assert frozen["frozen"]
    _check_discriminator(real, fake, step_of_d, contaminated=True)
    _check_discriminator(*probe.calls[:3], contaminated=False)
    assert doco.Config(compat="upstream").surgery_mode == "upstream"
    assert doco.Config(compat="upstream", surgery="none").surgery_mode == "none"
    # both gradients are clipped to 1 and at most 1 is added in each tensor
    assert torch.stack([gradient.norm() for gradient in step["gradients"]]).max() <= 2
    assert len(forget["student"]) == len(step["gradients"])


def test_only_keys_and_values_of_the_cross_attention_change(tiny_pipe) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    others = [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)]
    run_doco(tiny_pipe)
    changed = {name for name, tensor in tiny_pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.text_encoder)] == others


def test_same_seed_same_bytes_and_another_seed_others(tiny_pipe) -> None:
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    run_doco(first, seed=1)
    torch.manual_seed(99)  # the global generator has no say
    before = torch.get_rng_state()
    run_doco(second, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    run_doco(third, seed=2)
    assert weights(first) == weights(second) != weights(third)


@pytest.mark.parametrize("retain", [(), RETAIN])
# forwards of the UNet: 3 for the images (6 with retain prompts), then 2 for the warm-up and 3 for every update
@pytest.mark.parametrize("fails_at", [2, 5, 10, 13])
def test_a_run_interrupted_anywhere_leaves_the_base_and_resumes_to_the_same_bytes(
    tiny_pipe, tmp_path, retain: tuple, fails_at: int
) -> None:
    unbroken, before, calls = copy.deepcopy(tiny_pipe), weights(tiny_pipe), []
    run_doco(unbroken, retain=retain)

    def interrupt(module: object, inputs: object) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyboardInterrupt

    hook = tiny_pipe.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_doco(tiny_pipe, retain=retain, folder=tmp_path)
    hook.remove()
    assert weights(tiny_pipe) == before
    assert not tiny_pipe.unet._forward_hooks
    assert all(parameter.requires_grad for parameter in tiny_pipe.unet.parameters())
    run_doco(tiny_pipe, retain=retain, folder=tmp_path)
    assert weights(tiny_pipe) == weights(unbroken)
    if retain:
        with pytest.raises(ValueError, match="a run with another model"):
            run_doco(unbroken, retain=retain, folder=tmp_path)


def test_counts_are_those_of_a_hand_count_and_of_the_plan(tiny_pipe) -> None:
    for changes, graphs in (({}, 2), ({"surgery": "none"}, 1), ({"surgery": "none", "retain_weight": 1.0}, 2)):
        cost = run_doco(copy.deepcopy(tiny_pipe), **changes).summary()
        assert _counts(cost) == (2 * 6 * 3 + 2 * 2 * 2 + 3 * 2 * (1 + graphs), 3 * 2 * graphs)
        assert _counts(doco.plan(tiny_pipe, CAT, [], doco.Config(**FAST, **changes))) == _counts(cost)
    with_retain = run_doco(tiny_pipe, retain=RETAIN).summary()
    assert with_retain["by_stage"]["images"]["unet_forwards"] == 2 * (6 + 4) * 3
    plan = doco.plan(None, CAT, RETAIN, doco.Config(**FAST))
    assert (*_counts(plan), plan["images"]) == (*_counts(with_retain), 6 + 4)


def test_an_update_at_batch_8_keeps_to_24_forwards_and_16_backwards() -> None:
    short, long = (doco.plan(None, CAT, [], doco.Config(steps=1000 + steps)) for steps in (1, 2))
    assert _counts(long)[0] - _counts(short)[0] == 24
    assert _counts(long)[1] - _counts(short)[1] == 16


def _counts(record: dict) -> tuple[int, int]:
    return record["unet_forwards"], record["unet_backwards"]


def test_half_precision_trains_fp32_masters(tiny_pipe) -> None:
    reference = copy.deepcopy(tiny_pipe)
    changes = {"steps": 2, "warmup_steps": 1, "lr": 1e-2}
    run_doco(reference, **changes)
    before = {name: p.detach().clone() for name, p in doco.select_parameters(tiny_pipe, "strict").items()}
    tiny_pipe.unet.to(torch.float16)
    tiny_pipe.text_encoder.to(torch.float16)
    run_doco(tiny_pipe, **changes)
    assert {parameter.dtype for parameter in tiny_pipe.unet.parameters()} == {torch.float16}
    full, half = (doco.select_parameters(pipe, "strict") for pipe in (reference, tiny_pipe))
    moved = torch.cat([(half[name].float() - before[name]).flatten() for name in half])
    wanted = torch.cat([(full[name] - before[name]).detach().flatten() for name in full])
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.8


@pytest.mark.parametrize(("side", "depth", "places"), [(4, 1, 1), (8, 1, 3), (12, 2, 2), (32, 3, 3), (64, 4, 3)])
def test_the_discriminator_follows_the_latents(side: int, depth: int, places: int) -> None:
    module = doco.Discriminator((4, side, side), torch.Generator().manual_seed(0))
    assert module(torch.zeros(2, 4, side, side)).shape == (2, 1, places, places)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in module.layers) == depth + 1
    if side == 64:
        assert sum(parameter.numel() for parameter in module.parameters()) == 2_767_553  # the authors'
    with pytest.raises(ValueError, match="the discriminator needs 4 x 4 or more"):
        doco.Discriminator((4, 3, 3), torch.Generator())


def test_what_cannot_be_done_is_refused_before_anything_is_computed(tiny_pipe) -> None:
    run, config = Run(quiet=True), doco.Config(**FAST)
    with pytest.raises(ValueError, match="anchor is empty"):
        doco.plan(None, Concept(target="cat"), [], config)
    with pytest.raises(ValueError, match="images is 1, but there are 2 anchor prompts"):
        doco.plan(None, CAT, [], doco.Config(images=1))
    three = Concept(target="cat", anchor="dog", templates=("{}", "a {}", "one {}"))
    with pytest.raises(ValueError, match="cannot visit all 3 forget prompts"):
        doco.plan(None, three, [], doco.Config(steps=3, warmup_steps=2, batch_size=2))
    with pytest.raises(ValueError, match="the 1 retain prompts would protect nothing"):
        doco.erase(tiny_pipe, CAT, ["a fish"], doco.Config(surgery="none"), run)
    with pytest.raises(ValueError, match="retain_images is 4, but there are 5 retain prompts"):
        doco.erase(tiny_pipe, CAT, [f"a {i}" for i in range(5)], config, run)
    assert run.summary()["unet_forwards"] == 0


def test_a_diverging_run_leaves_the_base(tiny_pipe) -> None:
    before = weights(tiny_pipe)
    with pytest.raises(ValueError, match=r"Update \d+ has a loss that is not finite .*(nan|inf)"):
        run_doco(tiny_pipe, lr=1e30)
    assert weights(tiny_pipe) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator_input": "x0"}, "choose one of original, noise_pred"),
        ({"surgery": "pcgrad"}, "choose one of projection, upstream, sign_mask, none"),
        ({"compat": "theirs"}, "choose one of none, upstream"),
        ({"steps": 1000}, "so nothing would be erased"),
        ({"steps": 1001, "compat": "upstream"}, "so nothing would be erased"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"lr": math.inf}, "lr is inf"),
        ({"discriminator_lr": 0.0}, "discriminator_lr is 0.0"),
        ({"surgery_strength": -1.0}, "surgery_strength is -1.0"),
        ({"images": 0}, "images is 0"),
    ],
)
def test_meaningless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        doco.Config(**changes)


@pytest.mark.parametrize("method", [doco, concept_ablation])
@pytest.mark.parametrize(("kind", "others"), [("style", ["Sepia", "Pop Art"]), ("object", ["Frogs", "Trees"])])
def test_the_canvas_experiments_fit_every_target_and_know_no_held_out_wording(method, kind: str, others: list) -> None:
    held_out = {row.prompt for row in read_prompts(find_data("canvas_held_out.csv", within="prompts", suffix=".csv"))}
    for target in others:
        name = f"{method.__name__.rsplit('.', 1)[-1]}/canvas-{kind}"
        config = read_config(name, overrides=[f"concept.target=[{target}]"])
        method.plan(None, config.to_concept(), config.retain_prompts(), method_config(config))
        prompts = {text for pair in config.to_concept().pairs() for text in pair} | set(config.retain_prompts())
        assert not prompts & held_out
        assert len(config.retain_prompts()) <= config.params["retain_images"]
