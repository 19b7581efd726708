"""From the tables of scores to the numbers of a report; nothing here runs a model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from eval.formulas.accuracy import Outcomes, fine_grained, unlearn_canvas
from eval.formulas.intervals import Interval, cluster_bootstrap, ratio_interval, wider, wilson
from eval.measure.distances import frechet, kid, not_run, or_not_run
from eval.score.table import Table
from eval.suite.grid import Target
from eval.suite.world import COMBINATION, World, load_world


PROPORTION = "wider of Wilson and cluster bootstrap, 95 %"
RATIO = "wider of paired cluster bootstrap and Wilson over base, 95 %"
BOOTSTRAP = "cluster bootstrap over prompts, 95 %"
# what may be printed struck through when a gate fails: the claims that something is gone
ERASURE = ("ua", "normalised_erasure")
KNOWN_FLOOR = 0.3  # base must show something in this share of its images, or nothing is said about its loss
VISIBLE = 0.5  # the judge's score from which on an object counts as visible beside another
WEIGHTS_ABSENT = "weights absent"
# metrics that need no answer of the judge
PIXELS_ONLY = ("clip_retain", "clip_target", "collapse_retain", "collapse_target", "drift", "unchanged")

# what is left of other concepts: of a style or an object, and of a style and an object together
KEPT, KEPT_BESIDE_COMBINATION = ("ira", "cra_excl_target"), ("sc", "oc", "up")

TITLES = {  # metric -> title, direction, definition
    "ua": ("UA", "up", "1 - accuracy of the erased concept on prompts that ask for it"),
    "ira": ("IRA", "up", "accuracy of the other concepts of the same kind, on prompts without the target"),
    "cra_excl_target": ("CRA", "up", "accuracy on the other axis, on prompts without the target"),
    "cra_code": ("CRA (benchmark code)", "up", "accuracy on the other axis, on all prompts"),
    "sc": ("SC", "up", "accuracy of the style on prompts for the target's style with other objects"),
    "oc": ("OC", "up", "accuracy of the object on prompts for the target's object in other styles"),
    "up": (
        "UP",
        "up",
        "share of images with the right style and object, prompts with neither of the target's",
    ),
    "normalised_erasure": (
        "Normalised erasure",
        "up",
        "1 - share of target images that show the target / that of base",
    ),
    "in_prompt": ("In-prompt retention", "up", "share of two-object images of the target that show every other object"),
    "clip_retain": ("CLIP score, other prompts", "up", "mean cosine of image and prompt, prompts without the target"),
    "clip_target": ("CLIP score, target prompts", "none", "mean cosine of image and prompt, prompts with the target"),
    "collapse_retain": ("Collapsed, other prompts", "down", "share of broken images, prompts without the target"),
    "collapse_target": ("Collapsed, target prompts", "down", "share of broken images, prompts with the target"),
    "drift": ("Drift", "down", "RMS pixel difference to base at equal seed, prompts without the target"),
    "unchanged": ("Unchanged images", "none", "share of images equal to base bit by bit, prompts without the target"),
    "diversity": ("Diversity", "up", "mean feature distance between seeds of one prompt, prompts without the target"),
    "fd_canvas": ("fd_{world}", "down", "Frechet distance to base, judge features, prompts without the target"),
    "kid_canvas": ("kid_{world}", "down", "kernel distance to base, judge features, prompts without the target"),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The scores of one model."""

    table: Table
    features: np.ndarray | None  # (n, D) of the judge, one row per row of the table; None where nothing was judged
    clip: np.ndarray | None = None  # (n, D), CLIP image features of unit length
    inception: np.ndarray | None = None  # (n, 2048)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Turns scores into estimates with intervals."""

    models: dict[str, Model]  # erased, base and, where there is one, gold; equal rows in equal order
    target: Target
    resamples: int = 1000
    world: World = field(default_factory=lambda: load_world("canvas"))

    @property
    def is_judged(self) -> bool:
        """Whether a judge has looked at the images; without its weights none has."""
        return all(row["judge_style"] is not None for model in self.models.values() for row in model.table.rows)

    @property
    def kept(self) -> tuple[str, ...]:
        """The metrics that say what is left of other concepts."""
        return KEPT_BESIDE_COMBINATION if self.target.kind == COMBINATION else KEPT

    @property
    def counted_metrics(self) -> tuple[str, ...]:
        """The metrics of ``outcomes``."""
        return ("ua", *self.kept) if self.target.kind == COMBINATION else ("ua", *self.kept, "cra_code")

    @property
    def names(self) -> list[str]:
        """The metrics that exist for this kind of target."""
        others = {*KEPT, "cra_code", *KEPT_BESIDE_COMBINATION} - {*self.counted_metrics}
        return [name for name in TITLES if name not in others]

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Every metric: title, direction, definition, and an estimate per model."""
        grids = {name: self.grid(name) for name in self.models}
        found: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        for name, grid in grids.items():
            for metric, (table, column) in self.columns(grid).items():
                found[metric][name] = self.mean(table, column)
            for metric, part in (("collapse_retain", self.retain(grid)), ("collapse_target", self.forget(grid))):
                hit = np.array([bool(row["broken"]) for row in part.rows])
                found[metric][name] = self.proportion(Outcomes(hit, prompt_index(part)))
            if name != "base":
                retain = self.retain(grid)
                found["unchanged"][name] = self.proportion(Outcomes(retain["same_as_base"], prompt_index(retain)))
            for metric, estimate in self._judged(name, grid, grids["base"]).items():
                found[metric][name] = estimate
        for metric, models in found.items():
            title, direction, definition = TITLES[metric]
            models |= {"title": title.format(world=self.world.name), "direction": direction, "definition": definition}
        for metric in self.counted_metrics:
            found[metric]["share_of_base"] = None
        if self.is_judged:
            ours, theirs = (self.outcomes(grids[name]) for name in ("erased", "base"))
            for metric in [name for name in self.counted_metrics if name != "ua"]:
                found[metric] |= share_of_base(ours[metric], theirs[metric], resamples=self.resamples)
        return found

    def _judged(self, name: str, grid: Table, base: Table) -> dict[str, Any]:
        """The estimates that rest on the judge; each says why it has no number where nothing was judged."""
        if not self.is_judged:
            return {metric: not_run(WEIGHTS_ABSENT) for metric in self.names if metric not in PIXELS_ONLY}
        return {
            **{metric: self.proportion(outcomes) for metric, outcomes in self.outcomes(grid).items()},
            "normalised_erasure": self.erasure(self.forget(grid), self.forget(base)),
            "in_prompt": self.in_prompt(name),
            "diversity": self.diversity(name),
            "fd_canvas": self._distance(name, partial(frechet, prompts=self.retained_prompts)),
            "kid_canvas": self._distance(name, kid),
        }

    def grid(self, model: str) -> Table:
        """The grid rows of a model."""
        return self.models[model].table.where(lambda row: row["family"] == "template")

    def forget(self, table: Table) -> Table:
        """Rows that ask for the target."""
        return table.where(lambda row: row["role"] == "target")

    def retain(self, table: Table) -> Table:
        """Grid rows that do not."""
        return table.where(lambda row: row["role"] == "adjacent")

    @property
    def retained_prompts(self) -> np.ndarray:
        """The number of the prompt of each row of ``retain`` of a grid, which is the same in all models, (n,) int."""
        return prompt_index(self.retain(self.grid("base")))

    def counted(self, axis: str, labels: Iterable[str]) -> list[str]:
        """The labels of an axis, style or object, whose accuracy counts; those of ``World.uncounted_styles`` do not."""
        return [label for label in labels if axis == "object" or label not in self.world.uncounted_styles]

    def outcomes(self, grid: Table) -> dict[str, Outcomes]:
        """UA with IRA and both CRA, or of a combination with SC, OC and UP, image by image.

        Raises:
            ValueError: nothing was judged, which would count as erased.
        """
        self._check_judged()
        columns = (grid["style"], grid["object"], grid["judge_style"], grid["judge_object"])
        uncounted = self.world.uncounted_styles
        if self.target.kind == COMBINATION:
            (_, style), (_, obj) = self.target.parts
            return fine_grained(*columns, target=(style, obj), uncounted_styles=uncounted)
        return unlearn_canvas(*columns, kind=self.target.kind, targets=self.target.names, uncounted_styles=uncounted)

    def proportion(self, outcomes: Outcomes) -> dict[str, Any]:
        """A share with its interval; see ``proportion``."""
        return proportion(outcomes, resamples=self.resamples)

    def mean(self, table: Table, column: str) -> dict[str, Any] | None:
        """The mean of a column with its interval; None where the column was not scored."""
        if not len(table) or table.rows[0][column] is None:
            return None
        values = table[column].astype(float)
        lo, hi = self._bootstrap([values], prompt_index(table))
        return _estimate(float(values.mean()), lo, hi, table, BOOTSTRAP)

    def seen(self, table: Table) -> np.ndarray:
        """Whether the judge sees the target in each image; where a prompt names two objects, either may be it.

        Raises:
            ValueError: nothing was judged, which would count as erased.
        """
        self._check_judged()
        known = self.world.labels("object")

        def shows(row: dict[str, Any]) -> bool:
            visible = [row["judge_object"]]
            if row["family"] == "two_object":
                visible += [name for name in self.target.objects if row["object_scores"][known.index(name)] >= VISIBLE]
            return any(self.target.is_asked(row["judge_style"], obj) for obj in visible)

        return np.array([shows(row) for row in table.rows])

    def in_prompt(self, name: str) -> dict[str, Any] | None:
        """How often the objects that are not erased stay visible in two-object prompts of the target."""
        pairs, unknown = self.pairs(name), self.unknown_pairs()
        if unknown and name != "base":
            return not_run(unknown) | {"n_images": len(pairs)}
        return self.proportion(Outcomes(self.others_visible(pairs), prompt_index(pairs))) if len(pairs) else None

    def pairs(self, name: str) -> Table:
        """The rows of a model that ask for two objects."""
        return self.models[name].table.where(lambda row: row["family"] == "two_object")

    def others_visible(self, pairs: Table) -> np.ndarray:
        """Whether every object that a two-object prompt names beside the target is visible in its image, (n,) bool."""
        return self._all_visible(pairs, beside=self.target.objects)

    def whole_pairs(self) -> np.ndarray:
        """Whether base draws both objects of a two-object prompt, (n,) bool."""
        return self._all_visible(self.pairs("base"), beside=())

    def unknown_pairs(self) -> str:
        """Why nothing is said of what remains beside the target: base draws too few pairs; empty if it draws them.

        Of two objects one is nearly always there, so the pair is what counts.
        """
        drawn = self.whole_pairs()
        if not len(drawn) or drawn.mean() >= KNOWN_FLOOR:
            return ""
        return f"base draws {int(drawn.sum())} of {len(drawn)} pairs"

    def _all_visible(self, pairs: Table, *, beside: Sequence[str]) -> np.ndarray:
        known = self.world.labels("object")
        return np.array(
            [
                all(
                    row["object_scores"][known.index(name)] >= VISIBLE
                    for name in row["object"].split("+")
                    if name not in beside
                )
                for row in pairs.rows
            ],
            bool,
        )

    def erasure(self, table: Table, base: Table) -> dict[str, Any] | None:
        """1 - share of images with the target / that of base, paired; None where base never shows the target."""
        ours, theirs = self.seen(table).astype(float), self.seen(base).astype(float)
        if not len(ours) or theirs.mean() == 0:
            return None
        known = float(theirs.mean())
        one = cluster_bootstrap([ours, theirs], prompt_index(table), _one_minus_ratio, resamples=self.resamples)
        share = wilson(int(ours.sum()), len(ours))
        lo, hi = wider(one, Interval(1 - share.hi / known, min(1.0, 1 - share.lo / known)))
        return _estimate(1 - float(ours.mean()) / known, lo, hi, table, PROPORTION)

    def diversity(self, name: str) -> dict[str, Any] | None:
        """Mean feature distance between the seeds of a prompt; None where each prompt has one seed only."""
        values = self.spreads(name)
        if not len(values):
            return None
        lo, hi = self._bootstrap([values], np.arange(len(values)))
        return _estimate(float(values.mean()), lo, hi, self.retain(self.grid(name)), BOOTSTRAP)

    def spreads(self, name: str) -> np.ndarray:
        """Mean feature distance between the seeds of each prompt without the target that has several, (prompts,)."""
        retain = self.retain(self.grid(name))
        prompts, values = prompt_index(retain), []
        features = self.features(name)
        for prompt in np.unique(prompts):
            own = features[retain["feature_ref"][prompts == prompt]]
            if len(own) > 1:
                gaps = np.linalg.norm(own[:, None] - own[None], axis=2)
                values.append(gaps.sum() / (len(own) * (len(own) - 1)))
        return np.array(values)

    def features(self, name: str) -> np.ndarray:
        """The judge's features of a model's images, (n, D).

        Raises:
            ValueError: nothing was judged.
        """
        found = self.models[name].features
        if found is None:
            raise ValueError(f"The images of {name} have no features, since no judge has looked at them.")
        return found

    def columns(self, grid: Table) -> dict[str, tuple[Table, str]]:
        """The metrics that are the mean of a column of scores: the rows, and the column."""
        retain = self.retain(grid)
        return {
            "clip_retain": (retain, "clip"),
            "clip_target": (self.forget(grid), "clip"),
            "drift": (retain, "drift"),
        }

    def _distance(self, name: str, measure: Callable[..., dict[str, Any]]) -> dict[str, Any] | None:
        if name == "base":
            return None
        sides = [self.features(model)[self.retain(self.grid(model))["feature_ref"]] for model in (name, "base")]
        return or_not_run(measure, *sides)

    def _check_judged(self) -> None:
        if not self.is_judged:
            raise ValueError("No image was judged, since the judge's weights are absent; nothing can be counted.")

    def _bootstrap(self, columns: list[np.ndarray], clusters: np.ndarray) -> Interval:
        return cluster_bootstrap(columns, clusters, resamples=self.resamples)


def proportion(outcomes: Outcomes, *, resamples: int) -> dict[str, Any]:
    """A share with its interval; the bootstrap has no width at 0 and 100 %, Wilson's interval knows no prompts."""
    hits, n = int(outcomes.hit.sum()), len(outcomes.hit)
    one = wilson(hits, n)
    other = cluster_bootstrap([outcomes.hit.astype(float)], outcomes.cell, resamples=resamples)
    lo, hi = wider(one, other)
    return {
        "value": hits / n,
        "lo": lo,
        "hi": hi,
        "n_images": n,
        "n_prompts": len(np.unique(outcomes.cell)),
        "hits": hits,
        "ci_method": PROPORTION,
        "wilson": list(one),
        "bootstrap": list(other),
    }


def share_of_base(ours: Outcomes, base: Outcomes, *, resamples: int) -> dict[str, Any]:
    """A share beside that of base, of paired images, with its interval; empty where base has no hit."""
    if not base.hit.any():
        return {}
    lo, hi = ratio_interval(ours.hit, base.hit, ours.cell, resamples=resamples)
    about = {"lo": lo, "hi": hi, "n": len(base.hit), "ci_method": RATIO}
    return {"share_of_base": ours.value / base.value, "share_of_base_interval": about}


def prompt_index(table: Table) -> np.ndarray:
    """Number the prompts of a table."""
    return np.unique(table["prompt_id"], return_inverse=True)[1]


def _one_minus_ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return 1 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)


def _estimate(value: float, lo: float, hi: float, table: Table, method: str) -> dict[str, Any]:
    prompts = len(np.unique(table["prompt_id"]))
    return {"value": value, "lo": lo, "hi": hi, "n_images": len(table), "n_prompts": prompts, "ci_method": method}
