"""The judge of two timm classifiers beside what the code of UnlearnCanvas does with such checkpoints."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from eval.draw.drawn import Drawn
from eval.score.run import load_scorers, score_all
from eval.score.scorer import Picture
from eval.score.scorers import timm_pair
from eval.score.timm_classifier import TimmClassifier, TimmNetworks
from eval.suite.grid import GridRows
from eval.suite.rows import Row
from eval.suite.suite import Suite
from eval.suite.world import load_world


WORLD = load_world("unlearncanvas")
ARCHITECTURE = "test_vit"  # 160 px, 0.4 M parameters


def as_the_authors_do(path: Path | Image.Image, side: int = 160) -> torch.Tensor:
    """The preprocessing of the benchmark's ``accuracy.py``, by the library that it uses."""
    image = path if isinstance(path, Image.Image) else Image.open(path)
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    return transforms.Compose(steps)(image.convert("RGB"))[None]


def blank_model(classes: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        return timm.create_model(ARCHITECTURE, num_classes=classes).eval()


def save(model: torch.nn.Module, path: Path) -> str:
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, path)
    return str(path)


def some_image(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: blank_model(len(WORLD.labels(kind))) for kind in ("style", "object")}


@pytest.fixture(scope="module")
def files(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("judge")
    return {kind: save(model, place / f"{kind}.pth") for kind, model in models.items()}


@pytest.fixture(scope="module")
def config(files: dict[str, str]) -> timm_pair.Config:
    return timm_pair.Config(**files, architecture=ARCHITECTURE)


def load(config: timm_pair.Config, *, compat: bool = False) -> TimmClassifier:
    return TimmClassifier(TimmNetworks(config, WORLD, device="cpu"), WORLD, config, compat=compat)


def ask(judge: TimmClassifier, images: list[Image.Image]) -> dict[str, np.ndarray]:
    return judge.score([judge.prepare(Picture(image)) for image in images], []).arrays


def test_the_pair_sees_what_the_benchmarks_code_sees(models: dict[str, Any], config: timm_pair.Config) -> None:
    """Sizes that are not square and not equal, against timm and torchvision as the benchmark calls them."""
    images = [some_image(0, 80, 48), some_image(1, 200, 300)]
    arrays = ask(load(config), images)
    for kind, model in models.items():
        with torch.no_grad():
            expected = torch.cat([model(as_the_authors_do(image)) for image in images]).softmax(1)
        assert arrays[f"{kind}_scores"] == pytest.approx(expected.numpy(), abs=1e-5)
    assert arrays["judge"].shape == (2, 2 * 64)


def test_compat_sees_the_jpeg(config: timm_pair.Config, tmp_path: Path) -> None:
    image = some_image(1)
    image.save(tmp_path / "as_saved.jpg")
    right, compat = load(config), load(config, compat=True)
    for judge, path in ((right, image), (compat, tmp_path / "as_saved.jpg")):
        pixels = torch.from_numpy(judge.prepare(Picture(image)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        assert torch.allclose(pixels, as_the_authors_do(path), atol=1e-6)
    assert right.card["preprocessing"] == "PIL bilinear to 160 x 160 without crop, mean 0.5, std 0.5"
    assert compat.card["preprocessing"].startswith("JPEG of quality 75, PIL bilinear")
    assert right.identity != compat.identity


def test_an_order_file_puts_the_classes_in_their_places(
    models: dict[str, Any], config: timm_pair.Config, tmp_path: Path
) -> None:
    order = {kind: list(WORLD.labels(kind)) for kind in ("style", "object")}
    turned = {kind: [*labels[7:], *labels[:7]] for kind, labels in order.items()}
    paths = {}
    for kind, labels in turned.items():
        model = blank_model(len(labels))
        places = [order[kind].index(label) for label in labels]
        with torch.no_grad():
            model.head.weight.copy_(models[kind].head.weight[places])
            model.head.bias.copy_(models[kind].head.bias[places])
        paths[kind] = save(model, tmp_path / f"{kind}.pth")
    (tmp_path / "order.json").write_text(json.dumps(turned))
    moved = replace(config, **paths, labels=str(tmp_path / "order.json"))
    one, other = (ask(load(each), [some_image(0)]) for each in (config, moved))
    for name in ("style_scores", "object_scores"):
        assert one[name] == pytest.approx(other[name], abs=1e-6)
    for change, match in (
        ({"style": turned["style"][1:]}, r"has 50 styles, so some are missing; the world unlearncanvas has 51"),
        ({"object": ["Cat", *turned["object"][1:]]}, r"has 20 objects, and 'Cat' is unknown or twice"),
        ({"object": 3}, "must hold"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(turned | change))
        with pytest.raises(ValueError, match=match):
            load(replace(moved, labels=str(tmp_path / "wrong.json")))
    (tmp_path / "wrong.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        load(replace(moved, labels=str(tmp_path / "wrong.json")))


def test_another_order_in_the_same_file_is_another_judge(config: timm_pair.Config, tmp_path: Path) -> None:
    order = {kind: list(WORLD.labels(kind)) for kind in ("style", "object")}
    identities = []
    for turned in (order, {kind: labels[::-1] for kind, labels in order.items()}):
        (tmp_path / "order.json").write_text(json.dumps(turned))
        identities.append(load(replace(config, labels=str(tmp_path / "order.json"))).identity)
    assert identities[0] != identities[1]
    assert load(config).identity == load(config).identity


def test_wrong_checkpoints_are_one_sentence(files: dict[str, str], config: timm_pair.Config, tmp_path: Path) -> None:
    def try_to_load(**fields: str) -> None:
        load(replace(config, **fields))

    with pytest.raises(
        ValueError, match=r"style checkpoint .* has 20 classes, but .* 51 styles; .* both files swapped"
    ):
        try_to_load(style=files["object"], object=files["style"])
    with pytest.raises(ValueError, match=r"has 50 classes, but the world unlearncanvas has 51 styles; give"):
        try_to_load(style=save(blank_model(50), tmp_path / "fifty.pth"))
    with pytest.raises(ValueError, match=r"has no architecture 'vit_gigantic'"):
        try_to_load(architecture="vit_gigantic")
    with pytest.raises(ValueError, match=r"is no checkpoint of test_vit2"):
        try_to_load(architecture="test_vit2")
    with pytest.raises(FileNotFoundError, match=r"weights .*none.pth do not exist"):
        try_to_load(object=str(tmp_path / "none.pth"))
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no head.weight"):
        try_to_load(object=str(tmp_path / "other.pth"))
    torch.save({"model_state_dict": {"a": Path("x")}}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        try_to_load(object=str(tmp_path / "code.pth"))


def test_the_pair_of_a_suite(files: dict[str, str], draw: Callable[..., Drawn], rows: list[Row]) -> None:
    settings = {**files, "architecture": ARCHITECTURE, "batch_size": 2, "tau": 1.0}
    grid = GridRows(world="unlearncanvas", compat=True, held_out="", gold=False)
    scorers = load_scorers(Suite(name="few", grid=grid, scorers={"timm_pair": settings}))
    assert scorers.loaded["timm_pair"].compat
    scores = score_all([draw("m", rows, [some_image(0)] * 3 + [some_image(1)] * 2)], {0: rows}, scorers)["m"]
    assert {*scores.records["judge_style"]} <= {*WORLD.labels("style")}
    assert {*scores.records["judge_object"]} <= {*WORLD.labels("object")}
    assert scores.records["style_scores"].sum(1) == pytest.approx(np.ones(5), abs=1e-3)
    assert scores.records["object_scores"].sum(1) == pytest.approx(np.ones(5), abs=1e-3)  # one object per image
    assert scores.records["broken"].tolist() == ["duplicate"] * 5
    assert scorers.cards()["timm_pair"]["judge"] == "timm_pair"
