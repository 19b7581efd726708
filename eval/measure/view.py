"""What the metrics see: the scores of all models of a report, one model of them, and the form of a metric."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from eval.measure.clusters import clusters
from eval.measurements import Estimate
from eval.results import ModelInfo
from eval.score.table import Scores
from eval.suite.grid import Target
from eval.suite.suite import Suite
from eval.suite.world import World


Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that numbers, gates and verdicts are made from; no model is needed any more.

    Attributes:
        suite: What was asked.
        models: In the order of the report's columns: of each group its base, gold, and the erased models.
        scores: Label -> scores; within a group all have the same rows in the same order.
        targets: Group -> what was erased, in the labels of the suite's world; no entry for prompt files.
        provided: Column or array that a scorer of the suite gives -> "" if it was made, or the reason why it was not.
            Arrays are written ``array:NAME``. What no scorer of the suite gives has no entry.
        neighbours: Group -> the concepts nearest to the target in the base's text encoder.
        cards: Scorer -> what it says about itself.
        real: Scorer -> its array for the user's photographs.
    """

    suite: Suite
    models: Sequence[ModelInfo]
    scores: Mapping[str, Scores]
    targets: Mapping[int, Target] = field(default_factory=dict)
    provided: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[int, Sequence[str]] = field(default_factory=dict)
    cards: Mapping[str, dict] = field(default_factory=dict)
    real: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def world(self) -> World:
        """The world of a grid suite.

        Raises:
            ValueError: the suite is of prompt files.
        """
        if self.suite.grid is None:
            raise ValueError(
                f"The suite {self.suite.name!r} is of prompt files, which have no world; use a grid suite."
            )
        return self.suite.grid.load_world()

    @property
    def is_judged(self) -> bool:
        """Whether a judge of styles and objects has looked at the images."""
        return self.provided.get("judge_style") == ""

    def groups(self) -> dict[int, list[ModelInfo]]:
        """Group -> its models, in the order of the columns."""
        groups: dict[int, list[ModelInfo]] = {}
        for model in self.models:
            groups.setdefault(model.group, []).append(model)
        return groups

    def view(self, label: str) -> "View":
        """One model beside its base and the gold model of its group."""
        if label not in self._views:
            model = next(each for each in self.models if each.label == label)
            gold = [each for each in self.models if each.group == model.group and each.role == "gold"]
            self._views[label] = View(
                evidence=self,
                model=model,
                scores=self.scores[label],
                base=self.scores[model.base or label],
                gold=self.scores[gold[0].label] if gold else None,
                twin=self.view(model.base) if model.base else None,
            )
        return self._views[label]

    @cached_property
    def _views(self) -> "dict[str, View]":
        """The views so far: what a view computes once is then shared by all metrics, and a base's by all its models."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A metric image by image, or prompt by prompt; the engine makes estimate, paired difference and share of base.

    Attributes:
        values: (n,) bool for a yes or no per image, else float; the metric is their mean.
        base: The same of the base, row by row; None where the base has none, such as a distance to the base.
        clusters: (n,) int, the prompt of each row, see ``clusters``; rows of one cluster are drawn together.
        is_share_of_base: The metric is 1 - mean(values) / mean(base).
        n_images: Where the rows are not images (prompts, nouns), how many images they are made from.
        about: What the estimate says beside the number, such as the k of leak@k.
    """

    values: np.ndarray
    base: np.ndarray | None
    clusters: np.ndarray
    is_share_of_base: bool = False
    n_images: int | None = None
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows that a metric is measured on: of one prompt file, of one language of it, or all rows of the suite."""

    file: str = ""
    language: str = ""

    @property
    def suffix(self) -> str:
        """What follows the key of the metric.

        >>> Part(file="multilingual", language="French").suffix, Part().suffix
        ('@multilingual/French', '')
        """
        return (f"@{self.file}" if self.file else "") + (f"/{self.language}" if self.language else "")


class _Taken(Mapping[str, np.ndarray]):
    """Rows of arrays that are copied when they are asked for; features of all images are large."""

    def __init__(self, arrays: Mapping[str, np.ndarray], places: np.ndarray) -> None:
        self.arrays, self.places = arrays, places

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name][self.places]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


@dataclass(frozen=True, kw_only=True)
class View:
    """One model as a metric sees it; its rows may be those of one prompt file or language.

    Attributes:
        evidence: All models.
        model: The one that the metric is about.
        scores: Its scores.
        base: The scores of its base, row by row the same; of a base its own.
        gold: The scores of the gold model of the group, where there is one.
        part: What the rows are restricted to.
        twin: The view of the same rows of the base, if there is one already.
    """

    evidence: Evidence
    model: ModelInfo
    scores: Scores
    base: Scores
    gold: Scores | None = None
    part: Part = field(default_factory=Part)
    twin: "View | None" = None

    @property
    def rows(self) -> list[dict]:
        """The records."""
        return self.scores.records.rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """One column of the records, (n,)."""
        return self.scores.records[column]

    @property
    def target(self) -> Target:
        """What was erased, of a grid suite."""
        return self.evidence.targets[self.model.group]

    @cached_property
    def clusters(self) -> np.ndarray:
        """The prompt of each row, (n,) int."""
        return clusters(self.rows) if self.twin is None else self.twin.clusters

    @cached_property
    def of_base(self) -> "View":
        """The same rows of the model's base; of a base, this view."""
        if self.twin is not None or not self.model.base:
            return self.twin or self
        base = next(each for each in self.evidence.models if each.label == self.model.base)
        return replace(self, model=base, scores=self.base)

    @cached_property
    def grid(self) -> "View":
        """The rows of the style x object grid; all rows where the suite is of prompt files."""
        if self.evidence.suite.grid is None:
            return self
        twin = self.twin.grid if self.twin else None
        return replace(self.where(lambda row: row["family"] == "template"), twin=twin)

    @cached_property
    def forget(self) -> "View":
        """The rows of the grid that ask for the target."""
        twin = self.twin.forget if self.twin else None
        return replace(self.grid.where(lambda row: row["role"] == "target"), twin=twin)

    @cached_property
    def retain(self) -> "View":
        """The rows of the grid that do not."""
        twin = self.twin.retain if self.twin else None
        return replace(self.grid.where(lambda row: row["role"] == "adjacent"), twin=twin)

    def where(self, condition: Callable[[dict], bool]) -> "View":
        """The same with the rows that fulfil a condition, of the model, its base and gold alike."""
        places = np.flatnonzero([condition(row) for row in self.rows])
        own, base = _take(self.scores, places), _take(self.base, places)
        return replace(self, scores=own, base=base, gold=_take(self.gold, places) if self.gold else None, twin=None)

    def once(self, compute: Callable[["View"], Result]) -> Result:
        """The result of a function of this view, which is computed once."""
        if compute not in self._results:
            self._results[compute] = compute(self)
        return self._results[compute]

    @cached_property
    def _results(self) -> dict[Callable, Any]:
        return {}

    def sample(self, values: Callable[["View"], np.ndarray], *, is_share_of_base: bool = False) -> Sample:
        """The sample of a value per row, (n,) bool or float, which the base has as well."""
        return Sample(
            values=self.once(values),
            base=self.of_base.once(values),
            clusters=self.clusters,
            is_share_of_base=is_share_of_base,
        )


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What the base itself has to show often enough, or a metric says little; see ``limits.KNOWN_FLOOR``.

    Attributes:
        what: What the base does, such as "draws the neighbours", for a sentence of a gate.
        hits: View of the base -> whether each image shows it, (n,) bool; None where the suite has no such images.
    """

    what: str
    hits: Callable[[View], np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; a module of ``eval.measure.metrics`` lists its own in ``METRICS``.

    Attributes:
        key: Its name in ``report.json``.
        title: What people call it.
        direction: ``up`` or ``down`` is better, or ``none``.
        unit: ``share``, ``score`` or ``distance``.
        definition: In words.
        needs: Columns of the records, and arrays as ``array:NAME``, without which it has no number. It is listed if
            the scorers of the suite give all of them, and says ``not_run`` where one could not be made.
        sample: View -> sample, or in words why there is none, or None where the suite has nothing for it.
        distance: The same for a number that is no mean of rows: View -> estimate or None.
        kinds: Of suites: ``grid``, ``prompts``.
        aspect: The aspect of HUB that it belongs to. It is measured where the suite's ``metrics`` name the aspect or
            the key, unless ``is_always``. A metric of no aspect is always measured.
        is_always: It is measured in every suite, whatever its aspect.
        exists: View -> whether the metric exists for this model; a distance to the base does not for a base. If None,
            it exists for every model.
        has_share: A yes or no per image that is also shown as a share of the base's.
        claims_gone: It claims that something is gone, so that gates may withhold it.
        is_damage: It counts as damage what an erasure must change: of prompt files that ask for the target its
            direction is ``none``, and the number of all prompts is without those files.
        by_file: Measured for each prompt file, and for each language of a file, but not for all prompts together.
        floor: What the base itself has to show.
        adapt: Metric, evidence and part -> the metric with the title, definition or direction that it has there; None
            where it is not measured.
    """

    key: str
    title: str
    direction: str
    unit: str
    definition: str
    needs: tuple[str, ...] = ()
    sample: Callable[[View], Sample | str | None] | None = None
    distance: Callable[[View], Estimate | None] | None = None
    kinds: tuple[str, ...] = ("grid", "prompts")
    aspect: str = ""
    is_always: bool = False
    exists: Callable[[View], bool] | None = None
    has_share: bool = True
    claims_gone: bool = False
    is_damage: bool = False
    by_file: bool = False
    floor: Floor | None = None
    adapt: "Callable[[Metric, Evidence, Part], Metric | None] | None" = None

    def __post_init__(self) -> None:
        """Refuse a metric that the engine cannot measure.

        Raises:
            ValueError: it has no way to measure it, or two.
        """
        if (self.sample is None) == (self.distance is None):
            raise ValueError(f"The metric {self.key!r} needs either `sample` or `distance`: give one of them.")


def is_not_base(view: View) -> bool:
    """Whether a model has a base that it can be compared with."""
    return view.model.role != "base"


def _take(scores: Scores, places: np.ndarray) -> Scores:
    records = type(scores.records)([scores.records.rows[place] for place in places])
    return replace(scores, records=records, arrays=_Taken(scores.arrays, places))
