"""All scorers look at the images of all models of a group, batch by batch: each image is read and decoded once.

A chunk of the base's images stays in memory while the same rows of the other models are compared with it. Of what the
stores hold already nothing is made again, and an image that no scorer needs is checked but not decoded.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.draw import manifest
from eval.draw.drawn import Drawn
from eval.score.reading import Prepared, Read, read_ahead
from eval.score.scorer import Batch, Scorer, Side
from eval.score.store import Key, Store
from eval.suite.rows import Row


CHUNK = 64  # images of one model in memory: 50 MB at 512 px; batches are cut within a chunk


class Part(NamedTuple):
    """A batch of one scorer with an answer that is not known."""

    name: str
    places: list[int]
    keys: list[Key]
    is_pair: bool


class Job(NamedTuple):
    """One chunk of one model."""

    model: "ModelImages"
    places: range
    parts: list[Part]
    wanted: dict[int, set[str]]  # place -> scorers that need the image


@dataclass
class ModelImages:
    """The images of one model, and what is known about them.

    Attributes:
        drawn: The model.
        records: What the manifest says of each row.
        base: Its base; None for a base.
        stores: Scorer -> its answers.
    """

    drawn: Drawn
    records: list[manifest.Record]
    base: "ModelImages | None" = None
    stores: dict[str, Store] = field(default_factory=dict)

    def path(self, place: int) -> Path:
        """The file of an image."""
        return self.drawn.folder / self.records[place]["image_path"]

    def key(self, place: int, question: str) -> Key:
        """The key of an answer about one image."""
        return Key(self.records[place]["image_sha256"], question)

    def pair(self, place: int) -> Key:
        """The key of the comparison with the base's image."""
        base = self.base or self
        return self.key(place, f"base:{base.records[place]['image_sha256']}")


class ImageGroup:
    """Models with the same rows, scored together."""

    def __init__(self, drawn: Sequence[Drawn], rows: Sequence[Row], scorers: Mapping[str, Scorer]) -> None:
        """Read what is known.

        Args:
            drawn: The models; a base that others name is one of them.
            rows: Which images to score, in this order.
            scorers: Loaded; by name.

        Raises:
            FileNotFoundError: An image is missing; it names it.
            ValueError: An image is not that of its row, or is not paired with the base's.
        """
        self.rows, self.scorers = rows, scorers
        self.models: list[ModelImages] = []  # bases first
        for each in sorted(drawn, key=lambda each: each.base != ""):
            self._add(each)
        first = self.models[0].drawn
        self.begun = {name: scorer.begin(rows, first) for name, scorer in scorers.items()}
        for model in self.models:
            folder = model.drawn.folder
            model.stores = {name: Store(folder, name, scorer.identity) for name, scorer in scorers.items()}

    def score(self, pool: ThreadPoolExecutor) -> None:
        """Ask the scorers for all answers that are not known; the answers go into the stores."""
        bases: dict[str, dict[int, Prepared]] = {}
        sides: dict[tuple[str, str, int], Side] = {}  # of bases
        for job, images in read_ahead(self._jobs(), self._reads, pool):
            if job.model is self.models[0]:
                bases, sides = {}, {}
            chunk = dict(zip(job.places, images, strict=True))
            for part in job.parts:
                self._ask(job.model, part, chunk, bases, sides)
            if job.model.base is None:
                bases[job.model.drawn.label] = {place: self._comparable(image) for place, image in chunk.items()}

    def answers(self, model: ModelImages) -> dict[str, Batch]:
        """All answers about one model, by scorer."""
        return {name: self._gather(model, name) for name in self.scorers}

    def _add(self, drawn: Drawn) -> None:
        base = next((each for each in self.models if each.drawn.label == drawn.base), None)
        if drawn.base and base is None:
            raise ValueError(f"The base {drawn.base!r} of {drawn.label} is not among the images: give both.")
        records = manifest.read(drawn.folder)
        checked = [_check(drawn.folder, row, records.get(row.key)) for row in self.rows]
        for row, own, other in zip(self.rows, checked, base.records if base else checked, strict=True):
            if own["latent_hash"] != other["latent_hash"]:
                raise ValueError(
                    f"The image of {row.key} starts from other latents than the base's; generate both again."
                )
        self.models.append(ModelImages(drawn, checked, base))

    def _jobs(self) -> Iterator[Job]:
        for start in range(0, len(self.rows), CHUNK):
            places = range(start, min(start + CHUNK, len(self.rows)))
            parts = {model.drawn.label: list(self._parts(model, places)) for model in self.models}
            wanted: dict[str, dict[int, set[str]]] = {label: {place: set() for place in places} for label in parts}
            for model in self.models:
                for part in parts[model.drawn.label]:
                    for place in part.places:
                        wanted[model.drawn.label][place].add(part.name)
                        if part.is_pair and model.base:
                            wanted[model.base.drawn.label][place].add(part.name)
            for model in self.models:
                yield Job(model, places, parts[model.drawn.label], wanted[model.drawn.label])

    def _parts(self, model: ModelImages, places: range) -> Iterator[Part]:
        """The batches of a chunk that are not known, cut by place."""
        for name, scorer in self.scorers.items():
            for start in range(places.start, places.stop, scorer.batch_size):
                batch = range(start, min(start + scorer.batch_size, places.stop))
                questions = {place: scorer.question(self.rows[place]) for place in batch if scorer.scores}
                keys = {place: model.key(place, text) for place, text in questions.items() if text is not None}
                if not model.stores[name].has([*keys.values()]):
                    yield Part(name, [*keys], [*keys.values()], False)
                pairs = [model.pair(place) for place in batch if scorer.compares and model.base]
                if not model.stores[name].has(pairs):
                    yield Part(name, [*batch], pairs, True)

    def _reads(self, job: Job) -> list[Read]:
        reads = []
        for place in job.places:
            prepare = {name: self.scorers[name].prepare for name in sorted(job.wanted[place])}
            reads.append(Read(job.model.path(place), job.model.records[place]["image_sha256"], prepare))
        return reads

    def _ask(
        self,
        model: ModelImages,
        part: Part,
        chunk: Mapping[int, Prepared],
        bases: Mapping[str, Mapping[int, Prepared]],
        sides: dict[tuple[str, str, int], Side],
    ) -> None:
        scorer, images = self.scorers[part.name], [chunk[place][part.name] for place in part.places]
        if part.is_pair and model.base:
            label = model.base.drawn.label
            base = sides.setdefault(
                (label, part.name, part.places[0]), Side([bases[label][place][part.name] for place in part.places])
            )
            batch = scorer.compare(Side(images), base)
        else:
            batch = scorer.score(images, [self.rows[place] for place in part.places])
        model.stores[part.name].add(part.keys, _split(part.name, batch, len(images)))

    def _comparable(self, image: Prepared) -> Prepared:
        return {name: value for name, value in image.items() if self.scorers[name].compares}

    def _gather(self, model: ModelImages, name: str) -> Batch:
        """What a scorer said about the rows, the images, and the pairs of one model."""
        scorer, store, begun = self.scorers[name], model.stores[name], self.begun[name]
        columns = {column: list(values) for column, values in begun.columns.items()}
        arrays: dict[str, list[np.ndarray]] = {}
        for place, row in enumerate(self.rows):
            question = scorer.question(row) if scorer.scores else None
            keys = [model.key(place, question)] if question is not None else []
            keys += [model.pair(place)] if scorer.compares and model.base else []
            for answer in (store.scores[key] for key in keys):
                for column, value in answer["columns"].items():
                    columns.setdefault(column, [None] * len(self.rows))[place] = value
                for array, value in answer["arrays"].items():
                    arrays.setdefault(array, []).append(value)
        for array, values in arrays.items():
            if len(values) != len(self.rows):
                raise ValueError(
                    f"The scorer {name} gives {len(values)} rows of the array {array!r} for {len(self.rows)} images: "
                    "give one for each."
                )
        return Batch({**columns}, begun.arrays | {array: np.stack(values) for array, values in arrays.items()})


def _check(folder: Path, row: Row, record: manifest.Record | None) -> manifest.Record:
    """The record of a row; the file itself is checked when it is read."""
    path = folder / (record["image_path"] if record else f"images/{row.key}.png")
    if record is None or not path.exists():
        raise FileNotFoundError(
            f"The image {path} of the prompt {row.prompt!r} is missing; generate it before scoring."
        )
    if record["prompt_text"] != row.prompt:
        raise ValueError(
            f"The image {path} is not the one that the manifest describes; delete it and generate it again."
        )
    return record


def _split(name: str, batch: Batch, n: int) -> list[dict[str, dict[str, Any]]]:
    """The answers image by image."""
    for answer, values in (*batch.columns.items(), *batch.arrays.items()):
        if len(values) != n:
            raise ValueError(f"The scorer {name} gives {len(values)} values of {answer} for {n} images: give one each.")
    return [
        {
            "columns": {column: _plain(values[place]) for column, values in batch.columns.items()},
            "arrays": {array: values[place] for array, values in batch.arrays.items()},
        }
        for place in range(n)
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    return value.item() if isinstance(value, np.generic) else value
