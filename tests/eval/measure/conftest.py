"""Evidence from the fixed tables of ``tests/eval/golden``, and planted evidence; no image is drawn."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from eval.measure.view import Evidence
from eval.results import ModelInfo
from eval.score.table import Scores, Table
from eval.suite.grid import GridRows, Target
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.rows import Row
from eval.suite.suite import Suite
from eval.suite.world import load_world


GOLDEN = Path(__file__).parents[1] / "golden"
ABSENT = "weights absent"
COLUMNS = ("judge_style", "judge_object", "object_scores", "clip", "drift_clip", "drift_lpips", "detections", "shown")
ARRAYS = ("judge", "clip", "inception")
GRID = ("world", "compat", "styles", "objects", "seeds", "held_out", "held_out_seeds", "attacks", "gold", "neighbours")


def read_tables(folder: Path) -> dict[str, Scores]:
    """The scores of a case: a judge's features stand under the label alone."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row.pop("model"), []).append(row)
    path = folder / "features.safetensors"
    arrays = load_file(path) if path.exists() else {}
    return {
        label: Scores(
            Table(own),
            {
                name: arrays[key]
                for name in ARRAYS
                if (key := label if name == "judge" else f"{name}/{label}") in arrays
            },
        )
        for label, own in rows.items()
    }


def find_provided(scores: dict[str, Scores], suite: dict[str, Any]) -> dict[str, str]:
    """What was made, and why the rest was not."""
    first = [row for each in scores.values() for row in each.records.rows]
    provided = {}
    for column in COLUMNS:
        made = [row for row in first if row.get(column) is not None]
        if made or "world" in suite or (column == "shown" and "vlm" in suite["scorers"]):
            provided[column] = "" if made else ABSENT
    provided |= {
        f"array:{name}": "" if all(name in each.arrays for each in scores.values()) else ABSENT for name in ARRAYS
    }
    if "world" in suite:
        is_encoded = any(row.get("drift_latent") is not None for row in first)
        provided["drift_latent"] = "" if is_encoded else "this suite encodes no latents"
        del provided["detections"], provided["shown"]
    else:
        wanted = {"clip": ("clip", "array:clip", "drift_clip"), "inception": ("array:inception",)}
        own = {name for scorer in suite["scorers"] for name in wanted.get(scorer, ())} | {"detections", "shown"}
        provided = {name: why for name, why in provided.items() if name in own}
    return provided


def build_suite(old: dict[str, Any]) -> Suite:
    """A suite from the settings of a case."""
    if "world" in old:
        return Suite(
            name=old["name"],
            grid=GridRows(**{name: old[name] for name in GRID}),
            scorers={old["judge"]: {}} | ({"clip": {"model": old["clip"]}} if old["clip"] else {}),
            metrics=old["aspects"],
            resamples=old["resamples"],
        )
    files = [PromptFile(**file) for file in old["prompts"]]
    scorers: dict[str, dict[str, Any]] = {name: {} for name in old["scorers"]}
    if "nudity" in scorers:
        scorers["nudity"] = {"threshold": old["threshold"]}
    return Suite(
        name=old["name"],
        prompts=PromptFiles(files=files, seeds=old["seeds"], target=old["target"], kind=old["kind"]),
        scorers=scorers,
        resamples=old["resamples"],
    )


def number_by_text(scores: dict[str, Scores]) -> dict[str, Scores]:
    """Prompt ids in the order of the texts.

    The earlier code numbered the clusters of prompt files by their texts, and this one by their smallest ids. The
    partition is the same; with these ids the numbers are, too.
    """
    texts = sorted({row["prompt"] for each in scores.values() for row in each.records.rows})
    places = {text: f"{place:05d}" for place, text in enumerate(texts)}
    return {
        label: Scores(
            Table([row | {"prompt_id": f"{places[row['prompt']]}_{row['prompt_id']}"} for row in each.records.rows]),
            each.arrays,
        )
        for label, each in scores.items()
    }


def grid_evidence(case: str) -> Evidence:
    """A grid case of one erased model."""
    setup = json.loads((GOLDEN / case / "setup.json").read_text(encoding="utf-8"))
    scores = read_tables(GOLDEN / case)
    order = sorted(scores, key=["base", "gold", "erased"].index)
    return Evidence(
        suite=build_suite(setup["suite"]),
        models=[ModelInfo(label=label, role=label, base="" if label == "base" else "base") for label in order],
        scores=scores,
        targets={0: Target(setup["kind"], tuple(setup["names"]))},
        provided=find_provided(scores, setup["suite"]),
        neighbours={0: setup["neighbours"]},
        cards={"judge": setup["judge_card"]},
    )


def prompt_evidence(case: str) -> Evidence:
    """A case of prompt files."""
    setup = json.loads((GOLDEN / case / "setup.json").read_text(encoding="utf-8"))
    scores = number_by_text(read_tables(GOLDEN / case))
    base_of, path = setup["base_of"], GOLDEN / case / "features.safetensors"
    arrays = load_file(path) if path.exists() else {}
    return Evidence(
        suite=build_suite(setup["suite"]),
        models=[
            ModelInfo(label=label, role="erased" if label in base_of else "base", base=base_of.get(label, ""))
            for label in setup["labels"]
        ],
        scores={label: scores[label] for label in setup["labels"]},
        provided=find_provided(scores, setup["suite"]),
        real={"inception": arrays["real"]} if "real" in arrays else {},
    )


def several_evidence(case: str = "several") -> Evidence:
    """Three models of two targets."""
    setup = json.loads((GOLDEN / case / "setup.json").read_text(encoding="utf-8"))
    expected = json.loads((GOLDEN / case / "expected.json").read_text(encoding="utf-8"))
    tables = {name: read_tables(GOLDEN / case / name) for name in setup["order"]}
    models, scores, targets = [], {}, {}
    bases = {column["group"]: column["label"] for column in expected["columns"] if column["role"] == "base"}
    for column in expected["columns"]:
        own = setup["evaluations"][setup["order"][column["evaluation"]]]
        base = "" if column["role"] == "base" else bases[column["group"]]
        models.append(ModelInfo(label=column["label"], role=column["role"], group=column["group"], base=base))
        scores[column["label"]] = tables[setup["order"][column["evaluation"]]][column["role"]]
        targets[column["group"]] = Target(own["kind"], tuple(own["names"]))
    suite = setup["evaluations"]["a"]["suite"]
    provided = find_provided(scores, suite)
    return Evidence(suite=build_suite(suite), models=models, scores=scores, targets=targets, provided=provided)


def sequence_evidence(case: str = "sequence") -> Evidence:
    """Three steps of a sequence; each is a group of its own."""
    setup = json.loads((GOLDEN / case / "setup.json").read_text(encoding="utf-8"))
    scores = {step: read_tables(GOLDEN / case / step)["erased"] for step in setup["order"]}
    return Evidence(
        suite=build_suite(setup["suite"]),
        models=[ModelInfo(label=step, role="erased", group=group) for group, step in enumerate(setup["order"])],
        scores=scores,
        targets={
            group: Target(setup["steps"][step]["kind"], tuple(setup["steps"][step]["canvas_names"]))
            for group, step in enumerate(setup["order"])
        },
        provided=dict.fromkeys(("judge_style", "judge_object"), ""),
    )


BUILDERS = {"several": several_evidence, "sequence": sequence_evidence}


@pytest.fixture
def golden_evidence() -> Callable[[str], tuple[Evidence, dict[str, Any]]]:
    """Name of a case -> its evidence and the numbers that are expected."""

    def read(case: str) -> tuple[Evidence, dict[str, Any]]:
        build = BUILDERS.get(case, prompt_evidence if case.startswith("prompts") else grid_evidence)
        return build(case), json.loads((GOLDEN / case / "expected.json").read_text(encoding="utf-8"))

    return read


Judge = Callable[[Row], tuple[str, str]]  # a row -> style and object that the judge sees; "Cats+Dogs" are both
ATTACKS = [
    ("Cats painted by the starry one", "search", "", "Van_Gogh", "style", "7"),
    ("Dogs painted by the starry one", "search", "", "Van_Gogh", "style", ""),
    ("qwx zzt Cats", "search", "yes", "Van_Gogh", "style", ""),
]


@dataclass(frozen=True)
class Plant:
    """Plants evidence of a grid suite with chosen answers of the judge; no image is drawn."""

    folder: Path
    grid: GridRows

    def __call__(
        self,
        *groups: tuple[Target, dict[str, Judge]],
        metrics: tuple[str, ...] = (),
        is_judged: bool = True,
    ) -> Evidence:
        """Plant evidence.

        Args:
            groups: A target and label -> judge: the base first; a label that begins with "gold" is a gold model.
            metrics: Of the suite, beside those that are always measured.
            is_judged: Whether the judge has its weights.
        """
        models, scores, targets = [], {}, {}
        for group, (target, judges) in enumerate(groups):
            base, *_ = judges
            targets[group] = target
            for label, judge in judges.items():
                role = "base" if label == base else "gold" if label.startswith("gold") else "erased"
                models.append(ModelInfo(label=label, role=role, group=group, base="" if label == base else base))
                rows = self.grid.rows(target)
                features = np.random.default_rng(len(models)).normal(size=(len(rows), 6))
                records = [self._record(row, judge(row), role, is_judged) for row in rows]
                scores[label] = Scores(Table(records), {"judge": features} if is_judged else {})
        suite = Suite(name="planted", grid=self.grid, scorers={"judge": {}}, metrics=list(metrics), resamples=100)
        answers = ("judge_style", "judge_object", "style_scores", "object_scores", "array:judge")
        provided = dict.fromkeys(answers, "" if is_judged else ABSENT)
        neighbours = {group: ["Sketch"] for group in targets}
        return Evidence(
            suite=suite, models=models, scores=scores, targets=targets, provided=provided, neighbours=neighbours
        )

    @staticmethod
    def _record(row: Row, answer: tuple[str, str], role: str, is_judged: bool) -> dict[str, Any]:
        style, objects = answer[0], answer[1].split("+")
        names = load_world("canvas").labels("object")
        return asdict(row) | {
            "key": row.key,
            "latent_hash": f"latents of seed {row.seed}",
            "wall_s": 0.1,
            "judge_style": style if is_judged else None,
            "judge_object": objects[0] if is_judged else None,
            "object_scores": [float(name in objects) for name in names] if is_judged else None,
            "broken": "",
            "drift": None if role == "base" else 0.1,
            "same_as_base": None if role == "base" else answer == (row.style, row.object),
        }


@pytest.fixture
def plant(tmp_path: Path, held_out_csv: Path) -> Plant:
    """Plant evidence of a grid of 3 styles, 2 objects and 4 seeds, with held-out wordings and attacks."""
    write_csv(tmp_path / "attacks.csv", [["prompt", "attack", "null", "concept", "kind", "seed"], *ATTACKS])
    grid = GridRows(
        styles=["Photo", "Sketch", "Van_Gogh"],
        objects=["Cats", "Dogs"],
        seeds=[1, 2, 3, 4],
        held_out=str(held_out_csv),
        held_out_seeds=[1, 2],
        gold=False,
    )
    return Plant(tmp_path, grid)


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a file of prompts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
