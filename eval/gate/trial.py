"""One base and the models that were made from it: what gates look at, and the keys of what they withhold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from eval.measure.engine import Measured
from eval.measure.registry import list_metrics
from eval.measure.view import Evidence, View
from eval.measurements import MetricResult, Wording
from eval.results import ModelInfo, SearchedAttack


HELD_OUT = "held-out wordings"  # key of all held-out wordings of a model


def attack_key(wording: Wording) -> str:
    """The key of an attack, or of its null attacks, in ``Gate.withholds``.

    >>> attack_key(Wording(family="search")), attack_key(Wording(family="search", is_null=True))
    ('attack search', 'null of attack search')
    """
    return f"{'null of ' if wording.is_null else ''}attack {wording.family}"


def search_key(search: SearchedAttack) -> str:
    """The key of a searched attack in ``Gate.withholds``."""
    return f"searched attack {search.folder}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One base, the erased models that were made from it, and their numbers before any is withheld.

    Attributes:
        evidence: Of the report.
        measured: The numbers of all models of the report.
        searched: What ``erase attack`` found on models of the report.
        base: The base.
        models: The erased models of this base. Gates do not judge gold models.
    """

    evidence: Evidence
    measured: Measured
    searched: Sequence[SearchedAttack]
    base: ModelInfo
    models: tuple[ModelInfo, ...]

    @property
    def is_grid(self) -> bool:
        """Whether the rows come from a grid."""
        return self.evidence.suite.grid is not None

    @property
    def labels(self) -> list[str]:
        """Of the erased models."""
        return [model.label for model in self.models]

    @property
    def metrics(self) -> Mapping[str, MetricResult]:
        """Key -> result."""
        return self.measured.metrics

    @cached_property
    def view(self) -> View:
        """The scores of the base."""
        return self.evidence.view(self.base.label)

    @cached_property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """Metric -> the columns that it rests on."""
        return {metric.key: metric.needs for metric in list_metrics(self.evidence.suite.kind)}

    def number(self, key: str, label: str) -> float | None:
        """A number of a model; None where there is none."""
        estimate = self.metrics[key].values.get(label) if key in self.metrics else None
        return estimate.value if estimate else None

    def share(self, key: str, label: str) -> float:
        """A share that every model has.

        Raises:
            ValueError: It has none.
        """
        value = self.number(key, label)
        if value is None:
            raise ValueError(f"The metric {key} has no number for {label}, but gates need one: score the images again.")
        return value

    def numbers(self, label: str, keys: Iterable[str]) -> tuple[str, ...]:
        """Those of these keys under which a model has a number."""
        return tuple(key for key in keys if self.number(key, label) is not None)

    def answers(self, label: str, need: str) -> tuple[str, ...]:
        """The keys of all numbers of a model that rest on a column of the records."""
        return self.numbers(label, [key for key in self.metrics if need in self.needs[key.partition("@")[0]]])

    def claims(self, label: str, need: str = "") -> tuple[str, ...]:
        """The keys of all numbers that claim that something is gone from a model.

        Args:
            label: Of the model.
            need: Only those that rest on this column of the records.
        """
        keys = self.answers(label, need) if need else self.numbers(label, self.metrics)
        wordings = [(HELD_OUT, each) for each in self.measured.held_out]
        wordings += [(attack_key(each), each) for each in self.measured.attacks]
        others = [key for key, each in wordings if label in each.values and each.values[label].value is not None]
        others += [search_key(each) for each in self.searched if each.label == label and not each.is_foreign]
        return tuple(dict.fromkeys([*(key for key in keys if self.metrics[key].claims_gone), *others]))

    def claims_of_file(self, label: str, file: str) -> tuple[str, ...]:
        """The claims that rest on the images of a prompt file; for the empty name, on those of all files.

        A number of all files rests on each of them.
        """
        keys = []
        for key in self.claims(label):
            own = self.metrics[key].file if key in self.metrics else ""
            if not own or (own if f"broken@{own}" in self.metrics else "") == file:
                keys.append(key)
        return tuple(keys)

    def withhold(
        self, keys_of: Callable[[str], Iterable[str]], labels: Sequence[str] | None = None
    ) -> dict[str, tuple[str, ...]]:
        """What a gate withholds of each model.

        Args:
            keys_of: Label -> keys.
            labels: Of the erased models unless given.
        """
        withholds = {label: tuple(keys_of(label)) for label in labels or self.labels}
        return {label: keys for label, keys in withholds.items() if keys}
