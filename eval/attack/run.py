"""Attack an erased model: search, draw, judge, and report the success beside that of nulls with the same budget.

Stages talk through files, so that a stopped attack goes on where it was: the base's states (``states.safetensors``),
the result of the search for each prompt (``search/``), images and manifests (``base/``, ``erased/``), what all of it
cost (``cost.json``), ``scores.jsonl``, and ``attack.json`` with all numbers beside ``sheet.png``.

For every prompt and seed the attack and each of its nulls draw ``tries`` images; a prompt falls if one of them shows
the target. A budget is therefore a number of images, and every try of a search that optimises is a search of its own.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from erase.artifact.folder import versions
from erase.model.delta import only_trainable
from erase.model.diffusion import family
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.prompts import find_data, read_prompts
from erase.training.run import Run
from eval.attack import attempt, objective
from eval.attack.attacks.seeds import other_seeds
from eval.attack.attempt import Attempt, Tries
from eval.attack.book import Book
from eval.attack.config import AttackConfig, attack_params, load_module
from eval.attack.judge import ANSWER, find_judge
from eval.attack.outcome import ATTACKED, BEFORE, SEEDS, Entry, compute_outcome, prompt_records, shows_target
from eval.attack.record import AttackRecord, write_attack
from eval.attack.sheet import Tile, write_sheet
from eval.draw import manifest
from eval.draw.drawn import Drawn
from eval.draw.generate import generate, process_state
from eval.files import hash_json
from eval.models import subject
from eval.models.fingerprint import Fingerprint, fingerprint
from eval.models.subject import Subject
from eval.models.text_to_image import drawing_dtype, find_guidance
from eval.score.run import Scorers, load_scorers, score_all
from eval.score.scorers_of import with_scorers_of
from eval.score.table import Scores, Table, write_scores
from eval.suite.grid import Target, find_target, grid_rows
from eval.suite.rows import Row
from eval.suite.suite import Suite


STATES, SHEET = "states.safetensors", "sheet.png"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to attack.

    Attributes:
        prompts: A CSV of prompts that ask for the target, instead of the suite's grid; a seed in it counts.
        seed: All randomness of the search derives from it.
        device: Where models that this module loads run.
        dtype: Of models that this module loads.
        progress: Show progress bars.
        command: How to repeat this, kept in ``attack.json``.
    """

    prompts: str = ""
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    progress: bool = True
    command: str = ""


def attack(
    tested: Subject,
    config: AttackConfig,
    suite: Suite,
    out: Path,
    options: Options | None = None,
    *,
    scorers: Scorers | None = None,
) -> Path:
    """Attack one erased model and write ``attack.json`` and ``sheet.png``.

    Args:
        tested: The erased model and its base.
        config: The attack.
        suite: Gives the prompts, the sampler and the judge.
        out: Folder for everything; a stopped attack in it is continued.
        options: How to attack.
        scorers: Instead of the suite's judge.

    Returns:
        The path of ``attack.json``.

    Raises:
        FileNotFoundError: A folder or a file is missing.
        ValueError: A setting is wrong, the model cannot be attacked this way, or ``out`` holds another attack.
    """
    if process_state().num_processes > 1:
        raise ValueError("An attack runs in one process: start it without accelerate launch or torchrun.")
    if suite.grid is None:
        raise ValueError(
            f"The suite {suite.name!r} has prompt files, but an attack needs a grid and its judge: name a suite with "
            "a grid."
        )
    options = options or Options()
    target = find_target(tested.concept.target, tested.concept.kind, suite.grid.load_world())
    rows = target_rows(suite, target, config.seeds, options.prompts)
    scorers = scorers or load_scorers(with_scorers_of(suite, ANSWER), device=options.device)
    if scorers.provided.get(ANSWER) != "":
        raise ValueError(
            f"The suite {suite.name!r} has no weights of its judge, without which no attack succeeds or fails: give "
            "--judge-style and --judge-object."
        )
    work = _Work(tested=tested, target=target, config=config, suite=suite, rows=rows, out=out, options=options)
    return work.run(scorers)


def target_rows(suite: Suite, target: Target, seeds: Sequence[int], prompts: str = "") -> list[Row]:
    """The prompts to attack: those cells of the suite's grid that ask for the target, or those of a CSV.

    Raises:
        FileNotFoundError: There is no such CSV.
        ValueError: The grid does not hold the target, or the CSV is malformed.
    """
    if prompts:
        lines = read_prompts(find_data(prompts, within="prompts", suffix=".csv"))
        return [
            Row(prompt_id=f"prompt_{line.id}", prompt=line.prompt, seed=seed)
            for line in lines
            for seed in ([line.seed] if line.seed is not None else seeds)
        ]
    cells = grid_rows(*suite.grid.axes, seeds, target, world=suite.grid.load_world()) if suite.grid else []
    rows = [row for row in cells if row.role == "target"]
    if not rows:
        raise ValueError(f"The suite {suite.name!r} has no prompt that asks for {', '.join(target.names)}.")
    return [replace(row, role="") for row in rows]


def check_attackable(pipe: DiffusionPipeline, *, white_box: bool) -> None:
    """Refuse a pipeline with code of its own: what it does with a prompt has no gradient, and embeddings pass it by.

    Raises:
        ValueError: It has code of its own. UnGuide's is followed, and seed search works on every pipeline.
    """
    stock = type(pipe).__module__.startswith("diffusers.pipelines.")
    if white_box and not stock and not isinstance(pipe, UnGuidePipeline):
        raise ValueError(
            f"The pipeline is a {type(pipe).__name__}, whose own code may change a prompt, and gradients do not know "
            "of that: use the attack 'seeds'."
        )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The stages of one attack, each of which leaves files."""

    tested: Subject
    target: Target
    config: AttackConfig
    suite: Suite
    rows: Sequence[Row]
    out: Path
    options: Options

    def run(self, scorers: Scorers) -> Path:
        """Do what is not done yet; returns the path of ``attack.json``."""
        options, tested = self.options, self.tested
        base_mark, states = self._prepare(subject.open_base(tested, device=options.device, dtype=options.dtype))
        pipe = subject.open_erased(tested, device=options.device, dtype=options.dtype)
        mark, dtype = fingerprint(pipe), drawing_dtype(pipe)
        tries = self._search(pipe, mark, states)
        entries = self._list_entries(tries)
        self._draw(pipe, mark, entries)
        del pipe  # the judge needs the memory
        tables = self._score(entries, {"base": base_mark, "erased": mark}, scorers)
        record = AttackRecord(
            attack=asdict(self.config) | {"null": load_module(self.config).NULL},
            suite=self.suite.describe(),
            concept={
                "target": list(tested.concept.target),
                "anchor": tested.concept.anchor,
                "kind": tested.concept.kind,
                "names": list(self.target.names),
            },
            models={"erased": mark.model, "base": base_mark.model},
            outcome=compute_outcome(tables, self.target, resamples=self.suite.resamples),
            prompts=prompt_records(entries, tries, self._costs(), tables, self.target),
            cost=self._cost(),
            provenance=self._provenance(dtype, scorers),
            reproduce=options.command,
        )
        self._write_sheet(entries, tables)
        return write_attack(self.out, record)

    def _prepare(self, base: DiffusionPipeline) -> tuple[Fingerprint, dict[str, objective.States] | None]:
        """Draw the prompts with the base and, for an attack with gradients, keep its states on the way to them."""
        module, path, sampler = load_module(self.config), self.out / STATES, self.suite.sampler
        params, prompts = attack_params(self.config), [row.prompt for row in self.rows]
        if module.WHITE_BOX:  # refuse it now, not after an hour
            family(base)
            for prompt in prompts:
                objective.check_white_box(base, prompt, params.tokens)
        mark = fingerprint(base)
        manifest.write_settings(self.out, self._settings(mark))
        if module.WHITE_BOX and not path.exists():
            run = self._new_run(base)
            with self._book.measure("states", base, run), only_trainable(base, {}):
                states = objective.draw_states(
                    base,
                    prompts,
                    trajectories=params.trajectories,
                    num_inference_steps=sampler.steps,
                    guidance_scale=cast(float, find_guidance(base, sampler.guidance_scale)),
                    run=run,
                )
            objective.save_states(path, states)
        self._generate(base, mark, self.rows, "base", stage="images of base")
        return mark, objective.load_states(path, prompts, device=base.device) if module.WHITE_BOX else None

    def _search(
        self, pipe: DiffusionPipeline, mark: Fingerprint, states: Mapping[str, objective.States] | None
    ) -> dict[str, Tries]:
        """Search prompt by prompt; a result that is there already is read."""
        module, folder = load_module(self.config), self.out / "search"
        check_attackable(pipe, white_box=module.WHITE_BOX)
        manifest.write_settings(folder, {"model_hash": mark.model})
        tries: dict[str, Tries] = {}
        bar = tqdm(self.rows, desc=f"attack {self.config.attack}", unit="prompt", disable=not self.options.progress)
        for row in bar:
            path, run = folder / f"{row.key}.safetensors", self._new_run(pipe)
            if not path.exists():
                with self._book.measure(_stage(row), pipe, run), only_trainable(pipe, {}):
                    result = module.search(
                        pipe,
                        row,
                        attack_params(self.config),
                        states=states[row.prompt] if states else None,
                        tries=self.config.tries,
                        batch_size=self.suite.sampler.batch_size,
                        run=run,
                    )
                attempt.save(path, result)
            tries[row.key] = attempt.load(path)
        return tries

    def _list_entries(self, tries: Mapping[str, Tries]) -> list[Entry]:
        """Every image of the erased model: before the attack, then of the attack and of each null."""
        module, seeds = load_module(self.config), Run(seed=self.options.seed)
        entries: list[Entry] = []
        for row in self.rows:
            own = tries[row.key]
            arms = {BEFORE: [Attempt(row.prompt, row.seed)], ATTACKED: own.attack, module.NULL: own.null}
            if module.WHITE_BOX:
                arms[SEEDS] = [Attempt(row.prompt, seed) for seed in other_seeds(row, self.config.tries, seeds)]
            entries += [Entry(row, arm, place, each) for arm, some in arms.items() for place, each in enumerate(some)]
        return entries

    def _draw(self, pipe: DiffusionPipeline, mark: Fingerprint, entries: Sequence[Entry]) -> None:
        """Draw all images with the erased model."""
        prefixes = {entry.to_row().key: entry.attempt.prefix for entry in entries if entry.attempt.prefix is not None}
        rows = [entry.to_row() for entry in entries]
        self._generate(pipe, mark, rows, "erased", stage="images", prefixes=prefixes)

    def _score(self, entries: Sequence[Entry], marks: Mapping[str, Fingerprint], scorers: Scorers) -> dict[str, Table]:
        """Judge all images, and write the tables; a row of the erased model says which prompt it attacks, and how."""
        scorers.open()
        rows = {0: self.rows, 1: [entry.to_row() for entry in entries]}  # other rows, so another group
        drawn = [
            Drawn(label=label, role=label, base="", folder=self.out / label, fingerprint=marks[label], group=group)
            for group, label in enumerate(("base", "erased"))
        ]
        scores = score_all(drawn, rows, scorers)
        attacked = [
            record | {"attacked": entry.row.key, "arm": entry.arm, "attempt_index": entry.number}
            for record, entry in zip(scores["erased"].records.rows, entries, strict=True)
        ]
        scores = {"base": scores["base"], "erased": Scores(Table(attacked), scores["erased"].arrays)}
        write_scores(self.out, scores)
        return {label: each.records for label, each in scores.items()}

    def _write_sheet(self, entries: Sequence[Entry], tables: Mapping[str, Table]) -> None:
        """Show base, before, attack and nulls of each prompt: of several tries the first hit, or else the first."""
        shows = shows_target(tables["erased"], self.target).tolist()
        arms = list(dict.fromkeys(entry.arm for entry in entries))
        lines = []
        for row, hit in zip(self.rows, shows_target(tables["base"], self.target).tolist(), strict=True):
            tiles = [Tile(self.out / "base" / "images" / f"{row.key}.png", hit)]
            for arm in arms:
                own = [
                    Tile(self.out / "erased" / "images" / f"{entry.to_row().key}.png", shown)
                    for entry, shown in zip(entries, shows, strict=True)
                    if entry.row.key == row.key and entry.arm == arm
                ]
                tiles.append(next((tile for tile in own if tile.hit), own[0]))
            lines.append((row.prompt, tiles))
        write_sheet(self.out / SHEET, ["base", *arms], lines)

    @property
    def _book(self) -> Book:
        return Book(self.out)

    def _costs(self) -> dict[str, dict[str, float]]:
        """Key of a prompt -> cost of its searches."""
        return {row.key: self._book.cost(_stage(row)) for row in self.rows}

    def _cost(self) -> dict[str, Any]:
        """The cost of each stage, stopped work included; forwards and backwards in samples."""
        book, searches = self._book, [_stage(row) for row in self.rows]
        stages = ["images of base", "images"]
        stages = ["states", *stages] if load_module(self.config).WHITE_BOX else stages
        return {
            "search": book.cost(*searches),
            **{stage: book.cost(stage) for stage in stages},
            "peak_memory_bytes": book.peak_memory(*searches),
        }

    def _generate(
        self,
        pipe: DiffusionPipeline,
        mark: Fingerprint,
        rows: Sequence[Row],
        name: str,
        *,
        stage: str,
        prefixes: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        with self._book.measure(stage, pipe, self._new_run(pipe)):
            generate(
                pipe,
                rows,
                self.out / name,
                self.suite.sampler,
                fingerprint=mark,
                prefixes=prefixes,
                label=f"images of {name}",
                progress=self.options.progress,
            )

    def _new_run(self, pipe: DiffusionPipeline) -> Run:
        quiet = not self.options.progress
        return Run(seed=self.options.seed, device=pipe.device, dtype=drawing_dtype(pipe), quiet=quiet)

    def _settings(self, base: Fingerprint) -> dict[str, Any]:
        """What a stopped attack must agree with to go on."""
        return {
            **asdict(self.config),
            "seed": self.options.seed,
            "suite": self.suite.hash(),
            "prompts": hash_json([asdict(row) for row in self.rows]),
            "base": base.model,
        }

    def _provenance(self, dtype: torch.dtype, scorers: Scorers) -> dict[str, Any]:
        card = self.tested.card
        return {
            "source": self.tested.name,
            "method": card.get("method"),
            "base": card.get("base", {"id": self.tested.base_name}),
            "seed": self.options.seed,
            "dtype": str(dtype).removeprefix("torch."),
            "judge": scorers.cards()[find_judge(scorers.loaded)],
            "versions": versions(),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }


def _stage(row: Row) -> str:
    """The stage of ``cost.json`` in which the prompt of a row is searched."""
    return f"search {row.key}"
