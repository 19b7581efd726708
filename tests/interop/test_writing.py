"""Export: what is written is read by the other projects' own loading code, and by our import."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import erase
from erase import interop
from erase.artifact import folder as artifact
from erase.cli.main import main
from erase.concept import Concept
from erase.config import read_config
from erase.experiment import run_experiment
from erase.model import base_model
from erase.training.run import Run, hash_tensors


CAT = Concept(target="a cat", kind="object")


def save(pipe: StableDiffusionPipeline, out: Path, base: Path, form: str = "pipeline") -> Path:
    settings = {
        "method": "esd",
        "config": {"method": "esd", "device": "cpu"},
        "concept": CAT,
        "retain": [],
        "run": Run(),
        "form": form,
    }
    return artifact.save(pipe, out, base=base_model.identity(str(base)), **settings)


def tensors(folder: Path) -> str:
    return hash_tensors(artifact.named_tensors(erase.load_erased(folder)))


@pytest.fixture
def of_unet(base, authors, tmp_path, tiny_folder) -> Path:
    pipe = copy.deepcopy(base)
    pipe.register_modules(unet=authors.unet(lambda name: ".attn2.to_k" in name or "proj_in.bias" in name))
    return save(pipe, tmp_path / "unet", tiny_folder)


@pytest.fixture
def of_text_encoder(base, authors, tmp_path, tiny_folder) -> Path:
    pipe = copy.deepcopy(base)
    pipe.register_modules(text_encoder=authors.text_encoder())
    return save(pipe, tmp_path / "encoder", tiny_folder, "delta")


@pytest.fixture(scope="module")
def guided(tmp_path_factory, tiny_folder) -> Path:
    """An artefact of UnGuide."""
    settings = {
        "method": "unguide",
        "base_model": str(tiny_folder),
        "concept": {"target": ["a cat"], "kind": "object"},
        "retain": ["a cat"],
        "params": {"steps": 3, "num_inference_steps": 4, "lr": 0.05, "calibration_samples": 2, "quantile": 0.01},
        "device": "cpu",
        "out": str(tmp_path_factory.mktemp("guided") / "erased"),
    }
    run_experiment(read_config(settings=settings), quiet=True)
    return Path(settings["out"])


@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2", "sdxl"], indirect=True)
def test_esd_loads_as_its_authors_load_it(of_unet, base, tmp_path):
    path = interop.write(of_unet, tmp_path / "esd.safetensors", "esd")
    saved = load_file(path)
    assert len(saved) == len(artifact.read_card(of_unet)["changed_tensors"])
    unexpected = base.unet.load_state_dict(saved, strict=False).unexpected_keys
    assert unexpected == []
    assert hash_tensors(base.unet.state_dict()) == hash_tensors(erase.load_erased(of_unet).unet.state_dict())
    assert path.stat().st_mode & 0o777 == (tmp_path / "unet" / "erasure.json").stat().st_mode & 0o777
    assert sorted(path.name for path in tmp_path.iterdir()) == ["esd.safetensors", "published", "unet"]


def test_concept_ablation_loads_as_its_authors_load_it(of_unet, of_text_encoder, base, tmp_path):
    st = torch.load(interop.write(of_unet, tmp_path / "delta.bin", "concept-ablation"), weights_only=True)
    assert st.keys() == {"unet"}
    pipe = copy.deepcopy(base)
    for name, params in pipe.unet.named_parameters():
        if name in st["unet"]:
            params.data.copy_(st["unet"][f"{name}"])
    assert hash_tensors(pipe.unet.state_dict()) == hash_tensors(erase.load_erased(of_unet).unet.state_dict())
    st = torch.load(interop.write(of_text_encoder, tmp_path / "text.bin", "concept-ablation"), weights_only=True)
    assert st["unet"] == {}
    assert all(name.startswith("text_model.") for name in st["text_encoder"])
    assert len(st["text_encoder"]) == len(base.text_encoder.state_dict())


def test_advunlearn_loads_as_its_authors_load_it(of_text_encoder, base, tmp_path):
    full_ckpt = torch.load(interop.write(of_text_encoder, tmp_path / "te.pt", "advunlearn"), weights_only=True)
    new_ckpt = {}
    for key in full_ckpt:
        if "text_encoder.text_model" in key:
            new_ckpt[key.replace("text_encoder.", "")] = full_ckpt[key]
    flat = {name.removeprefix("text_model."): each for name, each in new_ckpt.items()}
    base.text_encoder.load_state_dict(flat)
    erased = erase.load_erased(of_text_encoder).text_encoder
    assert hash_tensors(base.text_encoder.state_dict()) == hash_tensors(erased.state_dict())


@pytest.mark.parametrize(
    ("tiny_folder", "fixture", "layout", "name"),
    [
        *((family, "of_unet", "esd", "x.safetensors") for family in ("sd1", "sd2", "sdxl")),
        *((family, "of_unet", "concept-ablation", "delta.bin") for family in ("sd1", "sd2", "sdxl")),
        *((family, "of_text_encoder", "concept-ablation", "delta.bin") for family in ("sd1", "sd2")),
        *((family, "of_text_encoder", "advunlearn", "TextEncoder.pt") for family in ("sd1", "sd2")),
    ],
    indirect=["tiny_folder"],
)
def test_what_was_written_is_read_back_to_the_bit(request, tmp_path, tiny_folder, fixture, layout, name):
    folder = request.getfixturevalue(fixture)
    path = interop.write(folder, tmp_path / "deep" / name, layout)
    again = interop.read(path, tmp_path / "again", base_model=str(tiny_folder), concept=CAT, layout=layout)
    assert tensors(again) == tensors(folder)
    assert artifact.read_card(again)["changed_tensors"] == artifact.read_card(folder)["changed_tensors"]


@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2", "sdxl"], indirect=True)
def test_our_own_two_forms_go_both_ways(of_unet, tmp_path):
    small = interop.write(of_unet, tmp_path / "small", "delta")
    assert tensors(interop.write(small, tmp_path / "whole", "pipeline")) == tensors(of_unet)


def test_the_adapter_of_unguide_loads_in_plain_diffusers_and_comes_back_fused(guided, base, tmp_path, tiny_folder):
    path = interop.write(guided, tmp_path / "lora.safetensors", "peft")
    plain = copy.deepcopy(base)
    plain.load_lora_weights(path)
    adapter = erase.load_erased(guided)
    generator = torch.Generator().manual_seed(1)
    latents, embeds = torch.randn((1, 4, 8, 8), generator=generator), torch.randn((1, 77, 16), generator=generator)
    with torch.no_grad():
        expected = adapter.unet(latents, 10, embeds).sample
        assert torch.allclose(plain.unet(latents, 10, embeds).sample, expected, atol=1e-5)
        fused = erase.load_erased(interop.read(path, tmp_path / "again", base_model=str(tiny_folder), concept=CAT))
        assert torch.allclose(fused.unet(latents, 10, embeds).sample, expected, atol=1e-5)
        assert not torch.allclose(base.unet(latents, 10, embeds).sample, expected, atol=1e-3)


def test_what_a_format_cannot_hold_is_refused_and_nothing_is_left(of_unet, of_text_encoder, guided, tmp_path):
    before = sorted(tmp_path.iterdir())
    for folder, layout, message in (
        (of_text_encoder, "esd", "changes text_encoder.text_model.* which the format 'esd' cannot hold"),
        (of_unet, "advunlearn", "changes unet.* which the format 'advunlearn' cannot hold"),
        (guided, "esd", "changes guider.* which the format 'esd' cannot hold"),
        (guided, "concept-ablation", "which the format 'concept-ablation' cannot hold"),
        (of_unet, "peft", "has no adapter"),
        (of_text_encoder, "peft", "has no adapter"),
        (of_unet, "onnx", "The format 'onnx' is unknown: choose one of pipeline, delta, esd"),
        (tmp_path / "none", "esd", "does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            interop.write(folder, tmp_path / "out", layout)
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_output_is_kept_and_a_damaged_artefact_refused(of_unet, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="exists and is kept"):
        interop.write(of_unet, tmp_path / "mine", "esd")
    assert (tmp_path / "mine").read_text() == "mine"
    weights = of_unet / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is not the file that was saved"):
        interop.write(of_unet, tmp_path / "out", "esd")
    assert not (tmp_path / "out").exists()


def test_a_delta_is_written_from_a_base_that_moved(of_text_encoder, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").symlink_to(tiny_folder)
    arguments = ["export", str(of_text_encoder), "--format", "advunlearn", "--out", "te.pt", "--base-model", "moved"]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert "text_encoder.text_model.final_layer_norm.bias" in torch.load("te.pt", weights_only=True)


@pytest.mark.parametrize("method", ["negative_prompt", "block_list"])
def test_what_changes_no_weight_is_never_exported_as_an_erased_model(tmp_path, tiny_folder, method):
    settings = {
        "method": method,
        "base_model": str(tiny_folder),
        "concept": {"target": ["a cat"], "kind": "object"},
        "device": "cpu",
        "out": str(tmp_path / "erased"),
    }
    run_experiment(read_config(settings=settings), quiet=True)
    for layout in ("esd", "concept-ablation", "advunlearn", "peft"):
        with pytest.raises(ValueError, match="leaves every weight as it is"):
            interop.write(tmp_path / "erased", tmp_path / "out", layout)
    assert [path.name for path in tmp_path.iterdir()] == ["erased"]
