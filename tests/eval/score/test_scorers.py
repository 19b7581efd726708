"""Scorers on images whose scores are known."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchmetrics.functional.image.lpips import _LPIPS

from eval.score.scorers import classifier, clip, inception, latents, lpips, validity
from eval.score.scoring import Scorers, score
from eval.suite.rows import Row


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_the_classifier_names_what_it_knows(scorers: Scorers, base_images: Path) -> None:
    known = Image.open(base_images / "images" / "Van_Gogh_Cats_seed1.png")
    judged = scorers.classifier([known, NOISE])
    assert (judged.style[0], judged.object[0]) == ("Van_Gogh", "Cats")
    assert judged.style_scores[0].max() > 0.9
    assert judged.style_scores[1].max() < 0.2
    assert judged.object_scores[1].max() < 0.1


def test_what_a_caller_s_function_prepares_is_not_kept_for_later() -> None:
    def larger(images) -> torch.Tensor:
        return classifier.pixels([image.resize((64, 64)) for image in images])

    assert classifier.load(classifier.Config()).identity is not None
    for prepare in (larger, functools.partial(larger)):
        assert classifier.load(classifier.Config(prepare=prepare)).identity is None


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


def test_drift_is_measured_between_equal_rows(
    base_images: Path, scorers: Scorers, tiny_pipe, clip_folder: Path
) -> None:
    full = dataclasses.replace(
        scorers,
        clip=clip.load(clip.Config(model=f"local-dir:{clip_folder}")),
        latents=latents.load(latents.Config(vae=tiny_pipe.vae, batch_size=2)),
    )
    rows = [Row(prompt_id="Photo_Cats", prompt="A Cats image in Photo style.", seed=seed) for seed in (1, 2, 3)]
    base = score(base_images, rows, full, tau=0.5)
    again = score(base_images, rows, full, tau=0.5, base=base)
    for name in ("drift", "drift_latent", "drift_clip"):
        assert again.table[name].astype(float) == pytest.approx(np.zeros(3), abs=1e-6)
        assert base.table[name].tolist() == [None] * 3
    assert again.table["drift_lpips"].tolist() == [None] * 3
    turned = base._replace(images=base.images[::-1], clip=base.clip[::-1], latents=base.latents[::-1])
    moved = score(base_images, rows, full, tau=0.5, base=turned)
    for name in ("drift", "drift_latent", "drift_clip"):
        one, middle, other = moved.table[name].astype(float)
        assert one == pytest.approx(other, abs=1e-6)
        assert one > middle == pytest.approx(0, abs=1e-6)
    shown = [np.asarray(image, np.float64) for image in base.images]
    expected = np.sqrt(((shown[0] - shown[2]) ** 2).mean()) / 255
    assert moved.table["drift"][0] == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():
        encoded = tiny_pipe.vae.encode(classifier.pixels(base.images)).latent_dist.mean * 0.18215
    assert base.latents == pytest.approx(encoded.numpy(), abs=1e-5)


def test_lpips_equals_torchmetrics(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = torchvision.models.alexnet(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    reference = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    for layer, ours in zip(
        (module for stage in range(1, 6) for module in getattr(reference.net, f"slice{stage}")),
        backbone.features,
        strict=False,
    ):
        layer.load_state_dict(ours.state_dict())
    rng = np.random.default_rng(0)
    first, second = (
        [Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(3)] for _ in range(2)
    )
    scorer = lpips.load(lpips.Config(backbone=tmp_path / "alexnet.pth", batch_size=2))
    with torch.no_grad():
        expected = reference(classifier.pixels(first), classifier.pixels(second)).flatten().numpy()
    assert scorer(first, second) == pytest.approx(expected, rel=1e-4)
    assert expected.min() > 0
    assert scorer(first, first).tolist() == [0, 0, 0]


def test_weights_that_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"AlexNet weights .*none.pth do not exist"):
        lpips.load(lpips.Config(backbone=tmp_path / "none.pth"))
    torch.save({"a": Path("x")}, tmp_path / "code.pth")  # an object, which unpickling would build
    with pytest.raises(ValueError, match="not a file of tensors"):
        lpips.load(lpips.Config(backbone=tmp_path / "code.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        lpips.load(lpips.Config(backbone=tmp_path / "list.pth"))


def test_inception_is_torch_fidelitys_network(tmp_path: Path) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Random(extractor.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep the random weights."""

    torch.save({}, tmp_path / "empty.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Random("random", ["2048"], str(tmp_path / "empty.pth"))
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8))
    scorer = inception.load(inception.Config(weights=tmp_path / "inception.pth", batch_size=1))
    found = scorer([square, square.transpose(Image.Transpose.ROTATE_90)])  # 299 px: no resizing in either code
    with torch.no_grad():
        expected = network(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])[0].numpy()
    assert found.shape == (2, 2048)
    assert found[:1] == pytest.approx(expected.reshape(1, -1), rel=1e-3, abs=1e-5)
    with pytest.raises(FileNotFoundError, match="Inception weights"):
        inception.load(inception.Config(weights=tmp_path / "none.pth"))


def test_inception_without_torch_fidelity_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"needs torch-fidelity, .* pip install 'erase\[fid\]'"):
        inception.load(inception.Config(weights=tmp_path / "none.pth"))
