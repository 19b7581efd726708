"""Scorers on images whose scores are known."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torchmetrics.functional.image.lpips import _LPIPS

from eval.draw.drawn import Drawn
from eval.models.fingerprint import fingerprint
from eval.score.classifier import Classifier, to_tensor
from eval.score.run import Scorers, score_all
from eval.score.scorer import Picture, Scorer
from eval.score.scorers import clip, inception, latents, lpips, pixels
from eval.score.weights import read_state
from eval.suite.rows import Row


NOISE, OTHER = (
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)) for seed in (0, 1)
)


def prepared(scorer: Scorer, images: Sequence[Image.Image]) -> list:
    return [scorer.prepare(Picture(image)) for image in images]


class Output(NamedTuple):
    style_logits: torch.Tensor
    object_logits: torch.Tensor
    features: torch.Tensor


class Colours(torch.nn.Module):
    """Red is one style and blue the other; green is an object, and the more of it the surer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4.0))
        self.card = {"n": 12}
        self.eval()

    def forward(self, batch: torch.Tensor) -> Output:
        red, green, blue = self.scale * batch.mean((2, 3)).T
        return Output(torch.stack([red, blue], 1), torch.stack([green, -green], 1), batch.mean((2, 3)))


def test_a_classifier_names_the_best_class_of_each_axis(draw: Callable[..., Drawn], rows: list[Row]) -> None:
    values = [(250, 250, 5), (5, 250, 250), (250, 5, 5), (128, 128, 127), (128, 128, 128)]
    images = [
        Image.fromarray(np.clip(np.asarray(NOISE, int) % 40 - 20 + value, 0, 255).astype(np.uint8)) for value in values
    ]
    judge = Classifier(Colours(), ["Red", "Blue"], ["Grass", "Sky"], tau=0.6)
    scores = score_all([draw("m", rows, images)], {0: rows}, Scorers({"judge": judge}))["m"]
    assert scores.records["judge_style"].tolist()[:3] == ["Red", "Blue", "Red"]
    assert scores.records["judge_object"].tolist()[:3] == ["Grass", "Grass", "Sky"]
    assert scores.records["broken"].tolist()[3:] == ["nothing recognised"] * 2
    with torch.no_grad():
        output = Colours()(to_tensor(images).detach())
    assert scores.records["style_scores"] == pytest.approx(output.style_logits.softmax(1).numpy(), abs=1e-5)
    assert scores.records["object_scores"] == pytest.approx(output.object_logits.sigmoid().numpy(), abs=1e-5)
    assert scores.arrays["judge"] == pytest.approx(output.features.numpy(), abs=1e-6)
    assert Scorers({"judge": judge}).cards() == {"judge": {"n": 12}}
    sure = Classifier(Colours(), ["Red", "Blue"], ["Grass", "Sky"], tau=0.4)
    again = score_all([draw("n", rows, images)], {0: rows}, Scorers({"judge": sure}))["n"]
    assert "nothing recognised" not in again.records["broken"]
    assert judge.identity == sure.identity  # what counts as recognised is decided later


def test_a_classifier_without_weights_is_not_kept_and_one_in_training_is_refused() -> None:
    class Planted(torch.nn.Module):
        pass

    assert Classifier(Planted().eval(), ["a"], ["b"]).identity is None
    assert Classifier(Colours(), ["a"], ["b"]).identity is not None
    with pytest.raises(ValueError, match="training mode; call its eval"):
        Classifier(Colours().train(), ["a"], ["b"])


def test_broken_images() -> None:
    step = np.zeros((16, 16, 3), np.uint8)
    step[:, 8:] = 255
    dot = np.full((48, 48, 3), 128, np.uint8)
    dot[:6, :6] = 40
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (1, 16, 3))
    images = [Image.new("RGB", (16, 16), (90, 20, 30)), *map(Image.fromarray, (step, dot, ramp)), NOISE]
    scorer = pixels.load(pixels.Config())
    columns = scorer.score(prepared(scorer, images), []).columns
    assert columns["broken"] == ["blank", "saturated", "low entropy", "", ""]
    assert columns["entropy"][0] == 0
    assert columns["entropy"][3] == pytest.approx(4)
    for image, spread, saturated, entropy in zip(
        images, columns["spread"], columns["saturated"], columns["entropy"], strict=True
    ):
        grey, values = np.asarray(image.convert("L"), float), np.asarray(image)
        share = np.histogram(grey, bins=32, range=(0, 256))[0] / grey.size
        assert spread == round(grey.std(), 3)
        assert saturated == round(((values <= 2) | (values >= 253)).mean(), 4)
        assert entropy == pytest.approx(-sum(each * np.log2(each) for each in share if each), abs=1e-4)


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


@pytest.mark.parametrize("sign", [1, -1])
def test_clip_score_is_the_cosine(clip_folder: Path, draw: Callable[..., Drawn], rows: list[Row], sign: int) -> None:
    scorer = clip.Clip(clip.Config(model=f"local-dir:{clip_folder}"), device="cpu")
    scorer.batch_size = 2
    images = [NOISE, OTHER, NOISE, OTHER, NOISE]
    prompts: list[int] = []
    scorer.model.ln_final.register_forward_hook(lambda _, inputs, __: prompts.append(len(inputs[0])))
    with torch.no_grad():
        scorer.model.text_projection.mul_(sign)  # neither clamped nor rescaled
        seen = scorer.model.encode_image(torch.stack([scorer.preprocess(image) for image in images]))
        texts = scorer.model.encode_text(scorer.tokenize([row.prompt for row in rows]))
    prompts.clear()
    scores = score_all([draw("m", rows, images)], {0: rows}, Scorers({"clip": scorer}))["m"]
    assert scores.records["clip"] == pytest.approx(torch.cosine_similarity(seen, texts).numpy(), abs=1e-5)
    assert prompts == [2]  # each distinct prompt once
    assert np.linalg.norm(scores.arrays["clip"], axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert (scores.arrays["clip"] * scores.arrays["clip_texts"]).sum(1) == pytest.approx(
        scores.records["clip"], abs=1e-6
    )
    assert not scorer.model.training


def test_clip_never_falls_back_to_random_weights(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs its weights on this machine"):
        clip.Clip(clip.Config(model="ViT-B-32"), device="cpu")
    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises((FileNotFoundError, RuntimeError)):
        clip.Clip(clip.Config(model=f"local-dir:{tmp_path}"), device="cpu")


def test_drift_is_measured_between_equal_rows(
    draw: Callable[..., Drawn], rows: list[Row], tiny_pipe: StableDiffusionPipeline, clip_folder: Path
) -> None:
    mark = fingerprint(tiny_pipe)
    code = mark.components["vae"]
    images = [NOISE, OTHER, NOISE, OTHER, NOISE]
    drawn = [
        draw("base", rows, images, vae=code),
        draw("same", rows, images, base="base", vae=code),
        draw("turned", rows, [*images[1:], images[0]], base="base", vae=code),
    ]
    encoder = latents.Latents()
    encoder.look_at_base(tiny_pipe, mark)
    scorer = clip.Clip(clip.Config(model=f"local-dir:{clip_folder}"), device="cpu")
    scores = score_all(drawn, {0: rows}, Scorers({"clip": scorer, "latents": encoder}))
    shown = [np.asarray(image, float) for image in (NOISE, OTHER)]
    with torch.no_grad():
        encoded = tiny_pipe.vae.encode(to_tensor([NOISE, OTHER])).latent_dist.mean * 0.18215
        seen = scorer.model.encode_image(torch.stack([scorer.preprocess(image) for image in (NOISE, OTHER)]))
    expected = {
        "drift": np.sqrt(((shown[0] - shown[1]) ** 2).mean()) / 255,
        "drift_latent": float((encoded[0] - encoded[1]).square().mean().sqrt()),
        "drift_clip": 1 - float(torch.cosine_similarity(seen[:1], seen[1:])),
    }
    for name, value in expected.items():
        assert scores["base"].records[name].tolist() == [None] * 5
        assert scores["same"].records[name].astype(float) == pytest.approx(np.zeros(5), abs=1e-6)
        assert scores["turned"].records[name].astype(float) == pytest.approx([value] * 4 + [0], abs=2e-6)
    assert scores["same"].records["same_as_base"].tolist() == [True] * 5
    assert scores["turned"].records["same_as_base"].tolist() == [False] * 4 + [True]
    assert scores["base"].records["same_as_base"].tolist() == [None] * 5


def test_latents_are_those_of_the_vae_of_each_base(
    draw: Callable[..., Drawn], rows: list[Row], tiny_pipe: StableDiffusionPipeline
) -> None:
    encoder = latents.Latents()
    marks = []
    for factor in (0.18215, 2 * 0.18215):
        vae = AutoencoderKL.from_config(tiny_pipe.vae.config, scaling_factor=factor).eval()
        vae.load_state_dict({name: tensor * factor for name, tensor in tiny_pipe.vae.state_dict().items()})
        pipe = StableDiffusionPipeline(**tiny_pipe.components | {"vae": vae})
        marks.append(fingerprint(pipe))
        encoder.look_at_base(pipe, marks[-1])
    codes = [mark.components["vae"] for mark in marks]
    assert len(set(codes)) == 2
    drawn = [
        draw(f"{label}{group}", rows, [image] * 5, base=base and f"{base}{group}", group=group, vae=code)
        for group, code in enumerate(codes)
        for label, image, base in (("base", NOISE, ""), ("m", OTHER, "base"))
    ]
    scores = score_all(drawn, {0: rows, 1: rows}, Scorers({"latents": encoder}))
    for group, vae in enumerate(encoder.vaes.values()):
        with torch.no_grad():
            encoded = vae.encode(to_tensor([NOISE, OTHER])).latent_dist.mean * vae.config.scaling_factor
        expected = float((encoded[0] - encoded[1]).square().mean().sqrt())
        assert scores[f"m{group}"].records["drift_latent"] == pytest.approx([expected] * 5, abs=2e-6)


def test_a_base_without_such_a_vae(tiny_pipe: StableDiffusionPipeline) -> None:
    scorers = Scorers({"latents": latents.Latents()})
    tiny_pipe.vae = torch.nn.Identity()
    scorers.look_at_base(tiny_pipe, fingerprint(tiny_pipe))
    assert scorers.provided["drift_latent"] == "the base has no VAE whose latents can be compared"
    assert scorers.provided["drift"] == ""


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
    first, second = rng.integers(0, 256, (2, 3, 48, 48, 3), dtype=np.uint8)
    scorer = lpips.Lpips(tmp_path / "alexnet.pth")
    with torch.no_grad():
        expected = reference(to_tensor(first), to_tensor(second)).flatten().numpy()
    assert scorer.distances(first, second) == pytest.approx(expected, rel=1e-4)
    assert expected.min() > 0
    assert scorer.distances(first, first).tolist() == [0, 0, 0]


def test_weights_that_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"AlexNet weights .*none.pth do not exist"):
        lpips.Lpips(tmp_path / "none.pth")
    torch.save({"a": Path("x")}, tmp_path / "code.pth")  # an object, which unpickling would build
    with pytest.raises(ValueError, match="not a file of tensors"):
        read_state(tmp_path / "code.pth", "AlexNet")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        read_state(tmp_path / "list.pth", "AlexNet")


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
    square = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    scorer = inception.Inception(tmp_path / "inception.pth", device="cpu")
    features = scorer.score([square, np.rot90(square).copy()], []).arrays["inception"]  # 299 px: no code resizes
    with torch.no_grad():
        expected = network(torch.from_numpy(square).permute(2, 0, 1)[None])[0].numpy()
    assert features.shape == (2, 2048)
    assert features[:1] == pytest.approx(expected.reshape(1, -1), rel=1e-3, abs=1e-5)
    assert scorer.card["is_published"] is False
    with pytest.raises(FileNotFoundError, match="Inception weights"):
        inception.Inception(tmp_path / "none.pth", device="cpu")


def test_inception_without_torch_fidelity_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"needs torch-fidelity, .* pip install 'erase\[fid\]'"):
        inception.Inception(tmp_path / "none.pth", device="cpu")
