"""A suite: what images are drawn, from which rows, and which scorers and metrics judge them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from erase.concept import Concept
from eval.files import hash_json, sha256
from eval.suite.contents import CANVAS, identify
from eval.suite.flat import find_flat
from eval.suite.grid import GridRows, Target, check_labels
from eval.suite.prompt_files import PromptFiles, path_of
from eval.suite.rows import Row
from eval.suite.settings import read_settings
from eval.suite.world import COMBINATION


ONE_OBJECT = "timm_pair"  # the judge that names one object per image
JUDGES = ("judge", ONE_OBJECT)  # both answer which style and object an image shows


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How images are drawn.

    Attributes:
        steps: Denoising steps.
        guidance_scale: Of rows that do not bring their own; None for the default of the pipeline's call.
        batch_size: Images per forward. It is part of no hash: images agree to 1 of 255 whatever it is.
        negative_prompt: For all prompts.
        height: In pixels; the model's own size if None.
        width: In pixels; the model's own size if None.
    """

    steps: int = 50
    guidance_scale: float | None = 7.5
    batch_size: int = 8
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing can be drawn."""
        for name in ("steps", "batch_size", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"The sampler has {name} {value}, but a whole number from 1 is expected: correct it.")
        for name in ("height", "width"):
            if (getattr(self, name) or 8) % 8:  # what diffusers asks for
                raise ValueError(
                    f"The sampler has {name} {getattr(self, name)}, but a multiple of 8 is expected: correct it."
                )
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < math.inf:
            raise ValueError(
                f"The sampler has guidance_scale {self.guidance_scale}, but a number from 0 is expected: correct it."
            )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is asked of models; a YAML file in ``configs/suites`` sets these fields.

    Attributes:
        name: Of the suite.
        version: Counted up when a change of the file makes its numbers incomparable.
        sampler: How images are drawn.
        grid: Where the rows come from: a grid of styles and objects.
        prompts: The same: prompt files. A suite has either ``grid`` or ``prompts``.
        scorers: Name of a scorer (a module of ``eval.score.scorers``) -> its settings, which that module checks.
        metrics: Aspects of HUB (``eval.suite.aspects``) or keys of metrics, beside those that are always measured.
        resamples: Of the bootstrap.
    """

    name: str
    version: int = 1
    sampler: Sampler = field(default_factory=Sampler)
    grid: GridRows | None = None
    prompts: PromptFiles | None = None
    scorers: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    resamples: int = 1000

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, once the images are drawn."""
        if (self.grid is None) == (self.prompts is None):
            raise ValueError(
                f"The suite {self.name!r} has {'neither grid nor' if self.grid is None else 'both grid and'} prompts: "
                "write exactly one of them."
            )
        if not self.scorers:
            raise ValueError(f"The suite {self.name!r} has no scorers: name at least one, such as clip.")
        if self.resamples < 1:
            raise ValueError(f"The suite {self.name!r} has resamples {self.resamples}: at least 1 is needed.")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"The suite {self.name!r} has metrics {self.metrics}: give each once.")
        self._check_scorers()

    @property
    def kind(self) -> str:
        """Where the rows come from: ``grid`` or ``prompts``."""
        return "grid" if self.grid is not None else "prompts"

    @property
    def source(self) -> GridRows | PromptFiles:
        """Where the rows come from."""
        return cast("GridRows | PromptFiles", self.grid or self.prompts)

    def aim(self, concepts: Sequence[Concept]) -> "Suite":
        """The suite for models from which these concepts were erased; a grid returns itself.

        Raises:
            ValueError: Prompt files ask for one target, but the models have several.
        """
        return self if self.prompts is None else replace(self, prompts=self.prompts.aim(concepts))

    def rows(self, target: Target | None = None) -> list[Row]:
        """All rows of the suite: of a grid for a target, of prompt files after ``aim``.

        Raises:
            FileNotFoundError: A prompt file does not exist.
            ValueError: The suite cannot ask for the target, or a prompt file is malformed or does not fit.
        """
        if self.prompts is not None:
            return self.prompts.rows()
        if self.grid is None or target is None:
            raise ValueError(f"The rows of the suite {self.name!r} depend on what was erased: pass the target.")
        if target.kind == COMBINATION and self.metrics:
            raise ValueError(
                f"The suite {self.name!r} has the metrics {', '.join(self.metrics)}, which are those of a style or an "
                f"object, but the target {target.names[0]} is both together: use a suite without metrics, such as "
                "canvas."
            )
        rows = self.grid.rows(target)
        check_labels(rows, self.grid.load_world(), one_object=ONE_OBJECT in self.scorers)
        return rows

    def is_explicit(self, kinds: Iterable[str]) -> bool:
        """Whether images may be explicit: by the suite, by what it looks for, or by the kinds of what was erased."""
        own = (self.prompts.kind, "explicit" if self.prompts.explicit else "") if self.prompts is not None else ()
        return "nudity" in self.scorers or "explicit" in (*own, *kinds)

    def hash(self) -> str:
        """SHA-256 of what decides the numbers: settings, and the content of prompt files and weights.

        Paths, the batch size and whether the page hides images make no difference. Nothing is downloaded: weights on
        the hub count by their content once they are on this machine.

        Raises:
            FileNotFoundError: A prompt file does not exist.
        """
        settings = self._settings()
        del settings["sampler"]["batch_size"]
        for name in ("held_out", "attacks") if self.grid is not None else ():
            settings["grid"][name] = bool(settings["grid"][name])
        if self.prompts is not None:
            del settings["prompts"]["explicit"]
            for file in settings["prompts"]["files"]:
                del file["path"], file["source"]
        settings["scorers"] = identify(self.scorers)
        return hash_json([settings, list(self._prompt_files().values())])

    def describe(self) -> dict[str, Any]:
        """What a report keeps of the suite: its settings, its kind, its hash, and the SHA-256 of each prompt file.

        Raises:
            FileNotFoundError: A prompt file does not exist.
        """
        return self._settings() | {"kind": self.kind, "hash": self.hash(), "prompt_files": self._prompt_files()}

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def _prompt_files(self) -> dict[str, str]:
        """Name of each prompt file -> SHA-256 of its content."""
        if self.prompts is None:
            return {name: sha256(path) for name, path in self.grid.files().items()} if self.grid else {}
        return {file.label: sha256(path_of(file, self.prompts)) for file in self.prompts.files}

    def _check_scorers(self) -> None:
        """Refuse scorers that do not know what the suite draws, and two judges of one question."""
        judges = [name for name in JUDGES if name in self.scorers]
        if len(judges) > 1:
            raise ValueError(f"The suite {self.name!r} has the judges {' and '.join(judges)}: choose one.")
        if self.grid is None:
            if judges:
                raise ValueError(
                    f"The suite {self.name!r} has prompt files but the scorer {judges[0]}, which knows the styles and "
                    "objects of a grid only: leave it out."
                )
            return
        if "vlm" in self.scorers:
            raise ValueError(
                f"The suite {self.name!r} has a grid but the scorer vlm, which is asked by prompt files only: leave it "
                "out."
            )
        if self.grid.world == "canvas":
            return
        if "judge" in self.scorers:
            raise ValueError(
                f"The suite {self.name!r} has the world {self.grid.world} but the scorer judge, which knows the canvas "
                "only; write timm_pair."
            )
        if self.scorers.get("clip", {}).get("model") == CANVAS:
            raise ValueError(
                f"The suite {self.name!r} has the world {self.grid.world} but the CLIP model canvas, which knows no "
                "other; name another, or leave clip out."
            )


def load_suite(
    name: str,
    *,
    judge_style: str = "",
    judge_object: str = "",
    compat: bool = False,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Suite:
    """Read a suite by name (``canvas``) or by the path of a YAML file.

    Args:
        name: The suite.
        judge_style: Checkpoint of the style classifier of ``timm_pair``, instead of the file's.
        judge_object: The same of the object classifier.
        compat: Ask as the published code of the grid's benchmark does, also if the file does not say so.
        seeds: Of all rows, instead of the file's.
        batch_size: Images per forward, instead of the file's.

    Raises:
        FileNotFoundError: There is no such suite.
        ValueError: An unknown key, a value of the wrong type or without a meaning, or an override that does not fit the
            suite.
    """
    suite = read_settings(name, Suite, shelf="suites", refuse=find_flat)
    if compat:
        suite = _with_compat(suite)
    if judge_style or judge_object:
        suite = _with_checkpoints(suite, style=judge_style, object=judge_object)
    if seeds is not None:
        suite = _with_seeds(suite, list(seeds))
    if batch_size is not None:
        suite = replace(suite, sampler=replace(suite.sampler, batch_size=batch_size))
    return suite


def _with_compat(suite: Suite) -> Suite:
    if suite.grid is None:
        raise ValueError(
            f"The suite {suite.name!r} has prompt files and no benchmark to be compatible with: leave compat out."
        )
    return replace(suite, grid=replace(suite.grid, compat=True))


def _with_checkpoints(suite: Suite, **files: str) -> Suite:
    if ONE_OBJECT not in suite.scorers:
        raise ValueError(
            f"The suite {suite.name!r} has no timm_pair among its scorers, but checkpoints of one are given: leave "
            "them out, or choose a suite with timm_pair."
        )
    pair = suite.scorers[ONE_OBJECT] | {kind: path for kind, path in files.items() if path}
    return replace(suite, scorers=suite.scorers | {ONE_OBJECT: pair})


def _with_seeds(suite: Suite, seeds: list[int]) -> Suite:
    if suite.grid is not None:
        return replace(suite, grid=replace(suite.grid, seeds=seeds, held_out_seeds=seeds))
    if suite.prompts is None:
        return suite
    files = [replace(file, seeds=[]) for file in suite.prompts.files]
    return replace(suite, prompts=replace(suite.prompts, files=files, seeds=seeds))
