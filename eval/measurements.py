"""The numbers of a report: estimates and differences, and the tables and curves that are made of them.

A number of a model stands under the model's label.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of one model with its 95 % interval, or the reason why there is none.

    Attributes:
        value: The number; None where ``not_run`` says why there is none.
        lo: Lower end of the interval; None if ``method`` says why there is no interval.
        hi: Upper end.
        method: How the interval was made.
        n_images: Images behind the number.
        n_prompts: Distinct prompts behind it; None where prompts do not matter.
        hits: How often yes was counted, for a share.
        n: What ``hits`` is counted of, where that is not the images (prompts for leak@k, nouns for alignment).
        not_run: Why there is no number.
        about: What belongs to this number alone, such as the k of leak@k or the concept that is worst.
    """

    value: float | None
    lo: float | None = None
    hi: float | None = None
    method: str = ""
    n_images: int = 0
    n_prompts: int | None = None
    hits: int | None = None
    n: int | None = None
    not_run: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of one metric between two models with its 95 % interval."""

    value: float
    lo: float
    hi: float
    method: str
    n_images: int
    paired: bool  # image by image at equal prompt and seed; otherwise each model's change against its own base


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One metric of all models of a report.

    Attributes:
        title: What people call it.
        direction: ``up`` or ``down`` is better, or ``none``.
        unit: ``share``, ``score`` or ``distance``.
        definition: In words.
        values: Label -> estimate; None where the metric does not exist for that model, such as
            the distance of the base to itself.
        changes: Label -> paired difference to the model's own base.
        shares: Label -> the value as a share of the base's.
        struck: Label -> why a gate withholds the number.
        file: The prompt file that it is about; empty for all rows.
        aspect: The aspect of HUB that it belongs to; empty for none.
        claims_gone: Whether it claims that something is gone, so that gates may withhold it.
    """

    title: str
    direction: str
    unit: str
    definition: str
    values: dict[str, Estimate | None] = field(default_factory=dict)
    changes: dict[str, Difference] = field(default_factory=dict)
    shares: dict[str, Estimate] = field(default_factory=dict)
    struck: dict[str, str] = field(default_factory=dict)
    file: str = ""
    aspect: str = ""
    claims_gone: bool = False


@dataclass(frozen=True, kw_only=True)
class PairDifferences:
    """Every metric of model ``b`` minus that of model ``a``."""

    a: str
    b: str
    paired: bool
    metrics: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How often the target is seen for one held-out wording, or for attack prompts, of one group of models.

    Attributes:
        family: ``paraphrase``, ``alias``, ...; of attack prompts the name of the attack.
        group: Of the models.
        language: Empty for all languages together.
        is_null: Whether these are the null prompts of an attack.
        values: Label -> share of images with the target.
        erasure: Label -> normalised erasure, 1 - share / the base's share.
        struck: Label -> why a gate withholds the share.
    """

    family: str
    group: int = 0
    language: str = ""
    is_null: bool = False
    values: dict[str, Estimate] = field(default_factory=dict)
    erasure: dict[str, Estimate | None] = field(default_factory=dict)
    struck: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ConceptAccuracy:
    """How often the judge sees one retained concept where it was asked for.

    Attributes:
        axis: ``style`` or ``object``.
        concept: Its label.
        group: Of the models.
        counted: Whether it counts for IRA and CRA; photos of UnlearnCanvas may not.
        values: Label -> accuracy.
        changes: Label -> paired change of the accuracy against the base.
    """

    axis: str
    concept: str
    group: int = 0
    counted: bool = True
    values: dict[str, Estimate] = field(default_factory=dict)
    changes: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Accuracy of both axes in one cell of a grid, of one model."""

    style: str
    object: str
    style_accuracy: Estimate
    object_accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A share of every model against a threshold; ``mark`` is the threshold of the metric ``metric``."""

    metric: str
    title: str
    axis: str
    places: tuple[float, ...]
    mark: float
    lines: dict[str, list[Estimate]] = field(default_factory=dict)  # label -> one per place


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Targets erased one after another; entry [j][i] is about target i after step j, None before it is erased."""

    labels: tuple[str, ...] = ()  # of the steps
    requests: tuple[str, ...] = ()  # what each step adds
    ua: list[list[Estimate | None]] = field(default_factory=list)
    rebound: list[list[Estimate | None]] = field(default_factory=list)
    retained: list[Estimate] = field(default_factory=list)
    not_run: str = ""


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Mean and spread of one metric over trainings with other seeds."""

    mean: float
    sd: float
    lo: float
    hi: float
    n: int
    struck: str = ""


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """One erasure that was trained with several seeds."""

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, SeedSpread] = field(default_factory=dict)
