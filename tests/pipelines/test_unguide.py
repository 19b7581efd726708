"""UnGuidance: bit for bit the base where a sample is benign, the formula where it is not, at the promised cost."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

import erase
from erase.artifact import folder as artifact
from erase.config import read_config
from erase.experiment import run_experiment
from erase.model import base_model
from erase.pipelines.unguide.unguidance import LORA, UnGuidance
from eval.models.fingerprint import fingerprint, footprint
from eval.models.subject import describe, open_erased


REPOSITORY = Path(__file__).parents[2]
STEPS = 20
PARAMS = {"steps": 6, "num_inference_steps": 4, "refresh": 3, "lr": 0.05, "calibration_samples": 4, "quantile": 0.01}
STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("erase", "eval"):
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
sys.path[:] = [place for place in sys.path if place not in ("", REPOSITORY)]
import json, numpy, torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

try:
    import erase
except ImportError:
    pass
else:
    raise SystemExit("erase can be imported, so this proves nothing")
for cls in (DiffusionPipeline, StableDiffusionPipeline):
    try:
        cls.from_pretrained("erased")
    except ValueError as error:
        print("refused:", "trust_remote_code=True" in str(error))
    else:
        raise SystemExit("it was loaded without trust")

def draw(folder, name):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    images = pipe(["a cat", "a dog"], num_inference_steps=8, generator=generator, output_type="np").images
    numpy.save(name, images)
    print("weights:", pipe.guider.weight.tolist())
    return pipe

draw("erased", "first.npy").save_pretrained("again")
draw("again", "second.npy")
"""
SAVE_AGAIN = """
import hashlib, sys
from erase.pipelines.unguide.unguidance import LORA, UnGuidance

guider = UnGuidance.from_pretrained(sys.argv[1])
for name in range(8):
    guider.save_pretrained(f"{sys.argv[2]}/{name}")
    for file in (LORA, "guider_config.json"):
        print(file, hashlib.sha256(open(f"{sys.argv[2]}/{name}/{file}", "rb").read()).hexdigest())
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("unguide") / "erased"
    settings = {
        "method": "unguide",
        "base_model": str(tiny_folder),
        "concept": {"target": ["a cat"], "kind": "object"},
        "retain": ["a cat"],  # random weights tell no prompts apart
        "params": PARAMS,
        "device": "cpu",
        "out": str(out),
    }
    run_experiment(read_config(settings=settings), quiet=True)
    guider = out / "guider" / "guider_config.json"
    assert json.loads(guider.read_text())["observe_steps"] == 3
    return out


@pytest.fixture
def guided(saved: Path) -> DiffusionPipeline:
    pipe = erase.load_erased(saved)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def base(tiny_folder: Path) -> StableDiffusionPipeline:
    pipe = base_model.load(str(tiny_folder), device="cpu", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts: list[str], *, steps: int = STEPS, scale: float = 7.5, **kwargs: object) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    options = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent", **kwargs}
    return pipe(prompts, generator=generators, **options).images


def test_a_guider_of_another_version_says_erase_again(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "guider", tmp_path / "guider")
    settings = json.loads((folder / "guider_config.json").read_text())
    del settings["early_thresholds"]
    (folder / "guider_config.json").write_text(json.dumps(settings | {"schema_version": 2}))
    with pytest.raises(ValueError, match="has schema_version 2, but this code reads 3: erase again"):
        UnGuidance.from_pretrained(folder)


def set_threshold(guided, threshold: float) -> None:
    guided.guider.register_to_config(threshold=threshold)


def between(guided, prompts: list[str], **kwargs: object) -> tuple[int, int]:
    """Put the threshold between the two samples; returns (benign, target)."""
    draw(guided, prompts, **kwargs)
    statistic = guided.guider.statistic
    assert statistic[0] != statistic[1]
    set_threshold(guided, statistic.mean().item())
    return int(statistic.argmin()), int(statistic.argmax())


PROMPTS = ["a cat", "a dog"]


@pytest.mark.parametrize("scale", [7.5, 1.0])
@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2"], indirect=True)
def test_benign_samples_are_the_base_s_bit_for_bit(guided, base, scale: float) -> None:
    set_threshold(guided, float("inf"))
    assert torch.equal(draw(guided, PROMPTS, scale=scale), draw(base, PROMPTS, scale=scale))
    assert guided.guider.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_the_decision_is_made_for_each_sample(guided, base, scale: float) -> None:
    benign, target = between(guided, PROMPTS, scale=scale)
    images, plain = draw(guided, PROMPTS, scale=scale), draw(base, PROMPTS, scale=scale)
    assert torch.equal(images[benign], plain[benign])  # also beside a target in the same batch
    assert not torch.allclose(images[target], plain[target], atol=1e-3)
    assert (guided.guider.weight[benign], guided.guider.weight[target]) == (1.0, -1.0)


def explicit(
    base, lora, prompt: str, *, seed: int, weight: float, observed: int, steps: int = 8, guided_steps: int = 8
) -> torch.Tensor:
    """UnGuidance written out for one sample with two UNets, blended after guidance."""
    scheduler = type(base.scheduler).from_config(base.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    empty, text = (base.encode_prompt(each, "cpu", 1, False)[0] for each in ("", prompt))
    for step, timestep in enumerate(scheduler.timesteps):
        guided = []
        with torch.no_grad():
            for unet in (base.unet, lora.unet):
                uncond, cond = unet(latents, timestep, empty).sample, unet(latents, timestep, text).sample
                guided.append(uncond + 7.5 * (cond - uncond) if step < guided_steps else cond)
        w = 1.0 if step < observed else weight
        latents = scheduler.step(w * guided[0] + (1 - w) * guided[1], timestep, latents).prev_sample
    return latents[0]


def with_lora(base, saved: Path) -> StableDiffusionPipeline:
    """The stock pipeline with the adapter, by diffusers' own loader."""
    pipe = copy.deepcopy(base)
    pipe.load_lora_weights(saved, subfolder="guider", weight_name=LORA)
    return pipe


@pytest.mark.parametrize("weight", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2"], indirect=True)
def test_the_hook_is_the_explicit_formula(guided, base, saved, weight: float) -> None:
    lora = with_lora(base, saved)
    wanted = torch.stack(
        [explicit(base, lora, prompt, seed=seed, weight=weight, observed=1) for seed, prompt in enumerate(PROMPTS)]
    )
    set_threshold(guided, -1.0)
    guided.guider.register_to_config(target_weight=weight)
    found = draw(guided, PROMPTS, steps=8)
    assert guided.guider.observation(8, rows=2, extra=2).steps == 1  # the least there is; 3 of 50 would be half a step
    assert torch.allclose(found, wanted, atol=1e-3 * wanted.abs().max())
    assert not torch.allclose(found, draw(base, PROMPTS, steps=8), atol=1e-2)


def test_the_statistic_is_the_formula_whatever_stands_in_the_unconditional_rows(guided, base, saved) -> None:
    lora = with_lora(base, saved)
    latents = torch.stack([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i))[0] for i in range(2)])
    scheduler = type(base.scheduler).from_config(base.scheduler.config)
    scheduler.set_timesteps(8)

    def disagreement(prompts: list[str]) -> torch.Tensor:
        embeds = torch.cat([base.encode_prompt(each, "cpu", 1, False)[0] for each in prompts])
        with torch.no_grad():
            found = [unet(latents, scheduler.timesteps[0], embeds).sample for unet in (base.unet, lora.unet)]
        return (found[1] - found[0]).square().mean((1, 2, 3)).sqrt()

    wanted = disagreement(PROMPTS) / disagreement(["", ""]).sqrt()
    assert not torch.allclose(disagreement(["", ""]), disagreement(["blue", "a dog"]), rtol=1e-2)
    for options in ({}, {"scale": 1.0}, {"negative_prompt": ["blue", "a dog"]}):
        draw(guided, PROMPTS, steps=8, **options)
        torch.testing.assert_close(guided.guider.statistic, wanted, rtol=1e-3, atol=1e-6)
    guided.guider.register_to_config(mode="upstream")
    draw(guided, PROMPTS, steps=8)
    torch.testing.assert_close(guided.guider.statistic, disagreement(PROMPTS), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2"], indirect=True)
def test_given_weights_0_and_1_are_the_adapter_and_the_base(guided, base, saved) -> None:
    lora = draw(with_lora(base, saved), PROMPTS)
    assert torch.equal(draw(guided, PROMPTS, weight=0.0), lora)
    assert torch.equal(draw(guided, PROMPTS, weight=1.0), draw(base, PROMPTS))
    mixed = draw(guided, PROMPTS, weight=[1.0, 0.0])
    assert torch.equal(mixed[0], draw(base, PROMPTS)[0])
    assert torch.allclose(mixed[1], lora[1], atol=1e-4)
    with pytest.raises(ValueError, match="3 weights were given for 2 samples"):
        draw(guided, PROMPTS, weight=[1.0, 0.0, 0.0])


CALLS = {"plain": {}, "negative prompt": {"negative_prompt": ["blue", "red"]}, "without guidance": {"scale": 1.0}}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("observed", "steps"), [(5, 20), (3, 50)])  # of the canvas, and of Stable Diffusion
def test_an_image_costs_what_the_design_allows(guided, observed: int, steps: int, call: str) -> None:
    counted: list[int] = []
    hook = guided.unet.conv_in.register_forward_hook(lambda module, inputs, output: counted.append(len(output)))
    shipped = {"observe_steps": observed, "num_inference_steps": steps}

    def cost(threshold: float) -> int:
        counted.clear()
        guided.guider.register_to_config(threshold=threshold, early_thresholds=[threshold] * (observed - 1), **shipped)
        draw(guided, PROMPTS, steps=steps, **CALLS[call])
        return sum(counted)

    plain = 2 * steps * (1 if call == "without guidance" else 2)
    assert plain < cost(float("inf")) <= 1.25 * plain
    assert guided.guider.weight.tolist() == [1.0, 1.0]
    assert 1.9 * plain < cost(-1.0) <= 2.1 * plain
    assert guided.guider.weight.tolist() == [-1.0, -1.0]
    hook.remove()


@pytest.mark.parametrize(("call", "observed"), [("plain", 5), ("negative prompt", 3), ("without guidance", 1)])
def test_fewer_steps_have_a_threshold_of_their_own_or_are_not_enough(guided, call: str, observed: int) -> None:
    def decide(threshold: float, early: list[float | None]) -> list[float]:
        shipped = {"observe_steps": 5, "num_inference_steps": 20}
        guided.guider.register_to_config(threshold=threshold, early_thresholds=early, **shipped)
        draw(guided, PROMPTS, **CALLS[call])
        assert torch.equal(guided.guider.statistics[-1], guided.guider.statistic)
        return guided.guider.weight.tolist()

    benign, target = [1.0, 1.0], [-1.0, -1.0]
    only = [-1.0] * 4
    if observed < 5:
        only[observed - 1] = math.inf
    assert decide(-1.0, only) == (target if observed == 5 else benign)
    assert len(guided.guider.statistics) == observed
    if observed < 5:  # these steps do not tell the target, so more decide than the cost allows
        assert decide(math.inf, [None, None, None, -1.0]) == target
        assert len(guided.guider.statistics) == 4
    first = guided.guider.statistics[0]  # the first step sees the same noise, with and without guidance
    decide(1.0, [1.0] * 4)
    torch.testing.assert_close(guided.guider.statistics[0], first, rtol=1e-3, atol=1e-6)


def end_guidance(after: int):
    """Diffusers' example of a callback; its SDCFGCutoffCallback does the same, for one image."""

    def end(pipe, step: int, timestep: int, tensors: dict) -> dict:
        if step == after:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        return tensors

    return {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.4])  # the decision is made after 5 of 20 steps
def test_guidance_may_end_on_the_way(guided, base, ratio: float) -> None:
    guided.guider.register_to_config(observe_steps=5, num_inference_steps=20, early_thresholds=[None] * 4)
    cut = {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=ratio)}
    set_threshold(guided, float("inf"))
    plain = draw(base, ["a cat"], **cut)
    assert torch.equal(draw(guided, ["a cat"], **cut), plain)
    assert not torch.equal(draw(base, ["a cat"]), plain)
    set_threshold(guided, -1.0)
    assert not torch.allclose(draw(guided, ["a cat"], **cut), plain, atol=1e-3)
    assert len(guided.guider.statistics) == 5
    both = end_guidance(int(20 * ratio))
    benign, target = between(guided, PROMPTS, **both)
    images, plain = draw(guided, PROMPTS, **both), draw(base, PROMPTS, **both)
    assert torch.equal(images[benign], plain[benign])
    assert not torch.allclose(images[target], plain[target], atol=1e-3)


@pytest.mark.parametrize("after", [0, 3])
def test_without_guidance_from_a_step_on_the_hook_is_the_explicit_formula(guided, base, saved, after: int) -> None:
    lora = with_lora(base, saved)
    wanted = torch.stack(
        [
            explicit(base, lora, prompt, seed=seed, weight=-1.0, observed=1, guided_steps=after + 1)
            for seed, prompt in enumerate(PROMPTS)
        ]
    )
    set_threshold(guided, -1.0)
    found = draw(guided, PROMPTS, steps=8, **end_guidance(after))
    assert torch.allclose(found, wanted, atol=1e-3 * wanted.abs().max())


def test_guidance_that_ends_before_the_decision_is_judged_as_one_of_scale_1_is(guided) -> None:
    def scale_1(pipe, step: int, timestep: int, tensors: dict) -> dict:
        pipe._guidance_scale = math.nextafter(1, 2)  # keeps both halves of the batch
        return tensors

    guided.guider.register_to_config(observe_steps=5, num_inference_steps=20, early_thresholds=[None] * 4)
    draw(guided, PROMPTS, callback_on_step_end=scale_1)
    wanted = guided.guider.statistics
    draw(guided, PROMPTS, **end_guidance(0))
    assert wanted.shape == (5, 2)
    torch.testing.assert_close(guided.guider.statistics, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("after", [0, 10])  # the decision is made after 5 of 20 steps
def test_a_prompt_that_changes_on_the_way_is_refused(guided, base, after: int, in_place: bool) -> None:
    cat = torch.cat(base.encode_prompt("a cat", "cpu", 2, True)[::-1])

    def swap(pipe, step: int, timestep: int, tensors: dict) -> dict:
        if step == after and in_place:
            tensors["prompt_embeds"].copy_(cat)
        elif step == after:
            tensors["prompt_embeds"] = cat
        return tensors

    call = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    guided.guider.register_to_config(observe_steps=5, num_inference_steps=20, threshold=math.inf)
    with pytest.raises(ValueError, match=r"prompt embeddings changed .* leave them as they are, or pass the weight"):
        draw(guided, PROMPTS, **call)
    assert not guided.unet._forward_hooks
    assert torch.equal(draw(guided, PROMPTS, weight=1.0, **call), draw(base, PROMPTS, **call))


def test_one_step_would_erase_nothing_and_two_do(guided, base) -> None:
    set_threshold(guided, -1.0)
    with pytest.raises(ValueError, match="the first one only decides, so no image would be erased: use 2"):
        draw(guided, PROMPTS, steps=1)
    with pytest.raises(ValueError, match="One denoising step"):
        draw(guided, PROMPTS, timesteps=[999])
    assert not torch.allclose(draw(guided, PROMPTS, steps=2), draw(base, PROMPTS, steps=2), atol=1e-3)
    assert torch.equal(draw(guided, PROMPTS, steps=1, weight=1.0), draw(base, PROMPTS, steps=1))


@pytest.mark.parametrize("tokens", [154, 100, 40])
def test_prompts_of_another_length_are_compared_with_an_empty_one_of_that_length(guided, base, tokens: int) -> None:
    embeds, negative = (
        torch.cat([each, each], dim=1)[:, :tokens] for each in base.encode_prompt("a cat", "cpu", 1, True)
    )
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "num_inference_steps": 4}

    def image(pipe) -> torch.Tensor:
        return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).images

    set_threshold(guided, float("inf"))
    assert torch.equal(image(guided), image(base))
    if tokens == 154:  # the same keys and values twice leave attention as it is
        twice = guided.guider.statistic
        draw(guided, ["a cat"], steps=4)
        torch.testing.assert_close(guided.guider.statistic, twice, rtol=1e-3, atol=1e-6)
    set_threshold(guided, -1.0)
    assert not torch.allclose(image(guided), image(base), atol=1e-3)


def test_it_is_called_like_the_stock_pipeline(guided, base) -> None:
    set_threshold(guided, float("inf"))

    def same(*args: object, **kwargs: object) -> None:
        images = [
            pipe(*args, num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type="np", **kwargs)
            for pipe in (guided, base)
        ]
        assert np.array_equal(images[0].images, images[1].images)

    same("a cat")
    same(["a cat", "a dog"], 16, 16, num_images_per_prompt=2, negative_prompt=["blue", "red"])
    embeds, negative = base.encode_prompt("a cat", "cpu", 1, True)
    same(prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert len(guided.guider.weight) == 1
    assert guided("a cat", num_inference_steps=4, return_dict=False, output_type="pil")[0][0].size == (16, 16)


def test_a_pipeline_that_would_not_erase_refuses(guided) -> None:
    with pytest.raises(ValueError, match="does not support cross_attention_kwargs"):
        draw(guided, PROMPTS, cross_attention_kwargs={"scale": 0.0})

    def stop(pipe, step: int, timestep: int, tensors: dict) -> dict:
        pipe._interrupt = True
        return tensors

    with (
        pytest.raises(ValueError, match="pass empty_prompt"),
        guided.guider.guide(guided.unet, is_guided=True, steps=4),
    ):
        pass
    guided.guider.register_to_config(observe_steps=10)
    with pytest.raises(RuntimeError, match="ended before it was decided"):
        draw(guided, PROMPTS, callback_on_step_end=stop)
    guided.set_adapters("unguide", 0.0)
    with pytest.raises(ValueError, match="removed, fused, rescaled or joined"):
        draw(guided, PROMPTS)
    guided.unload_lora_weights()
    with pytest.raises(ValueError, match="removed, fused, rescaled or joined"):
        draw(guided, PROMPTS)


def test_an_error_leaves_the_adapter_on_and_no_hook(guided) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(guided, PROMPTS, callback_on_step_end=fail)
    assert not guided.unet._forward_hooks
    other = StableDiffusionImg2ImgPipeline.from_pipe(guided)  # shares the UNet
    layers = [module for module in other.unet.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert not any(layer.disable_adapters for layer in layers)
    assert not any(parameter.requires_grad for layer in layers for parameter in layer.lora_A.parameters())


def test_a_value_that_is_no_number_is_not_taken_for_benign(guided) -> None:
    set_threshold(guided, float("nan"))
    draw(guided, PROMPTS, steps=4)
    assert guided.guider.weight.tolist() == [-1.0, -1.0]


def test_a_stranger_needs_to_trust_the_folder_and_sees_the_same_images(saved, guided, tmp_path) -> None:
    shutil.copytree(saved, tmp_path / "erased")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    script = STRANGER.replace("REPOSITORY", repr(str(REPOSITORY)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused: True") == 2
    images = draw(guided, PROMPTS, steps=8, output_type="np")
    assert f"weights: {guided.guider.weight.tolist()}" in done.stdout
    for name in ("first.npy", "second.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), images, atol=1e-5)
    assert (tmp_path / "again" / "pipeline.py").read_bytes() == (saved / "pipeline.py").read_bytes()


def test_saving_it_gives_the_same_bytes_in_every_process(saved, tmp_path) -> None:
    digests: set[str] = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", SAVE_AGAIN, str(saved / "guider"), str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.update(done.stdout.splitlines())
    assert len(digests) == 2  # of two files
    assert (tmp_path / "1" / "0" / LORA).read_bytes() == (saved / "guider" / LORA).read_bytes()


def test_the_record_and_the_card_say_what_is_in_the_folder(saved, tiny_folder) -> None:
    card = artifact.read_card(saved)
    assert (card["method"], card["form"]) == ("unguide", "pipeline")
    assert card["changed_tensors"]
    assert all(name.startswith("guider.unet.") for name in card["changed_tensors"])
    assert {"pipeline.py", "guider/unguidance.py", f"guider/{LORA}", "guider/guider_config.json"} <= card[
        "files"
    ].keys()
    assert set(card["cost"]["by_stage"]) >= {"pool", "training", "threshold"}
    text = (saved / "README.md").read_text()
    assert "trust_remote_code=True" in text
    assert "**not erased**" in text
    shipped = REPOSITORY / "erase" / "pipelines" / "unguide"
    assert (saved / "pipeline.py").read_bytes() == (shipped / "pipeline.py").read_bytes()
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert load_file(saved / unet).keys() == load_file(tiny_folder / unet).keys()
    for path in saved.rglob("*"):
        if path.is_file() and path.name != "erasure.json":
            assert str(tiny_folder).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["pipeline.py", "guider/unguidance.py", f"guider/{LORA}", "guider/guider_config.json"])
def test_a_damaged_folder_is_refused(saved, tmp_path, name: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"{name} is not the file that was saved"):
        erase.load_erased(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        erase.load_erased(folder)


def test_other_forms_and_families_are_refused_before_anything_is_loaded(saved, tmp_path, tiny_folder) -> None:
    with pytest.raises(ValueError, match="has no form 'delta'"):
        artifact.export(saved, tmp_path / "delta", "delta")
    with pytest.raises(ValueError, match="choose save=pipeline"):
        read_config(settings={"method": "unguide", "save": "delta", "concept": {"target": ["Cats"]}})
    with pytest.raises(ValueError, match="needs custom code"):
        base_model.load(str(saved), device="cpu", dtype=torch.float32)
    index = json.loads((tiny_folder / "model_index.json").read_text())
    folder = shutil.copytree(tiny_folder, tmp_path / "xl")
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    settings = {"method": "unguide", "base_model": str(folder), "concept": {"target": ["Cats"]}, "retain": ["a"]}
    with pytest.raises(ValueError, match="is a model of the family sdxl"):
        run_experiment(read_config(settings=settings), quiet=True)


def test_an_evaluation_opens_it_and_tells_it_from_its_base(saved, base) -> None:
    pipe = open_erased(describe(saved, concept=None, base=None), device="cpu", dtype=torch.float32)
    mark, plain = fingerprint(pipe), fingerprint(base)
    assert not mark.same_weights(plain)
    assert footprint(mark, plain).tensors == len(artifact.read_card(saved)["changed_tensors"])
    set_threshold(pipe, 1e9)
    assert fingerprint(pipe).model != mark.model


@pytest.mark.parametrize("steps", [2, 4, 20, 50, 100])
def test_the_same_share_of_any_number_of_steps_decides(guided, steps: int) -> None:
    assert guided.guider.observation(steps, rows=2, extra=2).steps == max(1, round(0.06 * steps))
    guided.guider.register_to_config(observe_steps=12)
    assert guided.guider.observation(steps, rows=2, extra=2).steps == max(
        1, steps // 4 if steps < 50 else steps * 12 // 50
    )


def test_an_artefact_can_be_loaded_in_half_precision(saved) -> None:
    pipe = erase.load_erased(saved, dtype=torch.bfloat16)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.bfloat16}
    assert draw(pipe, PROMPTS, steps=4).isfinite().all()
