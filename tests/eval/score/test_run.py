"""The scorers of a suite: which are loaded where and when, which are left out and why, and what a plan says of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, LlavaProcessor

from eval.draw.drawn import Drawn
from eval.score.photographs import list_photographs
from eval.score.run import Scorers, load_scorers, score_all
from eval.score.scorer import Batch, Scorer
from eval.score.scorers import vlm
from eval.score.scorers_of import available_scorers, check, scorer_lines, with_scorers_of
from eval.suite.grid import GridRows
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.rows import Row
from eval.suite.suite import Suite, load_suite


REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Suite]:
    """A suite of prompt files with these scorers."""
    (tmp_path / "prompts.csv").write_text("prompt\na cat\na dog\n")
    file = PromptFile(path=str(tmp_path / "prompts.csv"), source="this test", shows="a cat")
    return lambda **scorers: Suite(name="few", prompts=PromptFiles(files=[file]), scorers=scorers)


@pytest.fixture
def folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A vision-language model as far as it is looked at before images are drawn; its weights are none."""
    processor = LlavaProcessor(
        CLIPImageProcessor(), tiny_pipe.tokenizer, patch_size=8, image_token="a", chat_template="{{ messages }}"
    )
    processor.save_pretrained(tmp_path / "vlm")
    (tmp_path / "vlm" / "config.json").write_text("{}")
    (tmp_path / "vlm" / "model.safetensors").write_bytes(b"")
    return tmp_path / "vlm"


def test_the_vision_language_model_is_loaded_once_images_are_drawn(make: Callable[..., Suite], folder: Path) -> None:
    scorers = load_scorers(make(vlm={"model": str(folder)}), device="meta")
    assert isinstance(scorers.loaded["vlm"], vlm.Vlm)
    assert scorers.networks() == []
    assert scorers.is_complete
    assert scorers.provided["shown"] == ""
    with pytest.raises(ValueError, match="model_type"):  # config.json is empty
        scorers.open()


@pytest.mark.parametrize(
    ("absent", "error", "message"),
    [
        ("config.json", FileNotFoundError, r"no folder of transformers with a config\.json"),
        ("model.safetensors", FileNotFoundError, r"has no weights, neither \*\.safetensors nor \*\.bin: complete it"),
        ("processor_config.json", ValueError, "has no processor that opens"),
        ("chat_template.jinja", ValueError, "has no chat template"),
    ],
)
def test_an_incomplete_vision_language_model_is_refused_at_once(
    make: Callable[..., Suite], folder: Path, absent: str, error: type, message: str
) -> None:
    (folder / absent).unlink()
    with pytest.raises(error, match=message):
        load_scorers(make(vlm={"model": str(folder)}))


def test_clip_is_loaded_where_models_run(make: Callable[..., Suite]) -> None:
    scorers = load_scorers(make(clip={"model": "canvas"}), device="meta")
    parameters = [parameter for network in scorers.networks() for parameter in network.parameters()]
    assert {parameter.device.type for parameter in parameters} == {"meta"}
    assert parameters


def test_scorers_without_weights_say_why(make: Callable[..., Suite]) -> None:
    suite = make(
        nudity={}, clip={"model": ""}, inception={"weights": ""}, vlm={"model": ""}, lpips={"backbone": ""}, latents={}
    )
    absent = dict.fromkeys(("clip", "inception", "vlm", "lpips"), "weights absent")
    absent["nudity"] = "weights absent: pip install 'erase[nudity]'"
    scorers = load_scorers(suite)
    assert scorers.absent == absent
    assert list(scorers.loaded) == ["pixels", "latents"]
    assert not scorers.is_complete
    assert {name: reason for name, reason in scorers.provided.items() if reason} == {
        "detections": absent["nudity"],
        **dict.fromkeys(
            ["clip", "drift_clip", "array:clip", "array:clip_texts", "array:inception", "shown", "drift_lpips"],
            "weights absent",
        ),
    }
    assert {"broken", "drift", "same_as_base", "drift_latent"} < {*scorers.provided}
    assert scorers.cards()["nudity"] == {"not_run": absent["nudity"]}
    (line,) = scorer_lines(suite)
    assert line.startswith("nudity (not run: weights absent: pip install 'erase[nudity]'), clip (not run")
    assert line.endswith(", latents")


def test_every_shipped_suite_has_sound_scorers() -> None:
    for path in sorted((REPOSITORY / "configs/suites").glob("*.yaml")):
        suite = load_suite(path.stem)
        assert list(check(suite)) == list(suite.scorers)


def test_settings_that_mean_nothing(make: Callable[..., Suite]) -> None:
    for scorers, message in [
        ({"clips": {}}, r"The suite 'few' has the scorer 'clips': choose among clip, inception"),
        (
            {"clip": {"name": "x"}},
            r"The scorer clip of the suite 'few' has no setting 'name': it has model, pretrained",
        ),
        ({"latents": {"vae": "x"}}, r"has no setting 'vae': it has none"),
        ({"clip": {"force_quick_gelu": "maybe"}}, r"scorers.clip.force_quick_gelu of the suite 'few'"),
        ({"nudity": {"threshold": 0.1}}, r"threshold 0.1: a score from 0.25"),
        ({"judge_": {}}, r"has the scorer 'judge_'"),
        ({"pixels": {}}, r"has the scorer 'pixels': choose among"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(make(**scorers))
    for name, settings, message in [
        ("judge", {"tau": 2.0}, "tau 2.0: a confidence from 0 to 1"),
        ("timm_pair", {"tau": -1.0}, "tau -1.0: a confidence from 0 to 1"),
        ("timm_pair", {"style": "a.pth"}, "has a style checkpoint but no object checkpoint: give both files or none"),
        ("timm_pair", {"batch_size": 0}, "batch_size 0: at least 1 is needed"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(Suite(name="few", grid=GridRows(), scorers={name: settings}))


def test_the_scorers_of_one_column() -> None:
    suite = load_suite("canvas")
    assert list(with_scorers_of(suite, "judge_style").scorers) == ["judge"]
    with pytest.raises(ValueError, match="has no scorer that gives shown: choose a suite with one"):
        with_scorers_of(suite, "shown")


def test_a_plan_imports_nothing_large() -> None:
    script = (
        "import sys\n"
        "from eval.suite.suite import load_suite\n"
        "import eval.score.table\n"
        "from eval.score.scorers_of import scorer_lines\n"
        "scorer_lines(load_suite('hub')), scorer_lines(load_suite('canvas-holistic'))\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'open_clip') if name in sys.modules])\n"
    )
    assert _python(script, REPOSITORY) == "[]"


class Mean(Scorer):
    """Features that are the mean colour, where ``inception`` stands; counts what it is shown."""

    batch_size = 2

    def __init__(self, weights: str, photographs: Path) -> None:
        self.identity = {"weights_sha256": weights}
        self.photographs = photographs
        self.shown: list[tuple[int, ...]] = []

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Row]) -> Batch:
        self.shown += [image.shape for image in images]
        return Batch(arrays={"inception": np.stack([image.astype(np.float32).mean((0, 1)) for image in images])})


def test_real_images_are_looked_at_once_and_their_folder_is_left_alone(
    draw: Callable[..., Drawn], rows: list[Row], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for place, size in enumerate([(40, 30), (30, 40), (64, 64)]):
        Image.new("RGB", size, (place, 0, 0)).save(photos / f"{place}.png")
    drawn = draw("m", rows, [Image.new("RGB", (16, 12))] * 5)
    networks = [Mean("a", photos), Mean("a", photos), Mean("b", photos)]
    for network in networks:
        arrays = Scorers({"inception": network}).real_arrays(drawn, rows[0], tmp_path / "cache")
        assert list(arrays) == ["inception"]
        assert arrays["inception"][:, 0].tolist() == [0, 1, 2]
    assert [len(network.shown) for network in networks] == [3, 0, 3]
    assert {*networks[0].shown} == {(12, 16, 3)}
    assert len(list(photos.iterdir())) == 3
    assert Scorers().real_arrays(drawn, rows[0], tmp_path / "cache") == {}
    for path in photos.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"holds none \(.jpg, .jpeg, .png, .webp\); name another one"):
        list_photographs(photos)
    with pytest.raises(FileNotFoundError, match=r"The folder of real images .* does not exist"):
        list_photographs(tmp_path / "none")


NEW = '''
"""How green an image is."""

from dataclasses import dataclass

import numpy as np

from eval.score.scorer import Batch, Scorer


COLUMNS = ("green",)
ARRAYS = ("hue",)


@dataclass(frozen=True, kw_only=True)
class Config:
    scale: float = 1.0


class Green(Scorer):
    def __init__(self, scale):
        self.scale = scale
        self.identity = {"scale": scale}

    def score(self, images, rows):
        green = [self.scale * image[:, :, 1].mean() for image in images]
        return Batch({"green": green}, {"hue": np.ones((len(images), 2))})


def missing(config):
    return "the scale is zero" if config.scale == 0 else ""


def load(config, *, suite, device):
    return Green(config.scale)
'''
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from eval.draw.drawn import Drawn
from eval.models.fingerprint import Fingerprint
from eval.score.run import load_scorers, score_all
from eval.score.scorers_of import scorer_lines
from eval.suite.rows import Row
from eval.suite.suite import load_suite
suite = replace(load_suite("canvas"), scorers={"green": {"scale": 2}})
scorers = load_scorers(suite)
drawn = Drawn(label="m", role="base", base="", folder=Path(sys.argv[1]), fingerprint=Fingerprint({}, {}, "m"))
scores = score_all([drawn], {0: [Row(prompt_id="a", prompt="a cat", seed=1)]}, scorers)["m"]
off = replace(suite, scorers={"green": {"scale": 0}})
print(scores.records["green"].tolist(), scores.arrays["hue"].tolist(), scorers.provided["green"] == "",
      load_scorers(off).provided["array:hue"], scorer_lines(off)[0])
"""


def test_a_new_file_is_a_new_scorer(draw: Callable[..., Drawn], tmp_path: Path) -> None:
    for name in ("eval", "erase", "configs", "prompts"):
        shutil.copytree(REPOSITORY / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copy/eval/score/scorers/green.py").write_text(NEW)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image[:, :, 1] = 21
    drawn = draw("m", [Row(prompt_id="a", prompt="a cat", seed=1)], [Image.fromarray(image)])
    said = _python(SCRIPT, tmp_path / "copy", str(drawn.folder))
    assert said == "[42.0] [[1.0, 1.0]] True the scale is zero green (not run: the scale is zero)"
    assert "green" not in available_scorers()


def test_scores_of_a_suite_arrive(draw: Callable[..., Drawn], rows: list[Row]) -> None:
    """The shipped judge and CLIP on what they know nothing of."""
    scorers = load_scorers(load_suite("canvas"))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 48, 48, 3), dtype=np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    drawn = [draw("base", rows, images[:5]), draw("m", rows, images[5:], base="base")]
    scores = score_all(drawn, {0: rows}, scorers)["m"]
    assert scores.arrays.keys() == {"judge", "clip", "clip_texts"}
    assert {len(array) for array in scores.arrays.values()} == {5}
    record = scores.records.rows[0]
    assert list(record)[-12:] == [
        *("broken", "spread", "saturated", "entropy", "drift", "same_as_base"),
        *("judge_style", "judge_object", "style_scores", "object_scores", "clip", "drift_clip"),
    ]
    assert record["wall_s"] == 0.5
    judge = scorers.loaded["judge"].networks()[0]
    with torch.no_grad():
        seen = judge(torch.from_numpy(pixels[5:]).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert scores.records["style_scores"] == pytest.approx(seen.style_logits.softmax(1).numpy(), abs=1e-5)
    assert scorers.cards()["judge"]["n"] == 1200


def _python(script: str, tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
