"""Scorers on images whose scores are known."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eval.rows import Row
from eval.scorers import classifier, clip, validity
from eval.scoring import Scorers, score


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_the_classifier_names_what_it_knows(scorers: Scorers, base_images: Path) -> None:
    known = Image.open(base_images / "images" / "Van_Gogh_Cats_seed1.png")
    judged = scorers.classifier([known, NOISE])
    assert (judged.style[0], judged.object[0]) == ("Van_Gogh", "Cats")
    assert judged.style_scores[0].max() > 0.9
    assert judged.style_scores[1].max() < 0.2
    assert judged.object_scores[1].max() < 0.1


def test_a_judge_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        classifier.load(classifier.Config(judge=torch.nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="no judge 'vit'"):
        classifier.load(classifier.Config(judge="vit"))


def test_broken_images() -> None:
    step = np.zeros((16, 16, 3), np.uint8)
    step[:, 8:] = 255
    dot = np.full((48, 48, 3), 128, np.uint8)
    dot[:6, :6] = 40
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (1, 16, 3))
    pictures = [Image.new("RGB", (16, 16), (90, 20, 30)), *map(Image.fromarray, (step, dot, ramp)), NOISE]
    found = validity.load(validity.Config())(pictures)
    assert found.broken == ["blank", "saturated", "low entropy", "", ""]
    assert found.entropy[0] == 0
    assert found.entropy[3] == pytest.approx(4)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random open_clip model in the folder layout of the canvas' own."""
    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    content = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_clip_score_is_the_cosine(clip_folder: Path) -> None:
    scorer = clip.load(clip.Config(model=f"local-dir:{clip_folder}", batch_size=2))
    pictures = [NOISE, Image.new("RGB", (16, 16), (200, 10, 10)), NOISE]
    prompts = ["a cat", "a dog", "a dog"]
    with torch.no_grad():
        seen = scorer.model.encode_image(torch.stack([scorer.preprocess(picture) for picture in pictures]))
        texts = scorer.model.encode_text(scorer.tokenize(prompts))
    expected = torch.cosine_similarity(seen, texts).numpy()
    assert scorer(pictures, prompts) == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        scorer.model.text_projection.neg_()
    assert scorer(pictures, prompts) == pytest.approx(-expected, abs=1e-5)  # neither clamped nor rescaled
    assert not scorer.model.training


def test_clip_never_falls_back_to_random_weights(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs its weights on this machine"):
        clip.load(clip.Config(model="ViT-B-32"))
    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises((FileNotFoundError, RuntimeError)):
        clip.load(clip.Config(model=f"local-dir:{tmp_path}"))


def test_a_missing_image_is_named(scorers: Scorers, base_images: Path, tmp_path: Path) -> None:
    row = Row(prompt_id="Photo_Cats", prompt="A Cats image in Photo style.", seed=99)
    with pytest.raises(FileNotFoundError, match=r"Photo_Cats_seed99.png of the prompt .* is missing"):
        score(base_images, [row], scorers, tau=0.5)
    (tmp_path / "images").mkdir()
    record = {"key": row.key, "image_path": f"images/{row.key}.png", "image_sha256": "0", "prompt_text": row.prompt}
    (tmp_path / "manifest-0.jsonl").write_text(json.dumps(record) + "\n")
    NOISE.save(tmp_path / "images" / f"{row.key}.png")
    with pytest.raises(ValueError, match="not the one that the manifest describes"):
        score(tmp_path, [row], scorers, tau=0.5)
