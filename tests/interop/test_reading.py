"""Import: every layout changes exactly what its author changed, and what does not fit is refused with nothing left."""

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

import erase
from erase import interop
from erase.artifact import folder as artifact
from erase.cli.main import main
from erase.concept import Concept
from erase.interop.names import from_kohya, from_ldm


CAT = Concept(target="a cat", kind="object")
EXACT = {
    "esd": ("esd", "unknown"),
    "esd_full": ("esd", "unknown"),
    "esd_modules": ("esd-modules", "esd"),
    "uce": ("esd", "unknown"),
    "ldm": ("ldm", "unknown"),
    "concept_ablation": ("concept-ablation", "unknown"),
    "concept_ablation_embedding": ("concept-ablation", "unknown"),
    "advunlearn": ("advunlearn", "advunlearn"),
    "text_encoder_folder": ("text-encoder", "unknown"),
}
LORAS = {
    "unguide": ("unguide", "unguide-adapter"),
    "unguide_linear": ("unguide", "unguide-adapter"),
    "kohya": ("kohya", "unknown"),
    "peft": ("peft", "unknown"),
}


def read(path: Path, out: Path, base: Path, **options: object) -> Path:
    return interop.read(path, out, base_model=str(base), concept=CAT, **options)


@pytest.mark.parametrize("form", ["pipeline", "delta"])
@pytest.mark.parametrize(
    ("tiny_folder", "project"),
    [
        *(("sd1", project) for project in (*EXACT, *LORAS)),
        *(("sd2", project) for project in ("esd", "ldm", "advunlearn", "kohya", "peft", "unguide_linear")),
        *(("sdxl", project) for project in ("esd", "esd_full", "concept_ablation", "kohya", "peft")),
    ],
    indirect=["tiny_folder"],
)
def test_a_file_changes_what_its_author_changed_and_nothing_else(authors, tmp_path, tiny_folder, project, form):
    path, changed = getattr(authors, project)()
    before = artifact.named_tensors(copy.deepcopy(authors.base))
    out = read(path, tmp_path / "out", tiny_folder, form=form)
    after = artifact.named_tensors(erase.load_erased(out))
    assert after.keys() == before.keys()
    assert changed
    for name, tensor in after.items():
        expected = changed.get(name, before[name])
        # a sum of LoRA products may be taken in another order
        assert torch.allclose(tensor, expected, rtol=0, atol=1e-6 if project in LORAS and name in changed else 0), name
    card = artifact.read_card(out)
    layout, method = {**EXACT, **LORAS}[project]
    assert set(card["changed_tensors"]) == changed.keys()
    assert (card["method"], card["config"]["imported"]["layout"]) == (method, layout)


def test_the_record_says_what_is_known_and_what_is_not(authors, tmp_path, tiny_folder):
    path, _ = authors.unguide()
    out = read(path, tmp_path / "out", tiny_folder)
    card = artifact.read_card(out)
    imported = card["config"]["imported"]
    assert (card["seed"], card["cost"], card["retain"]) == (None, None, None)
    assert card["concept"]["target"] == ["a cat"]
    assert card["base"]["id"] == str(tiny_folder)
    assert imported["file"] == "lora.pth"
    assert len(imported["sha256"]) == 64
    assert imported["settings"]["lora_alpha"] == 4
    assert "without the guidance" in imported["notes"][0]
    assert imported["not_recorded"] == ["seed", "cost", "versions", "retain", "anchor"]
    text = (out / "README.md").read_text()
    assert f"# a cat said to be erased from the folder {tiny_folder.name}\n" in text
    assert "is said to be erased by whoever imported `lora.pth`" in text
    assert "Not known: it was made elsewhere" in text
    assert f'DiffusionPipeline.from_pretrained("{out.name}", dtype=torch.float32)' in text
    assert "trust_remote_code" not in text


def test_the_header_of_a_kohya_lora_is_copied_as_far_as_it_says_how_the_weights_were_made(
    authors, tmp_path, tiny_folder
):
    path, _ = authors.kohya()
    known = {"ss_network_dim": "2", "ss_network_module": "networks.lora", "ss_seed": "42", "prompts": "cat"}
    private = {
        "ss_tag_frequency": json.dumps({"img": {"jane doe": 3}}),
        "ss_dataset_dirs": json.dumps({"/home/jane/holiday": {"img_count": 3}}),
        "ss_output_name": "jane",
        "sshs_model_hash": "0" * 64,
        "modelspec.author": "jane",
    }
    save_file(load_file(path), path, metadata=known | private)
    out = read(path, tmp_path / "out", tiny_folder)
    imported = artifact.read_card(out)["config"]["imported"]
    assert imported["settings"] == known
    assert imported["notes"] == ["not copied: 5 other entries of the file's header"]
    assert "settings" not in imported["not_recorded"]
    for name in ("erasure.json", "README.md"):
        assert "jane" not in (out / name).read_text(encoding="utf-8")
    save_file(load_file(path), path, metadata=private)
    imported = artifact.read_card(read(path, tmp_path / "other", tiny_folder))["config"]["imported"]
    assert (imported["settings"], "settings" in imported["not_recorded"]) == ({}, True)


def test_the_alpha_that_unguide_does_not_save_is_8_and_said_to_be_assumed(authors, tmp_path, tiny_folder):
    path, _ = authors.unguide_linear()
    imported = artifact.read_card(read(path, tmp_path / "out", tiny_folder))["config"]["imported"]
    assert any(note.startswith("assumed: alpha 8") for note in imported["notes"])


def test_the_alpha_of_unguide_is_that_of_its_own_run_and_not_of_the_folder_around_it(authors, tmp_path, tiny_folder):
    path, _ = authors.unguide_linear()
    run = authors.folder / "runs" / "cat"
    run.mkdir(parents=True)
    path = path.rename(run / "lora.pth")
    (run.parent / "train_config.json").write_text(json.dumps({"lora_alpha": 99}))
    imported = artifact.read_card(read(path, tmp_path / "none", tiny_folder))["config"]["imported"]
    assert any(note.startswith("assumed: alpha 8") for note in imported["notes"])
    (run / "train_config.json").write_text(json.dumps({"lora_alpha": 2}))
    imported = artifact.read_card(read(path, tmp_path / "own", tiny_folder))["config"]["imported"]
    assert imported["settings"] == {"lora_alpha": 2}


def test_half_precision_changes_what_was_trained_and_not_what_was_rounded(authors, tmp_path, tiny_folder):
    """A whole UNet in half precision holds a rounded copy of every tensor."""
    unet = authors.unet(lambda name: ".attn2.to_k." in name).to(torch.float16)
    torch.save(unet.state_dict(), authors.folder / "unet.pt")
    out = read(authors.folder / "unet.pt", tmp_path / "out", tiny_folder, method="salun")
    card = artifact.read_card(out)
    assert card["method"] == "salun"
    assert card["changed_tensors"] == sorted(
        f"unet.{name}" for name in unet.state_dict() if name.endswith(".attn2.to_k.weight")
    )


def test_a_half_precision_base_takes_a_file_in_full_precision(authors, tmp_path, tiny_folder):
    path, changed = authors.esd_full()
    out = read(path, tmp_path / "out", tiny_folder, dtype="float16")
    assert set(artifact.read_card(out)["changed_tensors"]) == changed.keys()
    authors.base.unet.save_pretrained(authors.folder / "unet")
    plain = authors.folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match="changes nothing"):
        read(plain, tmp_path / "none", tiny_folder, dtype="float16")


def test_an_alpha_in_peft_files_is_read_from_every_place(authors, tmp_path, tiny_folder):
    path, _ = authors.peft()
    base = artifact.named_tensors(copy.deepcopy(authors.base))

    def change(file: Path, name: str) -> torch.Tensor:
        return artifact.named_tensors(erase.load_erased(read(file, tmp_path / name, tiny_folder)))[KEY] - base[KEY]

    def strengths(file: Path, name: str) -> float:
        return (
            change(file, name) / (layers[f"{KEY_MODULE}.lora_B.weight"] @ layers[f"{KEY_MODULE}.lora_A.weight"])
        ).median()

    KEY_MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    KEY = f"{KEY_MODULE}.weight"
    layers = load_file(path)
    assert strengths(path, "header").item() == pytest.approx(3, rel=1e-3)  # alpha 6 by rank 2
    silent = authors.folder / "silent" / "lora.safetensors"
    silent.parent.mkdir()
    save_file(layers, silent)
    assert strengths(silent, "silent").item() == pytest.approx(1, rel=1e-3)
    wrapped = authors.folder / "wrapped"
    wrapped.mkdir()
    renamed = {f"base_model.model.{name.removeprefix('unet.')}": each for name, each in layers.items()}
    save_file(renamed, wrapped / "adapter_model.safetensors")
    (wrapped / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": True}))
    assert strengths(wrapped, "wrapped").item() == pytest.approx(4 / 2**0.5, rel=1e-3)


@pytest.mark.parametrize("tiny_folder", ["sd2"], indirect=True)
def test_a_whole_checkpoint_of_sd2_is_refused_for_its_text_encoder_and_its_unet_alone_is_read(
    authors, tmp_path, tiny_folder
):
    path, changed = authors.ldm()
    content = torch.load(path, weights_only=True)["state_dict"]
    unet = {name: each for name, each in content.items() if not name.startswith("cond_stage_model.")}
    torch.save(
        {"state_dict": {**unet, "cond_stage_model.model.transformer.resblocks.0.ln_1.bias": torch.ones(2)}}, path
    )
    with pytest.raises(
        ValueError, match=r"OpenCLIP text encoder .* save the tensors under 'model.diffusion_model.' alone"
    ):
        read(path, tmp_path / "out", tiny_folder)
    assert not (tmp_path / "out").exists()
    torch.save({"state_dict": unet}, path)
    card = artifact.read_card(read(path, tmp_path / "out", tiny_folder))
    assert set(card["changed_tensors"]) == changed.keys()


def test_names_of_a_whole_stable_diffusion_unet_and_of_any_part_of_it(to_ldm):
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(32, 64, 128, 128), norm_num_groups=8, attention_head_dim=8)
    pairs = {to_ldm(name, layers=2, blocks=4): name for name in unet.state_dict()}
    assert len(pairs) == 686  # of Stable Diffusion 1.x
    assert "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight" in pairs
    assert from_ldm(pairs, unet.config) == pairs
    for part in ("attn2.to_k", "middle_block.1", "output_blocks.8", "emb_layers", "input_blocks.1."):
        some = {ldm: name for ldm, name in pairs.items() if part in ldm}
        assert some
        assert from_ldm(some, unet.config) == some


def test_of_a_kohya_header_only_the_settings_are_recorded(authors, tmp_path, tiny_folder):
    path, _ = authors.kohya()
    imported = artifact.read_card(read(path, tmp_path / "out", tiny_folder))["config"]["imported"]
    assert imported["settings"] == {"prompts": "cat", "rank": "2", "alpha": "1.0"}


def test_kohya_names_may_count_blocks_as_compvis_does(to_ldm):
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(32, 64, 128, 128), norm_num_groups=8, attention_head_dim=8)
    modules = [name for name, module in unet.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    modules = [name for name in modules if name.startswith(("down_blocks", "mid_block", "up_blocks"))]
    pairs = {
        "lora_unet_" + to_ldm(f"{name}.weight", layers=2, blocks=4).removesuffix(".weight").replace(".", "_"): name
        for name in modules
    }
    found = from_kohya(pairs, [f"unet.{name}" for name in modules], unet.config)
    assert found == {kohya: f"unet.{name}" for kohya, name in pairs.items()}


def _foreign_key(authors) -> Path:
    path, _ = authors.uce()
    save_file({**load_file(path), "down_blocks.9.attn2.to_k.weight": torch.zeros(2, 2)}, path)
    return path


def _other_shape(authors) -> Path:
    path, _ = authors.uce()
    save_file({name: each[:, :8].contiguous() for name, each in load_file(path).items()}, path)
    return path


def _unchanged(authors) -> Path:
    torch.save(authors.base.unet.state_dict(), authors.folder / "unet.pt")
    return authors.folder / "unet.pt"


def _rounded(authors) -> Path:
    """The base's own weights in half precision."""
    torch.save(authors.base.unet.to(torch.bfloat16).state_dict(), authors.folder / "unet.pt")
    return authors.folder / "unet.pt"


def _unknown(authors) -> Path:
    torch.save({"params.0": torch.zeros(2)}, authors.folder / "sae.pt")
    return authors.folder / "sae.pt"


def _code(authors) -> Path:
    (authors.folder / "model.pt").write_bytes(pickle.dumps({"conv_in.weight": Path("anything")}))
    return authors.folder / "model.pt"


def _module(authors) -> Path:
    torch.save(authors.base.unet, authors.folder / "model.pt")
    return authors.folder / "model.pt"


def _text(authors) -> Path:
    (authors.folder / "x.safetensors").write_text("no tensors")
    return authors.folder / "x.safetensors"


def _optimizer(authors) -> Path:
    torch.save({"conv_in.weight": 3}, authors.folder / "x.pt")
    return authors.folder / "x.pt"


def _ldm_key(authors) -> Path:
    path, _ = authors.ldm()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.diffusion_model.input_blocks.77.0.in_layers.2.weight"] = torch.zeros(1)
    torch.save(content, path)
    return path


def _ldm_part(authors) -> Path:
    path, _ = authors.ldm()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["control_model.input_hint_block.0.weight"] = torch.zeros(1)
    torch.save(content, path)
    return path


def _half_a_lora(authors) -> Path:
    path, _ = authors.kohya()
    save_file({name: each for name, each in load_file(path).items() if "up" not in name or "te_" in name}, path)
    return path


def _dora(authors) -> Path:
    path, _ = authors.peft()
    save_file({**load_file(path), "unet.conv_in.lora_magnitude_vector": torch.zeros(2)}, path)
    return path


def _foreign_lora(authors) -> Path:
    path, _ = authors.unguide_linear()
    torch.save(
        {"input_blocks.99.1.proj.lora.A": torch.zeros(2, 1), "input_blocks.99.1.proj.lora.B": torch.ones(1, 2)}, path
    )
    return path


def _wide_lora(authors) -> Path:
    path, _ = authors.kohya()
    save_file({name: torch.ones(3, 3) if "lora_down" in name else each for name, each in load_file(path).items()}, path)
    return path


def _many_alphas(authors) -> Path:
    path, _ = authors.kohya()
    save_file({name: torch.ones(3) if "alpha" in name else each for name, each in load_file(path).items()}, path)
    return path


def _zero_lora(authors) -> Path:
    path, _ = authors.unguide_linear()
    state = torch.load(path, weights_only=True)
    torch.save({name: each * (0 if name.endswith("B") else 1) for name, each in state.items()}, path)
    return path


def _other_activation(authors) -> Path:
    path, _ = authors.text_encoder_folder()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    return path


def _broken_settings(authors) -> Path:
    path, _ = authors.unguide()
    (path / "train_config.json").write_text("{")
    return path


def _two_files(authors) -> Path:
    authors.concept_ablation()
    authors.unguide_linear()
    return authors.folder


def _infinite(authors) -> Path:
    path, _ = authors.uce()
    save_file({name: each / 0 for name, each in load_file(path).items()}, path)
    return path


def _whole_pipeline(authors) -> Path:
    authors.base.save_pretrained(authors.folder)
    return authors.folder


def _shard(authors) -> Path:
    path, _ = authors.uce()
    return path.rename(authors.folder / "diffusion_pytorch_model-00001-of-00002.safetensors")


def _part_of_a_text_encoder(authors) -> Path:
    path, _ = authors.advunlearn()
    state = torch.load(path, weights_only=True)
    torch.save({name: each for name, each in state.items() if "final_layer_norm" not in name}, path)
    return path


def _integers(authors) -> Path:
    path, _ = authors.uce()
    save_file({name: (100 * each).to(torch.int8) for name, each in load_file(path).items()}, path)
    return path


def _sparse(authors) -> Path:
    path, _ = authors.uce()
    torch.save({name: each.to_sparse() for name, each in load_file(path).items()}, authors.folder / "unet.pt")
    return authors.folder / "unet.pt"


def _integer_lora(authors) -> Path:
    path, _ = authors.kohya()
    save_file({name: each.to(torch.int8) if "up" in name else each for name, each in load_file(path).items()}, path)
    return path


def _one_module_twice(authors) -> Path:
    path, _ = authors.kohya()
    layers = load_file(path)
    name = "lora_unet_down_blocks_1_attentions_0_proj_in"
    again = {
        each.replace(name, "lora_unet_input_blocks_3_1_proj_in"): layers[each].clone()
        for each in layers
        if name in each
    }
    save_file({**layers, **again}, path)
    return path


def _rank_zero(authors) -> Path:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    layers = {f"{name}.lora_down.weight": torch.ones(0, 16), f"{name}.lora_up.weight": torch.ones(16, 0)}
    save_file(layers, authors.folder / "x.safetensors")
    return authors.folder / "x.safetensors"


def _peft_with(authors, settings: dict) -> Path:
    path, _ = authors.peft()
    layers = {f"base_model.model.{name.removeprefix('unet.')}": each for name, each in load_file(path).items()}
    path.unlink()
    save_file(layers, authors.folder / "adapter_model.safetensors")
    (authors.folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, **settings}))
    return authors.folder


def _no_pattern(authors) -> Path:
    return _peft_with(authors, {"alpha_pattern": {"(": 3}})


def _list_of_patterns(authors) -> Path:
    return _peft_with(authors, {"alpha_pattern": ["attn1"]})


def _pissa(authors) -> Path:
    return _peft_with(authors, {"init_lora_weights": "pissa_niter_4"})


def _numbers_for_names(authors) -> Path:
    torch.save({"state_dict": {0: torch.zeros(1)}}, authors.folder / "x.pt")
    return authors.folder / "x.pt"


def _flipped_digit(authors) -> Path:
    """A damaged file for which torch has no message: the list at its end names a storage that is not in it."""
    path = authors.folder / "x.pt"
    torch.save({"conv_in.bias": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    number = re.findall(rb"[0-9]{8,}", data)[-1]
    before, _, after = data.rpartition(number)
    path.write_bytes(before + number[::-1] + after)
    return path


REFUSED = {
    _shard: "is one of several files",
    _part_of_a_text_encoder: "holds a text encoder without 'text_encoder.text_model.final_layer_norm",
    _integers: "as a tensor of torch.int8",
    _sparse: "neither quantised nor sparse",
    _integer_lora: "neither quantised nor sparse",
    _one_module_twice: "'unet.down_blocks.1.attentions.0.proj_in.weight' twice under different names",
    _rank_zero: "no pair of matrices",
    _no_pattern: "damaged alpha_pattern",
    _list_of_patterns: "damaged alpha_pattern",
    _pissa: "began as 'pissa_niter_4', which moves the base",
    _numbers_for_names: "unknown layout",
    _flipped_digit: "not an intact torch file",
    _foreign_key: "down_blocks.9.attn2.to_k.weight', which the base model does not have",
    _other_shape: r"with the shape \(16, 8\), but the base model's has \(16, 16\)",
    _unchanged: "changes nothing",
    _rounded: "changes nothing",
    _unknown: "unknown layout, with names such as 'params.0'",
    _code: "more than tensors",
    _module: "more than tensors",
    _text: "not an intact safetensors file",
    _optimizer: "as a int, but a tensor",
    _ldm_key: "input_blocks.77.0.in_layers.2.weight', which the base model does not have",
    _ldm_part: "control_model.input_hint_block.0.weight', which the base model does not have",
    _half_a_lora: "has no lora_up.weight of",
    _dora: "has no A of 'unet.conv_in.lora_magnitude_vector'",
    _foreign_lora: "LoRA of 'unet.input_blocks.99.1.proj.weight', which the base model does not have",
    _wide_lora: "which do not fit the base model's",
    _many_alphas: "whose alpha is no number",
    _zero_lora: "changes nothing",
    _other_activation: "text encoder with hidden_act 'gelu'",
    _broken_settings: "train_config.json is not JSON",
    _two_files: "holds lora.pth and delta.bin",
    _infinite: "not finite",
    _whole_pipeline: "is a whole pipeline",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__.strip("_"))
def test_what_does_not_fit_is_refused_and_nothing_is_written(authors, tmp_path, tiny_folder, make):
    path = make(authors)
    with pytest.raises(ValueError, match=REFUSED[make]) as caught:
        read(path, tmp_path / "made" / "out", tiny_folder)
    assert "\n" not in str(caught.value).strip()
    made = tmp_path / "made"
    assert not made.exists() or not list(made.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "safetensors"}, "The format 'safetensors' is unknown: choose one of"),
        ({"layout": "ldm"}, "has not the format 'ldm' but 'esd'"),
        ({"dtype": "float8"}, "The dtype 'float8' is unknown"),
        ({"form": "onnx"}, "The form 'onnx' is unknown"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_refused(authors, tmp_path, tiny_folder, options, message):
    path, _ = authors.uce()
    with pytest.raises(ValueError, match=message):
        read(path, tmp_path / "out", tiny_folder, **options)
    assert not (tmp_path / "out").exists()


def test_a_method_that_contradicts_the_format_is_refused(authors, tmp_path, tiny_folder):
    path, _ = authors.advunlearn()
    with pytest.raises(ValueError, match="written by the method 'advunlearn' only, not by 'esd'"):
        read(path, tmp_path / "out", tiny_folder, method="esd")


def test_a_base_of_another_family_is_refused(authors, tmp_path, tiny_pipe_xl, tiny_pipe_v):
    tiny_pipe_xl.save_pretrained(tmp_path / "xl")
    path, _ = authors.unguide()
    with pytest.raises(ValueError, match=r"'unguide' exists for sd1, sd2, but .* of the family sdxl"):
        read(path, tmp_path / "out", tmp_path / "xl")
    path, _ = authors.uce()
    with pytest.raises(ValueError, match="the base model's has"):
        read(path, tmp_path / "out", tmp_path / "xl")
    tiny_pipe_v.save_pretrained(tmp_path / "v")  # linear projections where SD 1.x has convolutions
    path, _ = authors.ldm()
    with pytest.raises(ValueError, match=r"proj_in.weight' with the shape"):
        read(path, tmp_path / "out", tmp_path / "v")
    assert not (tmp_path / "out").exists()


def test_an_erasure_is_not_imported_again_and_an_output_not_overwritten(authors, tmp_path, tiny_folder):
    path, _ = authors.uce()
    out = read(path, tmp_path / "out", tiny_folder)
    with pytest.raises(ValueError, match="is already an erasure"):
        read(out, tmp_path / "again", tiny_folder)
    with pytest.raises(ValueError, match="already holds something"):
        read(path, out, tiny_folder)


def test_the_command_line_imports_and_refuses_in_one_sentence(authors, tmp_path, tiny_folder, capsys):
    path, _ = authors.concept_ablation()
    given = ["--base-model", str(tiny_folder), "--target", "a cat", "--anchor", "an animal", "--kind", "object"]
    with pytest.raises(SystemExit) as exit_:
        main(["import", str(path), *given, "--method", "doco", "--save", "delta", "--out", str(tmp_path / "out")])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"Saved: {tmp_path / 'out'}\n"
    card = artifact.read_card(tmp_path / "out")
    assert (card["method"], card["form"], card["concept"]["anchor"]) == ("doco", "delta", "an animal")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SystemExit) as exit_:
        main(["import", str(path.with_name("none.bin")), *given, "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "none.bin does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
