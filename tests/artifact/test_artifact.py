"""What an erasure leaves on disk: opened by strangers, refused when damaged, whole or not there at all."""

import copy
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

import erase
from erase.artifact import folder as artifact
from erase.artifact.output import check_out, check_room
from erase.concept import Concept
from erase.model import base_model
from erase.training.run import Run


REPOSITORY = Path(__file__).parents[2]
KEY = "conv_out.bias"
FOLDER_OF_A_STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("erase", "eval"):
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
sys.path[:] = [place for place in sys.path if place not in ("", REPOSITORY)]
import numpy, torch
from diffusers import DiffusionPipeline

try:
    import erase
except ImportError:
    pass
else:
    raise SystemExit("erase can be imported, so this proves nothing")
pipe = DiffusionPipeline.from_pretrained("erased", dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
image = pipe("a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(1), output_type="np").images
numpy.save("image.npy", image)
try:
    DiffusionPipeline.from_pretrained("delta", dtype=torch.float32)
except OSError as error:
    print("refused:", error)
"""


# dies by a real SIGKILL when a certain file is about to be written; an audit hook changes nothing of what is tested
SAVE_UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from erase.artifact import folder as artifact
from erase.model import base_model
from erase.concept import Concept
from erase.training.run import Run

base, out, victim = sys.argv[1:]
pipe = base_model.load(base, device="cpu", dtype=torch.float32)
with torch.no_grad():
    pipe.unet.conv_in.weight.add_(1.0)

def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith(f"partial-{os.getpid()}/{victim}"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
config, concept = {"method": "esd", "device": "cpu"}, Concept(target="Cats")
identity = base_model.identity(base)
artifact.save(pipe, Path(out), method="esd", config=config, concept=concept, retain=[], base=identity, run=Run())
"""


def image(pipe: DiffusionPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    return pipe("a cat", num_inference_steps=3, generator=generator, output_type="np").images


@cache
def loaded(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    return base_model.load(str(folder), device="cpu", dtype=dtype)


def changed(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """A pipeline whose UNet is not that of the folder any more."""
    pipe = copy.deepcopy(loaded(folder, dtype))
    with torch.no_grad():
        pipe.unet.get_parameter(KEY).add_(0.5)
    return pipe


def save(pipe: DiffusionPipeline, out: Path, base: Path, form: str = "pipeline") -> Path:
    return artifact.save(
        pipe,
        out,
        method="esd",
        config={"method": "esd", "device": "cpu", "params": {"steps": 5}},
        concept=Concept(target=("Cats", "Dogs"), anchor="an animal", kind="object"),
        retain=["a fish"],
        base=base_model.identity(str(base)),
        run=Run(seed=3),
        form=form,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_folder):
    """Both forms of one erasure; tests get copies."""
    folder = tmp_path_factory.mktemp("saved")
    save(changed(tiny_folder), folder / "erased", tiny_folder)
    save(changed(tiny_folder), folder / "delta", tiny_folder, "delta")
    return folder


@pytest.fixture
def erased(tmp_path, saved):
    return shutil.copytree(saved / "erased", tmp_path / "erased")


@pytest.fixture
def delta(tmp_path, saved):
    return shutil.copytree(saved / "delta", tmp_path / "delta")


@pytest.fixture(autouse=True, scope="module")
def _no_bars():
    """Captured bars are written to a file, where a limit on file sizes would hit them instead of what is tested."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    yield
    diffusers.utils.logging.enable_progress_bar()
    transformers.utils.logging.enable_progress_bar()


def test_a_stranger_opens_the_folder_and_sees_the_same_image(tmp_path, tiny_folder, erased, delta):
    script = FOLDER_OF_A_STRANGER.replace("REPOSITORY", repr(str(REPOSITORY)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # the last bit of a sum depends on it
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
    seen = np.load(tmp_path / "image.npy")
    np.testing.assert_allclose(seen, image(changed(tiny_folder)), atol=1e-5)  # processes may sum in another order
    assert np.abs(seen - image(loaded(tiny_folder, torch.float32))).max() > 1e-3


@pytest.mark.parametrize("form", ["pipeline", "delta"])
@pytest.mark.parametrize("tiny_folder", ["sd1", "sd2", "sdxl"], indirect=True)
def test_loading_gives_the_erased_pipeline_back(saved, tiny_folder, form):
    folder = saved / {"pipeline": "erased", "delta": "delta"}[form]
    loaded = erase.load_erased(folder)
    assert np.array_equal(image(loaded), image(changed(tiny_folder)))
    wanted = artifact.named_tensors(changed(tiny_folder))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in artifact.named_tensors(loaded).items())
    assert artifact.read_card(folder)["changed_tensors"] == [f"unet.{KEY}"]
    assert erase.load_erased(folder, dtype=torch.bfloat16).unet.dtype == torch.bfloat16


@pytest.mark.parametrize("tiny_folder", ["sdxl"], indirect=True)
def test_the_second_text_encoder_of_sdxl_is_a_part_of_both_forms(tiny_folder, tmp_path):
    pipe = changed(tiny_folder)
    with torch.no_grad():
        pipe.text_encoder_2.text_projection.weight.add_(0.5)
    wanted = artifact.named_tensors(pipe)
    for form in ("pipeline", "delta"):
        folder = save(pipe, tmp_path / form, tiny_folder, form)
        assert artifact.read_card(folder)["changed_tensors"] == ["text_encoder_2.text_projection.weight", f"unet.{KEY}"]
        found = artifact.named_tensors(erase.load_erased(folder))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_the_record_is_complete(erased, tiny_folder):
    card = artifact.read_card(erased)
    assert card["schema_version"] == 1
    assert (card["method"], card["form"], card["seed"], card["dtype"]) == ("esd", "pipeline", 3, "float32")
    assert card["concept"]["target"] == ["Cats", "Dogs"]
    assert card["config"]["params"] == {"steps": 5}
    assert card["retain"] == {"prompts": 1, "sha256": hashlib.sha256(b'["a fish"]').hexdigest()}
    assert card["base"] == {"id": str(tiny_folder), "revision": None, "hash": base_model.hash_weights(tiny_folder)}
    assert {"erase", "python", "torch", "diffusers", "transformers"} <= card["versions"].keys()
    assert {"seconds", "peak_memory_bytes", "unet_forwards", "unet_backwards", "unet_recomputed"} <= card["cost"].keys()
    assert card["changed_tensors"] == [f"unet.{KEY}"]
    present = {path.relative_to(erased).as_posix() for path in erased.rglob("*") if path.is_file()}
    assert present == {*card["files"], "erasure.json"}
    assert not [path for path in present if path.endswith((".bin", ".pt", ".pkl", ".ckpt"))]


def test_the_model_card_says_how_to_load_and_where_the_limits_are(erased, delta):
    text = (erased / "README.md").read_text()
    assert 'DiffusionPipeline.from_pretrained("erased", dtype=torch.float32)' in text
    assert "Cats, Dogs" in text
    assert "license: other" in text
    assert "## Limits" in text
    assert 'erase.load_erased("delta")' in (delta / "README.md").read_text()


def test_nothing_in_an_artefact_names_a_folder_of_this_machine_beside_the_record(erased, tiny_folder):
    for path in erased.rglob("*"):
        if path.is_file() and path.name != "erasure.json":
            assert str(tiny_folder).encode() not in path.read_bytes(), path


def test_a_delta_holds_only_what_changed_and_nothing_that_opens_un_erased(delta):
    assert {path.name for path in delta.iterdir()} == {"README.md", "delta.safetensors", "erasure.json"}
    assert load_file(delta / "delta.safetensors").keys() == {f"unet.{KEY}"}
    with pytest.raises(ValueError, match="holds only the changes"):
        base_model.load(str(delta), device="cpu", dtype=torch.float32)


def test_a_delta_is_refused_on_another_base(tmp_path, tiny_folder, delta):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    weights = load_file(other / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({**weights, KEY: weights[KEY] + 1}, other / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="are not those it was made from"):
        erase.load_erased(delta, base_model=str(other))


def test_a_delta_finds_a_base_that_has_moved(tmp_path, tiny_folder):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_folder, here)
    delta = save(changed(here), tmp_path / "delta", here, "delta")
    here.rename(there)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        erase.load_erased(delta)
    assert np.array_equal(image(erase.load_erased(delta, base_model=str(there))), image(changed(there)))


def test_export_goes_both_ways_without_losing_a_bit(tmp_path, erased):
    delta = artifact.export(erased, tmp_path / "small", "delta")
    again = artifact.export(delta, tmp_path / "again", "pipeline")
    for path in erased.rglob("*.safetensors"):
        assert path.read_bytes() == (again / path.relative_to(erased)).read_bytes()
    old, new = artifact.read_card(erased), artifact.read_card(again)
    assert {**old, "files": {}} == {**new, "files": {}}
    with pytest.raises(ValueError, match="already has the form 'pipeline'"):
        artifact.export(erased, tmp_path / "third", "pipeline")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_of_the_run_is_what_is_saved_and_loaded(tmp_path, tiny_folder, dtype):
    folder = save(changed(tiny_folder, dtype), tmp_path / "half", tiny_folder)
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        assert file.get_tensor(KEY).dtype == dtype
    assert artifact.read_card(folder)["changed_tensors"] == [f"unet.{KEY}"]
    pipe = erase.load_erased(folder)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {dtype}


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "model_index.json", "vae/config.json"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_artefact_is_refused(erased, name, damage):
    if damage == "missing":
        (erased / name).unlink()
    else:
        data = bytearray((erased / name).read_bytes())
        data[-1] ^= 1
        (erased / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is"):
        erase.load_erased(erased)


def test_files_that_could_be_loaded_in_place_of_the_erased_ones_are_refused(erased, delta, tiny_folder):
    (erased / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="was added after the erasure"):
        erase.load_erased(erased)
    shutil.copyfile(tiny_folder / "model_index.json", delta / "model_index.json")
    with pytest.raises(ValueError, match="was added after the erasure"):
        erase.load_erased(delta)


def test_the_model_card_may_be_edited(erased):
    (erased / "README.md").write_text("my own words")
    (erased / ".gitattributes").write_text("")
    erase.load_erased(erased)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version": 99}'])
def test_a_folder_without_a_usable_record_is_refused(erased, content):
    (erased / "erasure.json").write_text(content)
    with pytest.raises(ValueError, match="is not"):
        erase.load_erased(erased)
    (erased / "erasure.json").unlink()
    with pytest.raises(ValueError, match="is not a complete erasure"):
        erase.load_erased(erased)


def test_a_record_that_lists_nothing_is_refused(erased):
    card = artifact.read_card(erased)
    (erased / "erasure.json").write_text(json.dumps({**card, "files": {}}))
    with pytest.raises(ValueError, match=r"does not list model_index\.json"):
        erase.load_erased(erased)


def test_a_pipeline_that_is_not_erased_is_not_saved(tmp_path, tiny_folder):
    pipe = copy.deepcopy(loaded(tiny_folder, torch.float32))
    with pytest.raises(ValueError, match="nothing is erased"):
        save(pipe, tmp_path / "out", tiny_folder)
    pipe.unet.get_parameter(KEY).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        save(pipe, tmp_path / "out", tiny_folder)
    assert list(tmp_path.iterdir()) == []


def test_the_text_encoder_has_the_hub_s_names_whatever_it_was_in_memory(tmp_path, tiny_folder):
    pipe = changed(tiny_folder)
    fresh = CLIPTextModel(pipe.text_encoder.config)
    fresh.load_state_dict(pipe.text_encoder.state_dict())
    with torch.no_grad():
        fresh.get_input_embeddings().weight[5].add_(1.0)
    pipe.register_modules(text_encoder=fresh.eval())
    folder = save(pipe, tmp_path / "out", tiny_folder)
    names = load_file(folder / "text_encoder" / "model.safetensors").keys()
    assert all(name.startswith("text_model.") for name in names)
    assert "text_encoder.text_model.embeddings.token_embedding.weight" in artifact.read_card(folder)["changed_tensors"]
    assert np.array_equal(image(erase.load_erased(folder)), image(pipe))
    small = artifact.export(folder, tmp_path / "small", "delta")
    assert np.array_equal(image(erase.load_erased(small)), image(pipe))


def test_the_older_tokenizer_files_of_the_base_go_along(tmp_path, tiny_folder):
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    (base / "tokenizer" / "vocab.json").write_text("{}")
    (base / "tokenizer" / "merges.txt").write_text("")
    pipe = changed(tiny_folder)
    folder = save(pipe, tmp_path / "out", base)
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (folder / "tokenizer").iterdir()}


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, tiny_folder, umask):
    before = os.umask(umask)
    try:
        for form in ("pipeline", "delta"):
            folder = save(changed(tiny_folder), tmp_path / form, tiny_folder, form)
            modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
            assert modes == {0o666 & ~umask}
    finally:
        os.umask(before)


def test_a_killed_save_leaves_nothing_that_passes_for_an_artefact(tmp_path, tiny_folder):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, str(tiny_folder), str(out), "erasure.json"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    (partial,) = tmp_path.iterdir()
    assert (partial / "unet" / "diffusion_pytorch_model.safetensors").exists()  # the kill came in the middle
    with pytest.raises(ValueError, match="is not a complete erasure"):
        erase.load_erased(partial)
    save(changed(tiny_folder), out, tiny_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # the next save clears what the dead process left


@pytest.mark.parametrize(("form", "limit"), [("pipeline", 100_000), ("pipeline", 2_000), ("delta", 100_000)])
def test_a_full_disk_leaves_nothing_behind(tmp_path, tiny_folder, form, limit):
    pipe = changed(tiny_folder)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(0.1)
    (tmp_path / "out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a real failure of a real write
    try:
        with pytest.raises(OSError, match="the disk is full"):
            save(pipe, tmp_path / "out", tiny_folder, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_while_saving_leaves_nothing_behind(tmp_path, tiny_folder):
    pipe = changed(tiny_folder)
    state = pipe.vae.register_state_dict_pre_hook(_interrupt)  # called when the VAE is written
    with pytest.raises(KeyboardInterrupt):
        save(pipe, tmp_path / "out", tiny_folder)
    state.remove()
    assert list(tmp_path.iterdir()) == []


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_exists_is_never_touched(tmp_path, tiny_folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="already holds something"):
        save(changed(tiny_folder), tmp_path / "out", tiny_folder)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="not a plain folder"):
        check_out(tmp_path / "out" / "thesis.txt")


def test_an_output_that_cannot_fit_is_refused_before_the_run(tmp_path):
    check_room(tmp_path / "new" / "out", 1)
    with pytest.raises(OSError, match="needs 1e\\+09 GB, but"):
        check_room(tmp_path / "new" / "out", 10**18)


def test_a_pipeline_with_an_adapter_is_refused(tmp_path, tiny_folder):
    from peft import LoraConfig

    pipe = changed(tiny_folder)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    with pytest.raises(ValueError, match="carries adapters"):
        save(pipe, tmp_path / "out", tiny_folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": ["pipeline", "UnGuide"]}, r"needs custom code \(pipeline\.UnGuide\)"),
        ({"_class_name": "MyPipe"}, "names the pipeline 'MyPipe'"),
        ({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}, "component 'unet'"),
    ],
)
def test_a_base_model_is_checked_before_it_is_loaded(tmp_path, index, message):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        base_model.load(str(tmp_path), device="cpu", dtype=torch.float32)


def test_a_damaged_base_model_is_refused_in_our_words(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "base")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="cannot be loaded"):
        base_model.load(str(tmp_path / "base"), device="cpu", dtype=torch.float32)


def test_the_identity_of_a_base_is_its_weights(tmp_path, tiny_folder):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    (copy / "README.md").write_text("text")
    assert base_model.identity(str(copy))["hash"] == base_model.identity(str(tiny_folder))["hash"]


def test_an_unknown_dtype_or_device_is_refused():
    with pytest.raises(ValueError, match="'half' is unknown"):
        base_model.pick_dtype("half")
    with pytest.raises(ValueError, match="'gpu' is unknown"):
        base_model.pick_device("gpu")
