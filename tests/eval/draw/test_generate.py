"""What a row shows depends on its prompt and seed alone; a stopped generation goes on where it was."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from eval.draw import manifest, writer
from eval.draw.generate import generate, image_settings, process_state
from eval.models.fingerprint import fingerprint, footprint
from eval.suite.rows import Row
from eval.suite.suite import Sampler


ROWS = [Row(prompt_id=f"p{k % 3}", prompt=f"prompt {k % 3}", seed=10 + k) for k in range(7)]
SAMPLER = Sampler(steps=2, guidance_scale=5.0, batch_size=7)
REPOSITORY = Path(__file__).parents[3]


def draw(pipe: StableDiffusionPipeline | Path, rows: list[Row], out: Path, **changes: object) -> Path:
    return generate(pipe, rows, out, replace(SAMPLER, **changes), progress=False)


def images(folder: Path) -> dict[str, np.ndarray]:
    records = manifest.read(folder)
    return {key: np.asarray(Image.open(folder / record["image_path"]), np.int16) for key, record in records.items()}


def images_of(folder: Path) -> list[str]:
    """The names of the images that are files, in the order of the rows."""
    return [row.key for row in ROWS if (folder / "images" / f"{row.key}.png").is_file()]


def assert_same(one: Path, other: Path) -> None:
    first, second = images(one), images(other)
    assert first.keys() == second.keys() == {row.key for row in ROWS}
    assert max(np.abs(first[key] - second[key]).max() for key in first) <= 1
    hashes = [{key: record["latent_hash"] for key, record in manifest.read(folder).items()} for folder in (one, other)]
    assert hashes[0] == hashes[1]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make this process one of several, for accelerate."""

    def change(rank: int, world: int) -> None:
        monkeypatch.setattr(process_state(), "process_index", rank)
        monkeypatch.setattr(process_state(), "num_processes", world)

    return change


@pytest.fixture
def reference(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    draw(tiny_pipe, ROWS, tmp_path / "reference")
    return tmp_path / "reference"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_does_not_matter(
    tiny_pipe: StableDiffusionPipeline, reference: Path, tmp_path: Path, batch_size: int
) -> None:
    draw(tiny_pipe, ROWS, tmp_path / "other", batch_size=batch_size)
    assert_same(reference, tmp_path / "other")


def test_order_does_not_matter(tiny_pipe: StableDiffusionPipeline, reference: Path, tmp_path: Path) -> None:
    draw(tiny_pipe, ROWS[::-1], tmp_path / "other", batch_size=4)
    assert_same(reference, tmp_path / "other")


def test_ranks_do_not_matter(
    tiny_pipe: StableDiffusionPipeline, reference: Path, tmp_path: Path, become: Callable[[int, int], None]
) -> None:
    for rank in (1, 0):
        become(rank, 2)
        path = draw(tiny_pipe, ROWS, tmp_path / "other", batch_size=2)
    assert_same(reference, tmp_path / "other")
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == sorted(row.key for row in ROWS)
    assert len((tmp_path / "other" / "manifest-1.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_two_processes_share_the_rows(tiny_folder: Path, reference: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    rows = [{"prompt_id": row.prompt_id, "prompt": row.prompt, "seed": row.seed} for row in ROWS]
    script.write_text(
        "from pathlib import Path\nfrom eval.draw.generate import generate\nfrom eval.suite.rows import Row\n"
        "from eval.suite.suite import Sampler\n"
        f"generate(Path({str(tiny_folder)!r}), [Row(**row) for row in {rows!r}], Path({str(tmp_path / 'other')!r}), "
        "Sampler(steps=2, guidance_scale=5.0))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, env=environment, timeout=600)
    assert [len((tmp_path / "other" / f"manifest-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)] == [4, 3]
    assert_same(reference, tmp_path / "other")


def test_seeds_matter(reference: Path) -> None:
    drawn = images(reference)
    assert np.abs(drawn["p0_seed10"] - drawn["p0_seed13"]).max() > 1


def test_resumes(tiny_pipe: StableDiffusionPipeline, reference: Path) -> None:
    before = images(reference)
    lines = (reference / "manifest-0.jsonl").read_text().splitlines(keepends=True)
    (reference / "manifest-0.jsonl").write_text("".join(lines[:5]) + lines[5][:40])  # killed in the sixth line
    (reference / "images" / f"{ROWS[0].key}.png").write_bytes(b"cut short")
    (reference / "images" / f"{ROWS[1].key}.png").unlink()
    kept = reference / "images" / f"{ROWS[2].key}.png"
    stamp = kept.stat().st_mtime_ns
    draw(tiny_pipe, ROWS, reference)
    after = images(reference)
    assert all(np.abs(before[key] - after[key]).max() <= 1 for key in before)
    assert kept.stat().st_mtime_ns == stamp
    assert len((reference / "manifest-0.jsonl").read_text().splitlines()) == 5 + 4


def test_changed_prompt_is_generated_again(tiny_pipe: StableDiffusionPipeline, reference: Path) -> None:
    row = Row(prompt_id="p0", prompt="something else", seed=10)
    before = images(reference)[row.key]
    draw(tiny_pipe, [row], reference)
    assert manifest.read(reference)[row.key]["prompt_text"] == "something else"
    assert np.abs(images(reference)[row.key] - before).max() > 1


def test_another_model_is_refused(tiny_pipe: StableDiffusionPipeline, reference: Path) -> None:
    with torch.no_grad():
        tiny_pipe.unet.conv_in.weight.add_(0.1)
    with pytest.raises(ValueError, match=r"holds images made with model_hash .* choose an empty folder"):
        draw(tiny_pipe, ROWS, reference)


def test_other_steps_are_refused(tiny_pipe: StableDiffusionPipeline, reference: Path) -> None:
    with pytest.raises(ValueError, match="steps 2 instead of 3"):
        draw(tiny_pipe, ROWS, reference, steps=3)


def test_double_rows_are_refused(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="p0_seed10 occur twice"):
        draw(tiny_pipe, [ROWS[0], ROWS[0]], tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b"])
def test_a_path_is_no_prompt_id(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        Row(prompt_id=name, prompt="x", seed=0)


def test_each_prompt_is_encoded_once(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    sizes: list[int] = []
    handle = tiny_pipe.text_encoder.register_forward_hook(lambda _, __, output: sizes.append(len(output[0])))
    draw(tiny_pipe, ROWS, tmp_path)
    handle.remove()
    assert sizes == [1, 1, 2]  # the first prompt, the unconditional one, and the other two together


def test_guidance_is_one_batched_forward(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    sizes: list[int] = []
    handle = tiny_pipe.unet.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    draw(tiny_pipe, ROWS, tmp_path)
    handle.remove()
    assert sizes == [14, 14]


def test_equals_the_call_of_a_user(tiny_pipe: StableDiffusionPipeline, reference: Path) -> None:
    row = ROWS[4]
    generator = torch.Generator("cpu").manual_seed(row.seed)
    image = tiny_pipe(row.prompt, num_inference_steps=2, guidance_scale=5.0, generator=generator).images[0]
    assert np.abs(np.asarray(image, np.int16) - images(reference)[row.key]).max() <= 1


@pytest.mark.parametrize(("name", "scale"), [("tiny_pipe", 7.5), ("tiny_pipe_xl", 5.0)])
def test_without_a_guidance_it_is_that_of_the_call(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, scale: float
) -> None:
    pipe = request.getfixturevalue(name)
    draw(pipe, ROWS[:1], tmp_path, guidance_scale=None, negative_prompt="blurred")
    assert json.loads((tmp_path / "settings.json").read_text())["cfg"] == scale
    assert [record["cfg"] for record in manifest.read(tmp_path).values()] == [scale]
    asked = {"num_inference_steps": 2, "negative_prompt": "blurred"}
    image = pipe(ROWS[0].prompt, **asked, generator=torch.Generator("cpu").manual_seed(ROWS[0].seed)).images[0]
    assert np.abs(np.asarray(image, np.int16) - images(tmp_path)[ROWS[0].key]).max() <= 1


def test_the_pipeline_comes_back_as_it_was(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    del tiny_pipe._progress_bar_config
    before = fingerprint(tiny_pipe)
    state = torch.random.get_rng_state()
    draw(tiny_pipe, ROWS[:2], tmp_path)
    assert "_progress_bar_config" not in vars(tiny_pipe)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fingerprint(tiny_pipe) == before


def test_from_a_folder_and_without_guidance(tiny_folder: Path, tmp_path: Path) -> None:
    path = draw(tiny_folder, ROWS[:2], tmp_path, guidance_scale=1.0)
    assert {json.loads(line)["cfg"] for line in path.read_text().splitlines()} == {1.0}


def test_sdxl(tiny_pipe_xl: StableDiffusionPipeline, tmp_path: Path) -> None:
    draw(tiny_pipe_xl, ROWS, tmp_path / "one")
    draw(tiny_pipe_xl, ROWS, tmp_path / "two", batch_size=2)
    assert_same(tmp_path / "one", tmp_path / "two")
    generator = torch.Generator("cpu").manual_seed(ROWS[0].seed)
    image = tiny_pipe_xl(ROWS[0].prompt, num_inference_steps=2, guidance_scale=5.0, generator=generator).images[0]
    assert np.abs(np.asarray(image, np.int16) - images(tmp_path / "one")[ROWS[0].key]).max() <= 1


def test_a_pipeline_of_its_own_sees_the_text(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    seen: list[str] = []

    class Listening(StableDiffusionPipeline):
        def __call__(self, prompt: list[str] | None = None, **settings: object) -> object:
            seen.extend(prompt or [])
            return super().__call__(prompt, **settings)

    pipe = Listening(**tiny_pipe.components, requires_safety_checker=False)
    draw(pipe, ROWS, tmp_path)
    assert seen == [row.prompt for row in ROWS]


@pytest.mark.parametrize(
    ("change", "same"),
    [(lambda pipe: None, True), (lambda pipe: pipe.vae.decoder.conv_out.bias.data.add_(1), False)],
)
def test_fingerprint(tiny_pipe: StableDiffusionPipeline, change: Callable, same: bool) -> None:
    before = fingerprint(tiny_pipe)
    change(tiny_pipe)
    after = fingerprint(tiny_pipe)
    assert after.same_weights(before) is same
    assert (after.model == before.model) is same
    change = footprint(after, before)
    assert (change.tensors, change.parameters, change.components) == ((0, 0, []) if same else (1, 3, ["vae"]))


def test_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest-0.jsonl").write_text('{"key": "a"}\n{"key"\n{"key": "c"}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .*manifest-0.jsonl is not JSON"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_weights_are_hashed_once(tiny_pipe: StableDiffusionPipeline, tmp_path: Path, given: bool) -> None:
    hashed: list[str] = []
    for name in ("unet", "vae", "text_encoder"):
        tiny_pipe.components[name].register_state_dict_post_hook(lambda *_, name=name: hashed.append(name))
    mark = fingerprint(tiny_pipe) if given else None
    generate(tiny_pipe, ROWS[:2], tmp_path, SAMPLER, fingerprint=mark, progress=False)
    if mark:
        assert image_settings(tiny_pipe, SAMPLER, fingerprint=mark) == json.loads(
            (tmp_path / "settings.json").read_text()
        )
    assert sorted(hashed) == ["text_encoder", "unet", "vae"]


def test_the_batch_size_is_no_setting(tiny_pipe: StableDiffusionPipeline) -> None:
    mark = fingerprint(tiny_pipe)
    one, other = (image_settings(tiny_pipe, replace(SAMPLER, batch_size=size), fingerprint=mark) for size in (1, 9))
    assert one == other


def test_records_keep_the_order_of_the_rows(reference: Path) -> None:
    lines = (reference / "manifest-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [row.key for row in ROWS]


def test_the_next_batches_are_drawn_while_images_are_written(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, forwards, all_drawn = writer.append_lines, [], Event()

    def wait(*arguments: object) -> None:
        assert all_drawn.wait(60)
        append(*arguments)

    def note(*_: object) -> None:
        forwards.append(1)
        if len(forwards) == SAMPLER.steps * len(ROWS):
            all_drawn.set()

    monkeypatch.setattr(writer, "append_lines", wait)
    tiny_pipe.unet.register_forward_hook(note)
    draw(tiny_pipe, ROWS, tmp_path, batch_size=1)
    assert len(images(tmp_path)) == len(ROWS)


def test_only_so_many_images_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = writer.append_lines
    monkeypatch.setattr(writer, "append_lines", lambda *arguments: (time.sleep(0.01), append(*arguments)))
    monkeypatch.setattr(writer, "WAITING", 4)
    (tmp_path / "images").mkdir()
    with writer.ImageWriter(tmp_path, tmp_path / "records.jsonl") as images:
        for number in range(20):
            images.add(Image.new("RGB", (8, 8)), {"image_path": f"images/{number}.png"})
            assert number + 1 - len(list((tmp_path / "images").glob("*.png"))) <= 4 + 1
    assert len(list((tmp_path / "images").glob("*.png"))) == 20


def test_an_error_of_a_thread_ends_the_drawing(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    (tmp_path / "images" / f"{ROWS[2].key}.png").mkdir(parents=True)
    with pytest.raises(OSError, match=ROWS[2].key):
        draw(tiny_pipe, ROWS, tmp_path, batch_size=1)
    assert images_of(tmp_path) == [row.key for row in ROWS[:2]]  # and nothing after it
    (tmp_path / "images" / f"{ROWS[2].key}.png").rmdir()
    draw(tiny_pipe, ROWS, tmp_path)
    assert len(images(tmp_path)) == len(ROWS)


def test_what_is_drawn_stays_after_ctrl_c(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = writer.append_lines, []
    monkeypatch.setattr(writer, "append_lines", lambda *arguments: (time.sleep(0.05), append(*arguments)))

    def interrupt(*_: object) -> None:
        calls.append(1)
        if len(calls) == 7:  # the first forward of the fourth image
            raise KeyboardInterrupt

    tiny_pipe.unet.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw(tiny_pipe, ROWS, tmp_path, batch_size=1)
    assert images_of(tmp_path) == [row.key for row in ROWS[:3]]
