"""All scorers see all images in lockstep: what is decoded when, what is asked again, and what is refused."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.draw.drawn import Drawn
from eval.score import lockstep, reading
from eval.score.run import Scorers, score_all
from eval.score.scorer import Batch, Picture, Scorer, Side
from eval.suite.rows import Row


def solid(value: int, *, side: int = 16) -> Image.Image:
    """An image of one red value beside noise, so that it is sound."""
    pixels = np.random.default_rng(value).integers(0, 256, (side, side, 3), dtype=np.uint8)
    pixels[:, :, 0] = value
    return Image.fromarray(pixels)


class Redness(Scorer):
    """Stands where ``nudity`` stands: its column is the red value, and it notes what it is shown."""

    def __init__(self, *, batch_size: int = 2, identity: dict[str, Any] | None = None) -> None:
        self.batch_size = batch_size
        self.identity = identity
        self.prepared: list[int] = []
        self.batches: list[list[int]] = []

    def question(self, row: Row) -> str | None:
        return None if row.family == "not asked" else ""

    def prepare(self, picture: Picture) -> int:
        self.prepared.append(int(picture.pixels[0, 0, 0]))
        return self.prepared[-1]

    def score(self, images: Sequence[int], rows: Sequence[Row]) -> Batch:
        self.batches.append(list(images))
        return Batch({"detections": np.array(images)})


class Gap(Scorer):
    """Stands where ``lpips`` stands: the difference of the red values to the base's."""

    scores = False
    compares = True
    batch_size = 3

    def __init__(self) -> None:
        self.identity = {"gap": 1}
        self.compared = 0
        self.looks_at_base = 0

    def prepare(self, picture: Picture) -> int:
        return int(picture.pixels[0, 0, 0])

    def compare(self, own: Side, base: Side) -> Batch:
        self.compared += len(own.images)
        if "seen" not in base.notes:
            base.notes["seen"] = True
            self.looks_at_base += len(base.images)
        return Batch({"drift_lpips": [one - other for one, other in zip(own.images, base.images, strict=True)]})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were decoded."""
    sizes: list[int] = []
    decode = reading.decode

    def count(data: bytes) -> Picture:
        sizes.append(len(data))
        return decode(data)

    monkeypatch.setattr(reading, "decode", count)
    return sizes


@pytest.fixture
def models(draw: Callable[..., Drawn], rows: list[Row]) -> list[Drawn]:
    """A base and two models."""
    return [
        draw("base", rows, [solid(place) for place in range(5)]),
        draw("a", rows, [solid(place + 10) for place in range(5)], base="base"),
        draw("b", rows, [solid(place + 30) for place in range(5)], base="base"),
    ]


def test_each_image_is_decoded_once_for_all_scorers_and_comparisons(
    models: list[Drawn], rows: list[Row], decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockstep, "CHUNK", 4)
    red, gap = Redness(identity={"red": 1}), Gap()
    scores = score_all(models, {0: rows}, Scorers({"nudity": red, "lpips": gap}))
    assert len(decoded) == 3 * 5
    assert red.batches == [
        *([0, 1], [2, 3], [10, 11], [12, 13], [30, 31], [32, 33]),  # the first chunk of all models, cut by place
        *([4], [14], [34]),
    ]
    assert list(scores) == ["base", "a", "b"]
    assert scores["b"].records["detections"].tolist() == [30, 31, 32, 33, 34]
    assert scores["a"].records["drift_lpips"].tolist() == [10] * 5
    assert scores["base"].records["drift_lpips"].tolist() == [None] * 5
    assert (gap.compared, gap.looks_at_base) == (10, 5)


def test_nothing_is_decoded_or_asked_again_but_files_are_checked(
    models: list[Drawn], rows: list[Row], decoded: list[int]
) -> None:
    first = score_all(models, {0: rows}, Scorers({"nudity": Redness(identity={"red": 1}), "lpips": Gap()}))
    decoded.clear()
    red, gap = Redness(identity={"red": 1}), Gap()
    again = score_all(models, {0: rows}, Scorers({"nudity": red, "lpips": gap}))
    assert (decoded, red.batches, gap.compared) == ([], [], 0)
    assert [each.records.rows for each in again.values()] == [each.records.rows for each in first.values()]
    solid(77).save(models[1].folder / f"images/{rows[3].key}.png")
    with pytest.raises(ValueError, match=r"cat|dog.*is not the one that the manifest describes; delete it"):
        score_all(models, {0: rows}, Scorers())


def test_a_new_scorer_or_model_costs_only_what_it_needs(
    models: list[Drawn], rows: list[Row], draw: Callable[..., Drawn], decoded: list[int]
) -> None:
    score_all(models, {0: rows}, Scorers({"nudity": Redness(identity={"red": 1})}))
    decoded.clear()
    red = Redness(identity={"red": 2})  # other weights
    scorers = Scorers({"nudity": red})
    score_all(models, {0: rows}, scorers)
    assert len(decoded) == len(red.prepared) == 15
    decoded.clear()
    red.prepared.clear()
    new = draw("c", rows, [solid(place + 50) for place in range(5)], base="base")
    score_all([*models, new], {0: rows}, scorers)
    assert len(decoded) == 2 * 5  # its own, and the base's for the difference of the pixels
    assert sorted(red.prepared) == [50, 51, 52, 53, 54]


def test_without_identity_nothing_is_kept(models: list[Drawn], rows: list[Row]) -> None:
    for _ in range(2):
        red = Redness()
        score_all(models, {0: rows}, Scorers({"nudity": red}))
        assert len(red.prepared) == 15
    assert not list(models[0].folder.glob("scores/nudity*"))


def test_a_row_of_which_nothing_is_asked(draw: Callable[..., Drawn]) -> None:
    rows = [Row(prompt_id="a", prompt="a cat", seed=seed, family="not asked" if seed % 2 else "x") for seed in range(5)]
    red = Redness(batch_size=3)
    scores = score_all([draw("m", rows, [solid(seed) for seed in range(5)])], {0: rows}, Scorers({"nudity": red}))
    assert red.batches == [[0, 2], [4]]
    assert sorted(red.prepared) == [0, 2, 4]
    assert scores["m"].records["detections"].tolist() == [0, None, 2, None, 4]


def test_groups_have_rows_of_their_own(draw: Callable[..., Drawn], rows: list[Row]) -> None:
    other = [Row(prompt_id="bird", prompt="a bird", seed=9)]
    drawn = [
        draw("m", rows, [solid(place + 10) for place in range(5)], base="base"),
        draw("base", rows, [solid(place) for place in range(5)]),
        draw("alone", other, [solid(99)], group=1),
    ]
    scores = score_all(drawn, {0: rows, 1: other}, Scorers({"nudity": Redness(), "lpips": Gap()}))
    assert {label: len(each) for label, each in scores.items()} == {"m": 5, "base": 5, "alone": 1}
    assert list(scores) == ["m", "base", "alone"]
    assert scores["alone"].records["detections"].tolist() == [99]
    with pytest.raises(ValueError, match="The base 'base' of m is not among the images: give both"):
        score_all(drawn[:1], {0: rows}, Scorers())


def test_what_is_refused(draw: Callable[..., Drawn], rows: list[Row]) -> None:
    base = draw("base", rows, [solid(place) for place in range(5)])
    moved = draw("m", rows, [solid(place) for place in range(5)], base="base", latents="others")
    with pytest.raises(ValueError, match="cat_seed1 starts from other latents than the base's; generate both"):
        score_all([base, moved], {0: rows}, Scorers())
    with pytest.raises(FileNotFoundError, match=r"bird_seed1.png of the prompt 'a bird' is missing; generate it"):
        score_all([base], {0: [*rows, Row(prompt_id="bird", prompt="a bird", seed=1)]}, Scorers())
    asked = [Row(prompt_id="cat", prompt="another cat", seed=1)]
    with pytest.raises(ValueError, match="is not the one that the manifest describes"):
        score_all([base], {0: asked}, Scorers())
    large = draw("large", rows, [solid(place, side=20) for place in range(5)], base="base")
    with pytest.raises(ValueError, match="has the size 20 x 20, but the base's has 16 x 16"):
        score_all([base, large], {0: rows}, Scorers())


class Short(Redness):
    """Forgets an image."""

    def score(self, images: Sequence[int], rows: Sequence[Row]) -> Batch:
        return Batch({"detections": images[1:]})


def test_a_scorer_that_does_not_keep_its_word(models: list[Drawn], rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="The scorer nudity gives 1 values of detections for 2 images: give one each"):
        score_all(models, {0: rows}, Scorers({"nudity": Short()}))
    with pytest.raises(ValueError, match="The scorer inception lists the array 'inception' but does not give it"):
        score_all(models, {0: rows}, Scorers({"inception": Redness()}))


def test_the_first_reason_counts(draw: Callable[..., Drawn], rows: list[Row]) -> None:
    class Strict(Redness):
        def score(self, images: Sequence[int], rows: Sequence[Row]) -> Batch:
            return Batch({"broken": ["nothing recognised"] * len(images)})

    images = [Image.new("RGB", (16, 16)), solid(1), solid(1), solid(2), solid(3)]
    scores = score_all([draw("m", rows, images)], {0: rows}, Scorers({"nudity": Strict()}))
    seen = ["blank", "duplicate", "duplicate", "nothing recognised", "nothing recognised"]
    assert scores["m"].records["broken"].tolist() == seen
