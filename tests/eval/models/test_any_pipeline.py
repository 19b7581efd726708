"""Pipelines that are not Stable Diffusion's UNet: drawn, counted, planned, resumed, evaluated and refused as well."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from erase.cli.main import main
from eval.draw import manifest
from eval.draw.generate import generate, process_state
from eval.draw.prompt_plan import describe, make_plan
from eval.draw.prompt_set import Config
from eval.models import clock, text_to_image
from eval.models.layers import layer_changes
from eval.suite.rows import Row
from eval.suite.suite import Sampler


REPOSITORY = Path(__file__).parents[3]
WIDTH = 16
ROWS = [Row(prompt_id=f"p{k % 3}", prompt=f"a cat {'very ' * k}near a house", seed=10 + k) for k in range(7)]


def clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: place for place, token in enumerate(tokens)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """Every printable character of ASCII is a piece."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(33, 127))]
    return T5Tokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], extra_ids=0)


def clip_config() -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5() -> T5EncoderModel:
    small = {"d_model": 2 * WIDTH, "d_ff": WIDTH, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), feed_forward_proj="gated-gelu", **small)).eval()


def vae(*, halvings: int = 1) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=0.0,
    ).eval()


def sd3(seed: int = 0) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=CLIPTextModelWithProjection(clip_config()).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()).eval(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(),
    )


def pixart(seed: int = 0) -> PixArtSigmaPipeline:
    torch.manual_seed(seed)
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=32,
            patch_size=4,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=WIDTH,
            caption_channels=2 * WIDTH,
            use_additional_conditions=False,
        ).eval(),
        scheduler=DDPMScheduler(),  # draws noise in every step
        vae=vae(halvings=3),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


def flux(seed: int = 0, *, guidance_embeds: bool = True, halvings: int = 1) -> FluxPipeline:
    torch.manual_seed(seed)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(halvings=halvings),
        text_encoder=CLIPTextModel(clip_config()).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )


# what each is asked for, and the forwards of one image in samples
CASES = {
    "sd3": (sd3, Sampler(steps=3, guidance_scale=5.0), 6),
    "pixart": (pixart, Sampler(steps=3, guidance_scale=4.5), 6),
    "flux": (flux, Sampler(steps=3, guidance_scale=3.5, height=16, width=16), 3),
}
SMALL = Sampler(steps=1, guidance_scale=None, height=16, width=16)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[DiffusionPipeline, Sampler, int]:
    build, sampler, forwards = CASES[request.param]
    return build(), sampler, forwards


def draw(pipe: DiffusionPipeline, rows: list[Row], out: Path, sampler: Sampler, **changes: object) -> Path:
    return generate(pipe, rows, out, replace(sampler, **changes), progress=False)


def call_of(sampler: Sampler) -> dict:
    """What a user gives the pipeline."""
    asked = {"num_inference_steps": sampler.steps, "guidance_scale": sampler.guidance_scale}
    return asked | ({"height": sampler.height, "width": sampler.width} if sampler.height else {})


def images(folder: Path) -> dict[str, np.ndarray]:
    records = manifest.read(folder)
    return {key: np.asarray(Image.open(folder / each["image_path"]), np.int16) for key, each in records.items()}


def assert_same(one: Path, other: Path) -> None:
    """Equal but for the rounding of a batch: at most one level of 255, as for Stable Diffusion."""
    first, second = images(one), images(other)
    assert first.keys() == second.keys() == {row.key for row in ROWS}
    assert max(np.abs(first[key] - second[key]).max() for key in first) <= 1
    hashes = [{key: each["latent_hash"] for key, each in manifest.read(folder).items()} for folder in (one, other)]
    assert hashes[0] == hashes[1]
    assert None not in hashes[0].values()


def test_batches_and_shares_do_not_matter(case, tmp_path, monkeypatch):
    pipe, sampler, forwards = case
    draw(pipe, ROWS, tmp_path / "one", sampler, batch_size=1)
    draw(pipe, ROWS[::-1], tmp_path / "three", sampler, batch_size=3)
    assert_same(tmp_path / "one", tmp_path / "three")
    monkeypatch.setattr(process_state(), "num_processes", 2)
    for rank in (1, 0):
        monkeypatch.setattr(process_state(), "process_index", rank)
        draw(pipe, ROWS, tmp_path / "shared", sampler, batch_size=3)
    assert_same(tmp_path / "one", tmp_path / "shared")
    assert len({each.tobytes() for each in images(tmp_path / "one").values()}) == len(ROWS)
    records = manifest.read(tmp_path / "three").values()
    assert {each["unet_forwards"] for each in records} == {forwards}
    shown = next(iter(images(tmp_path / "one").values()))
    assert {(each["height"], each["width"]) for each in records} == {shown.shape[:2]}


def test_an_image_is_that_of_a_user(case, tmp_path):
    pipe, sampler, _ = case
    draw(pipe, ROWS, tmp_path, sampler, batch_size=3)
    row = ROWS[4]
    image = pipe(row.prompt, generator=torch.Generator().manual_seed(row.seed), **call_of(sampler)).images[0]
    assert np.abs(np.asarray(image, np.int16) - images(tmp_path)[row.key]).max() <= 1


def test_the_clock_sees_the_transformer(case):
    pipe, sampler, _ = case
    with clock.measure(clock.drawing_modules(pipe)) as measured:
        pipe("a cat", **call_of(sampler))
    assert len(measured._on_cpu) == 2 * (sampler.steps + 2)  # two parts of the VAE


def test_changes_are_found_in_the_transformer_and_in_t5():
    pipe = sd3()
    with torch.no_grad():
        pipe.transformer.context_embedder.weight.mul_(1.5)
        pipe.text_encoder_3.encoder.final_layer_norm.weight.mul_(3)
    changes = layer_changes(pipe, sd3())
    assert {(part, name): change for part, layers in changes.items() for name, change in layers.items() if change} == {
        ("transformer", "context_embedder"): pytest.approx(0.5, rel=0.02),
        ("text_encoder_3", "encoder.final_layer_norm"): pytest.approx(2.0),
    }


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (flux, {"negative_prompt": "blurred"}, "The negative_prompt is 'blurred', but this FluxPipeline has no use"),
        (
            lambda: flux(guidance_embeds=False),
            {"guidance_scale": 3.0},
            "The guidance_scale is 3.0, but this FluxPipeline",
        ),
        (
            lambda: flux(halvings=3),
            {"height": 24, "width": 24},
            "The width is 24, but this FluxPipeline draws images of 16 x 16 pixels",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(build, settings, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw(build(), ROWS[:1], tmp_path, SMALL, **settings)
    assert not list(tmp_path.glob("images/*"))


def test_a_row_cannot_ask_for_what_the_pipeline_cannot_take(tmp_path):
    row = Row(prompt_id="a", prompt="a cat", seed=0, guidance_scale=4.0)
    with pytest.raises(ValueError, match=r"The guidance_scale is 4.0, but this FluxPipeline has no use for one"):
        draw(flux(guidance_embeds=False), [row], tmp_path, SMALL)


def test_a_distilled_pipeline_draws_without_guidance(tmp_path):
    pipe = flux(guidance_embeds=False)
    draw(pipe, ROWS[:2], tmp_path, SMALL)
    draw(pipe, ROWS, tmp_path, SMALL)  # the first two are there
    lines = (tmp_path / "manifest-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["cfg"] for line in lines] == [None] * len(ROWS)


@pytest.mark.parametrize(("embeds", "drawn_with"), [(True, 3.5), (False, None)])
def test_a_command_without_guidance_leaves_it_to_the_pipeline(call, embeds, drawn_with, tmp_path):
    flux(guidance_embeds=embeds).save_pretrained(tmp_path / "flux")
    command = ["generate", "flux", "--prompts", "few.csv", "--out", "o", "--num-inference-steps", "1", "--quiet"]
    command += ["--height", "16", "--width", "16", "--device", "cpu"]
    code, _, err = call(*command)
    assert (code, err) == (0, "")
    assert [each["cfg"] for each in manifest.read(tmp_path / "o").values()] == [drawn_with] * 4
    assert "4, of which 4 are there" in call(*command, "--dry-run")[1]


def test_what_draws_from_more_than_a_text_is_refused():
    with pytest.raises(
        ValueError, match="a StableDiffusionControlNetPipeline, but images are drawn with pipelines that"
    ):
        text_to_image.check_class(StableDiffusionControlNetPipeline)

    class Odd(DiffusionPipeline):
        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(ValueError, match="a Odd, whose call does not take num_inference_steps and generator"):
        text_to_image.check_class(Odd)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases, and beside each a model whose transformer was changed."""
    root = tmp_path_factory.mktemp("models")
    for name, build in (("sd3", sd3), ("pixart", pixart)):
        build().save_pretrained(root / name)
        changed = build()
        with torch.no_grad():
            for parameter in changed.transformer.parameters():
                parameter.mul_(1.5)
        changed.save_pretrained(root / f"{name}-changed")
    return root


@pytest.fixture
def call(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable:
    for name in ("sd3", "sd3-changed", "pixart", "pixart-changed"):
        (tmp_path / name).symlink_to(folders / name)
    (tmp_path / "few.csv").write_text("prompt,evaluation_seed\na cat,5\na red house on a hill,6\na dog,7\na fox,8\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*arguments])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_plan_says_what_it_does_not_know(folders, tmp_path):
    (tmp_path / "few.csv").write_text("prompt\na cat\na dog\n")
    settings = {"model": str(folders / "sd3"), "prompts": str(tmp_path / "few.csv"), "out": tmp_path / "o"}
    plan = make_plan(Config(**settings))
    assert (plan.images, plan.done, plan.forwards, plan.disk_bytes) == (2, 0, None, None)
    text = "\n".join(describe(Config(**settings)))
    assert text.count("not known beforehand for a StableDiffusion3Pipeline") == 3
    assert "UNet" not in text
    assert make_plan(Config(**settings, sampler=SMALL)).disk_bytes > 2 * 16 * 16 * 3


def test_a_killed_generation_goes_on(call, folders, tmp_path):
    command = ["generate", "sd3", "--prompts", "few.csv", "--num-inference-steps", "2", "--device", "cpu", "--quiet"]
    command += ["--batch-size", "1"]
    assert call(*command, "--out", "whole")[0] == 0
    script = (
        "import os, signal, sys\nfrom diffusers import SD3Transformer2DModel as Model\n"
        "from erase.cli.main import main\n"
        "calls, forward = [], Model.forward\n"
        "def count(*args, **kwargs):\n"
        "    calls.append(1)\n"
        f"    return os.kill(os.getpid(), {int(signal.SIGKILL)}) if len(calls) == 6 else forward(*args, **kwargs)\n"
        f"Model.forward = count\nmain({[*command, '--out', 'killed']!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/images").iterdir()}
    assert len(kept) == 2
    code, out, _ = call(*command, "--out", "killed")
    assert (code, out.split(" in ")[0]) == (0, "4 images, 2 of them new,")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole, killed = (
        {each.name: each.read_bytes() for each in Path(name, "images").iterdir()} for name in ("whole", "killed")
    )
    assert killed == whole
    assert {each["cfg"] for each in manifest.read(Path("whole")).values()} == {7.0}  # of SD3's own call


@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_a_suite_of_prompt_files(call, name, tmp_path):
    (tmp_path / "few.yaml").write_text(
        "name: few\nsampler: {steps: 2, guidance_scale: null}\nscorers: {inception: {}}\nresamples: 50\n"
        "prompts: {files: [{path: few.csv, source: this test, columns: [seed], rows: 4}]}\n"
    )
    command = ["eval", f"{name}-changed", "--base-model", name, "--target", "cat", "--suite", "few.yaml"]
    code, out, err = call(*command, "--dry-run")
    assert code == 0, err
    assert "all:            8 images to draw\n" in out
    assert call(*command, "--quiet", "--device", "cpu", "--out", "o")[0] == 3
    code, out, _ = call(*command, "--out", "o", "--dry-run")
    assert "all:            4 images to draw\n" in out  # of the base, whose cache is not looked into
    content = json.loads((tmp_path / "o/report.json").read_text())
    assert content["metrics"]["drift"]["values"][f"{name}-changed"]["value"] > 0
    assert len(list((tmp_path / f"o/{name}-changed/images").iterdir())) == 4


def test_a_grid(call, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "name: grid\nsampler: {steps: 2, guidance_scale: 5.0}\nscorers: {judge: {}}\nresamples: 50\n"
        "grid: {styles: [Van_Gogh, Photo], objects: [Cats, Dogs], seeds: [188], held_out: '', gold: false}\n"
    )
    command = ["eval", "sd3-changed", "--base-model", "sd3", "--target", "Van Gogh", "--suite", "grid.yaml"]
    assert call(*command, "--quiet", "--device", "cpu", "--out", "o")[0] == 0
    content = json.loads((tmp_path / "o/report.json").read_text())
    costs = content["cost"]["models"]
    assert {label: cost["forwards_per_image"] for label, cost in costs.items()} == {"base": 4.0, "sd3-changed": 4.0}
    assert costs["sd3-changed"]["footprint"]["components"] == ["transformer"]
    layers = content["layers"]["sd3-changed"]
    assert any(change for change in layers["transformer"].values())
    assert not any(change for change in layers["text_encoder_3"].values())
    assert content["metrics"]["drift"]["values"]["sd3-changed"]["value"] > 0


@pytest.mark.parametrize("command", ["run", "attack"])
def test_what_needs_stable_diffusion_refuses_it(call, command):
    model = ["--target", "Van Gogh", "--base-model", "sd3", "--quiet"]
    given = {
        "run": ["run", "--method", "uce", "--out", "o", *model],
        "attack": ["attack", "sd3-changed", "--attack", "soft", *model],
    }
    code, _, err = call(*given[command], "--device", "cpu")
    assert code == 2
    assert "only Stable Diffusion 1.x, 2.x and XL text-to-image pipelines are supported" in err
    assert err.count("\n") == 1
