"""The two baselines that touch no weight: what they do to a prompt, and that nothing loads their folders without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

import erase
from erase.artifact import folder as artifact
from erase.config import read_config
from erase.experiment import run_experiment
from erase.model import base_model
from erase.pipelines.inference_only import BlockListPipeline, NegativePromptPipeline
from eval.models.fingerprint import fingerprint, footprint
from eval.models.subject import describe, open_erased


REPOSITORY = Path(__file__).parents[2]
METHODS = ("negative_prompt", "block_list")
STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("erase", "eval"):
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
sys.path[:] = [place for place in sys.path if place not in ("", REPOSITORY)]
import numpy, torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

def draw(folder, name):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    output = pipe(["a cat", "a dog"], num_inference_steps=2, generator=generator, output_type="np")
    numpy.save(name, output.images)
    print("flags:", output.nsfw_content_detected)
    return pipe

for method in ("negative_prompt", "block_list"):
    for cls in (DiffusionPipeline, StableDiffusionPipeline):
        try:
            cls.from_pretrained(method)
        except ValueError as error:
            print("refused:", "trust_remote_code=True" in str(error))
        else:
            raise SystemExit("it was loaded without trust")
    draw(method, method + ".npy").save_pretrained(method + "-again")
    draw(method + "-again", method + "-again.npy")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with an artefact of each method."""
    out = tmp_path_factory.mktemp("baselines")
    for method in METHODS:
        settings = {
            "method": method,
            "base_model": str(tiny_folder),
            "concept": {"target": ["a cat"], "kind": "object", "synonyms": ["Café"]},
            "device": "cpu",
            "out": str(out / method),
        }
        run_experiment(read_config(settings=settings), quiet=True)
    return out


def load(folder: Path) -> StableDiffusionPipeline:
    pipe = erase.load_erased(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def negative(saved: Path) -> StableDiffusionPipeline:
    return load(saved / "negative_prompt")


@pytest.fixture
def listed(saved: Path) -> StableDiffusionPipeline:
    return load(saved / "block_list")


@pytest.fixture
def base(tiny_folder: Path) -> StableDiffusionPipeline:
    pipe = base_model.load(str(tiny_folder), device="cpu", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt, **kwargs):
    count = 1 if isinstance(prompt, str) else len(prompt or kwargs["prompt_embeds"])
    generators = [torch.Generator().manual_seed(i) for i in range(count * kwargs.get("num_images_per_prompt", 1))]
    return pipe(prompt, **{"generator": generators, "num_inference_steps": 2, "output_type": "np", **kwargs})


@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2"], indirect=True)
@pytest.mark.parametrize(
    ("prompt", "own", "wanted"),
    [
        ("a dog", None, "a cat"),
        ("a dog", "blur", "a cat, blur"),
        (["a dog", "a fish"], None, ["a cat", "a cat"]),
        (["a dog", "a fish"], ["blur", ""], ["a cat, blur", "a cat"]),
    ],
)
def test_the_words_of_the_target_stand_before_the_caller_s_own_negative_prompt(negative, base, prompt, own, wanted):
    found = draw(negative, prompt, negative_prompt=own)
    assert np.array_equal(found.images, draw(base, prompt, negative_prompt=wanted).images)
    assert not np.allclose(found.images, draw(base, prompt, negative_prompt=own).images, atol=1e-4)


def test_a_negative_prompt_works_with_embeddings_of_the_prompt(negative, base):
    embeds, _ = base.encode_prompt(["a dog", "a fish"], "cpu", 1, False)
    found = draw(negative, None, prompt_embeds=embeds).images
    assert np.array_equal(found, draw(base, ["a dog", "a fish"], negative_prompt=["a cat"] * 2).images)


def test_a_negative_prompt_that_would_have_no_effect_is_refused(negative):
    with pytest.raises(ValueError, match="a negative prompt has no effect at 1 or less"):
        draw(negative, "a dog", guidance_scale=1.0)
    embeds, _ = negative.encode_prompt("a dog", "cpu", 1, False)
    with pytest.raises(ValueError, match="pass the text as negative_prompt"):
        draw(negative, "a dog", negative_prompt_embeds=embeds)
    with pytest.raises(ValueError, match="'avoided' is empty"):
        NegativePromptPipeline(**negative.components, requires_safety_checker=False)


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2"], indirect=True)
def test_only_blocked_rows_are_grey_and_flagged_and_the_others_are_the_base_s_bit_for_bit(listed, base, output_type):
    prompts, options = ["a dog", "on A CAT", "a fish"], {"num_images_per_prompt": 2, "output_type": output_type}
    found, plain = draw(listed, prompts, **options), draw(base, prompts, **options)
    images, expected = (np.stack([np.asarray(image) for image in each.images]) for each in (found, plain))
    assert np.array_equal(images[[0, 1, 4, 5]], expected[[0, 1, 4, 5]])
    assert np.all(images[[2, 3]] == (128 if output_type == "pil" else 0.5))
    assert found.nsfw_content_detected == [False, False, True, True, False, False]


def test_the_model_never_sees_a_blocked_prompt(listed):
    seen: list[list[int]] = []
    listed.text_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].tolist()))
    images, flags = draw(listed, "a cat", return_dict=False)
    assert (flags, float(images.min()), float(images.max())) == ([True], 0.5, 0.5)
    assert seen
    empty = listed.tokenizer("", padding="max_length").input_ids
    assert all(row == empty for rows in seen for row in rows)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a cat", "a cat"),
        ("A  Cat, please", "a cat"),
        ("what a_cat!", "a cat"),
        ("\uff21 \uff23\uff21\uff34", "a cat"),  # full width
        ("a c\u200bat", "a cat"),  # zero-width space
        ("a ca\u0301t", "a cat"),  # an accent that is a sign of its own
        ("in a CAFE\u0301", "Café"),
        ("the cafe's door", "Café"),
        ("a category", None),
        ("cat a", None),
        ("a black cat", None),
        ("cafes", None),
        ("", None),
    ],
)
def test_a_name_is_found_as_whole_words_whatever_their_case_accents_and_unicode_form(listed, prompt, name):
    assert listed.find(prompt) == name


def test_what_a_block_list_cannot_read_is_refused(listed, base):
    embeds, _ = base.encode_prompt("a cat", "cpu", 1, False)
    with pytest.raises(ValueError, match="cannot read prompt_embeds"):
        draw(listed, None, prompt_embeds=embeds)
    with pytest.raises(ValueError, match="has no latents"):
        draw(listed, "a cat", output_type="latent")
    assert draw(listed, "a dog", output_type="latent").images.shape == (1, 4, 8, 8)
    parts = {**listed.components, "requires_safety_checker": False}
    for settings, message in [
        ({}, "The block list is empty"),
        ({"names": "cat\n!?"}, "'!\\?' has no letter or digit"),
        ({"names": "cat", "response": "white"}, "choose one of blank, error"),
    ]:
        with pytest.raises(ValueError, match=message):
            BlockListPipeline(**parts, **settings)


def test_the_response_can_be_an_error(listed, base):
    refusing = BlockListPipeline(**base.components, requires_safety_checker=False, names="a cat", response="error")
    refusing.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="The prompt 'A CAT' holds 'a cat', which is blocked"):
        draw(refusing, ["a dog", "A CAT"])
    assert np.array_equal(draw(refusing, "a dog").images, draw(base, "a dog").images)


def test_a_stranger_needs_to_trust_the_folder_and_sees_the_same_images(saved, negative, listed, tmp_path):
    for method in METHODS:
        shutil.copytree(saved / method, tmp_path / method)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    script = STRANGER.replace("REPOSITORY", repr(str(REPOSITORY)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused: True") == 4
    assert done.stdout.count("flags: [True, False]") == 2
    for method, pipe in zip(METHODS, (negative, listed), strict=True):
        images = draw(pipe, ["a cat", "a dog"]).images
        for name in (method, f"{method}-again"):
            np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), images, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_record_and_card_say_that_nothing_is_removed_from_the_weights(saved, tiny_folder, method):
    folder = saved / method
    card, text = artifact.read_card(folder), (folder / "README.md").read_text()
    assert card["changed_tensors"] == []
    assert "nothing removed from the weights" in card["weights"]
    assert (card["cost"]["unet_forwards"], card["cost"]["unet_backwards"]) == (0, 0)
    assert "nothing removed from the weights" in text
    assert "trust_remote_code=True" in text
    assert "**not erased**" in text
    assert "erased from" not in text
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / weights).read_bytes() == (tiny_folder / weights).read_bytes()
    assert "inference_only.py" in card["files"]
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "erasure.json":
            assert str(tiny_folder).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_folder_is_refused_and_there_is_no_delta(saved, tmp_path, method):
    with pytest.raises(ValueError, match="has no form 'delta'"):
        artifact.export(saved / method, tmp_path / "delta", "delta")
    with pytest.raises(ValueError, match="choose save=pipeline"):
        read_config(settings={"method": method, "save": "delta", "concept": {"target": ["Cats"]}})
    with pytest.raises(ValueError, match="needs custom code"):
        base_model.load(str(saved / method), device="cpu", dtype=torch.float32)
    folder = shutil.copytree(saved / method, tmp_path / "copy")
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(json.dumps(json.loads(index) | {"names": "x", "avoided": "x"}))
    with pytest.raises(ValueError, match=r"model_index.json is not the file that was saved"):
        erase.load_erased(folder)
    (folder / "model_index.json").write_text(index)
    (folder / "inference_only.py").unlink()
    with pytest.raises(ValueError, match=r"inference_only.py is missing"):
        erase.load_erased(folder)


@pytest.mark.parametrize("method", METHODS)
def test_an_evaluation_sees_the_base_s_weights_and_tells_the_settings_apart(saved, base, method):
    pipe = open_erased(describe(saved / method, concept=None, base=None), device="cpu", dtype=torch.float32)
    mark, plain = fingerprint(pipe), fingerprint(base)
    assert mark.same_weights(plain)
    assert footprint(mark, plain).tensors == 0
    assert mark.model != plain.model
    pipe.register_to_config(**{"names" if method == "block_list" else "avoided": "a dog"})
    assert fingerprint(pipe).model != mark.model


def test_a_trusted_folder_is_hashed_like_the_package_s_own_class(saved, listed):
    pipe = DiffusionPipeline.from_pretrained(saved / "block_list", trust_remote_code=True)
    assert fingerprint(pipe) == fingerprint(listed)
