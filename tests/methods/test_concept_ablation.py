import copy
import math

import pytest
import torch
from torch.nn.functional import mse_loss

from erase.concept import Concept
from erase.methods import concept_ablation
from erase.training.latents import Drawing, TrainingImages
from erase.training.run import Run, hash_tensors


CAT = Concept(target=("cat", "lion"), anchor="dog", kind="object", templates=("a {}",))
RETAIN = ["a fish", "a bird"]
SMALL = {"steps": 3, "batch_size": 2, "images": 6, "retain_images": 4, "num_inference_steps": 3, "lr": 1e-3}


def run_ablation(pipe, retain: tuple = (), *, seed: int = 0, folder=None, **changes: object) -> Run:
    run = Run(seed=seed, quiet=True, dtype=pipe.unet.dtype, folder=folder, checkpoint_seconds=0)
    config = concept_ablation.Config(**{**SMALL, **changes})
    assert concept_ablation.erase(pipe, CAT, list(retain), config, run) is pipe
    return run


def weights(pipe) -> str:
    return hash_tensors(pipe.unet.state_dict())


def predict(pipe, unet, latents: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        if "text_encoder_2" in pipe.components:
            embeds, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
            time_ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(prompts))
            added = {"text_embeds": pooled, "time_ids": time_ids}
        else:
            embeds, added = pipe.encode_prompt(prompts, "cpu", 1, False)[0], None
    return unet(latents, timesteps, embeds, added_cond_kwargs=added).sample


class Probe:
    """Records the trained tensors and the input of every call with a graph, and the gradients of every update."""

    def __init__(self, pipe) -> None:
        self.trained = concept_ablation.select_parameters(pipe, "strict")
        self.calls: list[tuple] = []
        self.updates: list[dict[str, torch.Tensor]] = []
        pipe.unet.register_forward_pre_hook(self._record)
        for name, parameter in self.trained.items():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._keep(name, p))

    def _record(self, unet: torch.nn.Module, inputs: tuple) -> None:
        if torch.is_grad_enabled():
            self.calls.append(({name: p.detach().clone() for name, p in self.trained.items()}, *inputs))

    def _keep(self, name: str, parameter: torch.nn.Parameter) -> None:
        if not self.updates or name in self.updates[-1]:
            self.updates.append({})
        self.updates[-1][name] = parameter.grad.clone()


@pytest.mark.parametrize(
    ("fixture", "compat"),
    [("tiny_pipe", "none"), ("tiny_pipe", "upstream"), ("tiny_pipe_v", "none"), ("tiny_pipe_xl", "none")],
)
def test_gradients_equal_a_recomputation_with_a_second_unet(request, fixture: str, compat: str) -> None:
    pipe = request.getfixturevalue(fixture)
    base, student, probe = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.unet), Probe(pipe)
    run_ablation(pipe, compat=compat)
    assert (len(probe.calls), len(probe.updates)) == (3, 3)
    for (snapshot, latents, timesteps), gradients in zip(probe.calls, probe.updates, strict=True):
        student.load_state_dict(snapshot, strict=False)
        teacher = base if compat == "none" else student
        with torch.no_grad():
            anchor = predict(pipe, teacher, latents, timesteps, ["a dog", "a dog"])
        with concept_ablation.start_token_detached(student) if compat == "upstream" else torch.enable_grad():
            loss = mse_loss(predict(pipe, student, latents, timesteps, ["a cat", "a lion"]), anchor)
        trained = dict(student.named_parameters())
        expected = torch.autograd.grad(loss, [trained[name] for name in gradients])
        scale = max(gradient.abs().max() for gradient in expected)
        assert scale > 0
        for name, gradient in zip(gradients, expected, strict=True):
            assert (gradients[name] - gradient).abs().max() <= min(1e-5, 1e-4 * scale), name


def test_the_start_token_gets_no_gradient_and_the_prediction_is_the_same(tiny_pipe) -> None:
    latents, embeds = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16, requires_grad=True)
    gradients, predictions = [], []
    for detached in (False, True):
        if detached:
            with concept_ablation.start_token_detached(tiny_pipe.unet):
                predictions.append(tiny_pipe.unet(latents, 1, embeds).sample)
        else:
            predictions.append(tiny_pipe.unet(latents, 1, embeds).sample)
        gradients.append(torch.autograd.grad(predictions[-1].square().sum(), embeds)[0])
    assert torch.equal(*predictions)
    assert gradients[0][:, 0].any()
    assert not gradients[1][:, 0].any()
    assert gradients[1][:, 1].any()


def test_the_student_comes_closer_to_the_anchor(tiny_pipe) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    run_ablation(tiny_pipe, steps=30, lr=1e-2, batch_size=4)
    latents, timesteps = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.full((8,), 501)
    with torch.no_grad():
        anchor, old = (predict(tiny_pipe, base, latents, timesteps, [text] * 8) for text in ("a dog", "a cat"))
        new = predict(tiny_pipe, tiny_pipe.unet, latents, timesteps, ["a cat"] * 8)
    assert mse_loss(new, anchor) < 0.5 * mse_loss(old, anchor)


def test_images_are_those_of_the_pipeline_itself(tiny_pipe) -> None:
    run, pairs = Run(quiet=True), CAT.pairs()
    drawing = Drawing(images=3, retain_images=1, num_inference_steps=5, guidance_scale=4.0)
    conditioning = concept_ablation.encode_prompts(tiny_pipe, ["", "a dog", "a fish"], device=run.device)
    delta = concept_ablation.Delta(concept_ablation.select_parameters(tiny_pipe, "strict"))
    parts = {"batch_size": 2, "conditioning": conditioning, "delta": delta, "run": run}
    images = TrainingImages(tiny_pipe, pairs, ["a fish"], drawing, **parts)
    with delta:
        assert list(images.fill()) == [3, 4]
    noise = [torch.randn(4, 8, 8, generator=run.generator("image.anchor", i)) for i in range(3)]
    noise.append(torch.randn(4, 8, 8, generator=run.generator("image.retain", 0)))
    drawn = tiny_pipe(
        ["a dog"] * 3 + ["a fish"],
        latents=torch.stack(noise),
        num_inference_steps=5,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    tensors = images.tensors()
    torch.testing.assert_close(
        torch.cat([tensors["images.anchor"], tensors["images.retain"]]), drawn, atol=1e-4, rtol=0
    )


def test_images_of_the_anchor_can_avoid_the_target_and_all_of_the_attention_can_be_trained(tiny_pipe) -> None:
    drawing = concept_ablation.Config(**SMALL, avoid_target=True).drawing(("a cat", "a cow"))
    assert drawing.negative_prompt == "a cat, a cow"
    run = Run(quiet=True)
    conditioning = concept_ablation.encode_prompts(
        tiny_pipe, ["", "a cat, a cow", "a dog", "a fish"], device=run.device
    )
    with concept_ablation.Delta(concept_ablation.select_parameters(tiny_pipe, "strict")) as delta:
        parts = {"batch_size": 2, "conditioning": conditioning, "delta": delta, "run": run}
        images = TrainingImages(tiny_pipe, CAT.pairs(), ["a fish"], drawing, **parts)
        list(images.fill())
    for name, prompt, negative in (("anchor", "a dog", "a cat, a cow"), ("retain", "a fish", "")):
        drawn = tiny_pipe(
            prompt,
            negative_prompt=negative,
            latents=torch.randn(4, 8, 8, generator=run.generator(f"image.{name}", 0))[None],
            num_inference_steps=SMALL["num_inference_steps"],
            guidance_scale=6.0,
            output_type="latent",
        ).images
        torch.testing.assert_close(images.tensors()[f"images.{name}"][:1], drawn, atol=1e-4, rtol=0)
    before = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    run_ablation(tiny_pipe, variant="attention", avoid_target=True, retain_weight=1.0)
    changed = {name for name, tensor in tiny_pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".attn" in name}


def test_every_image_is_seen_before_one_comes_back_and_prompts_take_turns(tiny_pipe) -> None:
    run = Run(quiet=True)
    drawing = Drawing(images=7, retain_images=1, num_inference_steps=1, guidance_scale=1.0)
    images = TrainingImages(tiny_pipe, CAT.pairs(), [], drawing, batch_size=1, conditioning=None, delta=None, run=run)
    rows = [images._row("anchor", "forget", draw) for draw in range(24)]
    assert [row % 2 for row in rows] == [0, 1] * 12  # 4 images of one prompt, 3 of the other
    assert sorted(rows[0:8:2]) == sorted(rows[8:16:2]) == [0, 2, 4, 6]
    assert sorted(rows[1:6:2]) == sorted(rows[7:12:2]) == [1, 3, 5]


def test_only_keys_and_values_of_the_cross_attention_change(tiny_pipe) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    run_ablation(tiny_pipe)
    changed = {name for name, tensor in tiny_pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}


@pytest.mark.parametrize("fails_at", [2, 7, 10])
def test_an_interrupted_run_leaves_the_base_and_resumes_to_the_same_bytes(tiny_pipe, tmp_path, fails_at: int) -> None:
    unbroken, before, calls = copy.deepcopy(tiny_pipe), weights(tiny_pipe), []
    run_ablation(unbroken, retain=RETAIN, retain_weight=1.0)

    def interrupt(module: object, inputs: object) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyboardInterrupt

    hook = tiny_pipe.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(tiny_pipe, retain=RETAIN, retain_weight=1.0, folder=tmp_path)
    hook.remove()
    assert weights(tiny_pipe) == before
    run_ablation(tiny_pipe, retain=RETAIN, retain_weight=1.0, folder=tmp_path)
    assert weights(tiny_pipe) == weights(unbroken)


def test_same_seed_same_bytes_and_another_seed_others(tiny_pipe) -> None:
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    for pipe, seed in ((first, 1), (second, 1), (third, 2)):
        run_ablation(pipe, seed=seed)
    assert weights(first) == weights(second) != weights(third)


@pytest.mark.parametrize(("retain_weight", "retain"), [(0.0, []), (1.0, []), (1.0, RETAIN)])
def test_counts_are_those_of_a_hand_count_and_of_the_plan(tiny_pipe, retain_weight: float, retain: list[str]) -> None:
    cost = run_ablation(tiny_pipe, retain_weight=retain_weight, retain=retain).summary()
    graphs, images = 1 + (retain_weight > 0), 6 + 2 * len(retain)
    counts = cost["unet_forwards"], cost["unet_backwards"]
    assert counts == (2 * images * 3 + 3 * 2 * (1 + graphs), 3 * 2 * graphs)
    config = concept_ablation.Config(**SMALL, retain_weight=retain_weight)
    plan = concept_ablation.plan(tiny_pipe, CAT, retain, config)
    assert (plan["unet_forwards"], plan["unet_backwards"], plan["images"]) == (*counts, images)


def test_what_cannot_be_done_is_refused_before_anything_is_computed(tiny_pipe) -> None:
    run, config = Run(quiet=True), concept_ablation.Config()
    with pytest.raises(ValueError, match="anchor is empty"):
        concept_ablation.plan(None, Concept(target="cat"), [], config)
    with pytest.raises(ValueError, match="the 1 retain prompts would protect nothing"):
        concept_ablation.erase(tiny_pipe, CAT, ["a fish"], config, run)
    with pytest.raises(ValueError, match="cannot visit all 2 forget prompts"):
        concept_ablation.plan(None, CAT, [], concept_ablation.Config(steps=1, batch_size=1))
    assert run.summary()["unet_forwards"] == 0
    before = weights(tiny_pipe)
    with pytest.raises(ValueError, match=r"Update \d+ has a loss that is not finite \(loss (nan|inf)\)"):
        run_ablation(tiny_pipe, lr=1e30)
    assert weights(tiny_pipe) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "theirs"}, "choose one of none, upstream"),
        ({"variant": "x"}, "choose one of strict, attention"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"retain_weight": -1.0}, "retain_weight is -1.0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_meaningless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concept_ablation.Config(**changes)
