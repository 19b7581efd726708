"""Attack an erased model: search, draw, judge, and report the success beside that of nulls with the same budget.

Stages talk through files, so that a stopped attack goes on where it was: the base's states (``states.safetensors``),
what was found for each prompt (``search/``), images and manifests (``base/``, ``erased/``), ``scores.jsonl``, and
``attack.json`` with all numbers beside ``sheet.png``.

For every prompt and seed the attack and each of its nulls draw ``tries`` images; a prompt falls if one of them shows
the target. A budget is therefore a number of images, and every try of a search that optimises is a search of its own.
"""

import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from erase.artifact.folder import versions
from erase.concept import Concept
from erase.model.delta import only_trainable
from erase.model.diffusion import family
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.prompts import find_data, read_prompts
from erase.training.run import Run
from eval.attack import attempt, objective
from eval.attack.attack_report import ATTACK, BEFORE, SEEDS, Entry, prompt_records, report, shows_target
from eval.attack.attacks.seeds import other_seeds
from eval.attack.attempt import Attempt, Found
from eval.attack.searched import SCHEMA_VERSION
from eval.attack.sheet import Tile, write_sheet
from eval.draw import manifest
from eval.draw.generate import generate, process_state
from eval.files import write_json
from eval.models import subject
from eval.models.fingerprint import fingerprint, hash_json
from eval.models.text_to_image import find_guidance
from eval.score.scoring import Scorers, load_scorers, score
from eval.score.table import Table, write_scores
from eval.suite.config import (
    AttackConfig,
    SuiteConfig,
    attack_params,
    describe_suite,
    load_attack,
    load_module,
    load_suite,
)
from eval.suite.grid import Target, find_target, grid_rows
from eval.suite.rows import Row


COSTS = ("seconds", "unet_forwards", "unet_backwards")


def attack(
    source: Path | DiffusionPipeline,
    config: str | AttackConfig,
    suite: str | SuiteConfig,
    out: Path,
    *,
    prompts: str = "",
    base: str | DiffusionPipeline | None = None,
    concept: Concept | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    scorers: Scorers | None = None,
    progress: bool = True,
    command: str = "",
) -> Path:
    """Attack one erased model and write ``attack.json`` and ``sheet.png``.

    Args:
        source: an artefact folder, any diffusers folder, or a loaded pipeline.
        config: a name in ``configs/attacks``, a YAML file, or the configuration itself.
        suite: for the prompts, the sampler's settings and the judge: a name in ``configs/suites``, a YAML file, ...
        out: folder for everything; a stopped attack in it is continued.
        prompts: a CSV of prompts that ask for the target, in the place of the suite's grid; a seed in it counts.
        base: the model before the erasure; by default what ``erasure.json`` says.
        concept: what was erased; by default what ``erasure.json`` says.
        seed: all randomness of the search derives from it.
        device: where models that this function loads run.
        dtype: of models that this function loads.
        scorers: instead of the suite's judge.
        progress: show progress bars.
        command: how to repeat this, kept in ``attack.json``.

    Returns:
        The path of ``attack.json``.

    Raises:
        FileNotFoundError: a folder or a file is missing.
        ValueError: a setting is wrong, the model cannot be attacked this way, or ``out`` holds another attack.
    """
    if process_state().num_processes > 1:
        raise ValueError("An attack runs in one process: start it without accelerate launch or torchrun.")
    suite = suite if isinstance(suite, SuiteConfig) else load_suite(suite)
    config = config if isinstance(config, AttackConfig) else load_attack(config)
    tested = subject.describe(source, concept=concept, base=base)
    target = find_target(tested.concept.target, tested.concept.kind, suite.load_world())
    rows = target_rows(suite, target, config.seeds, prompts)
    scorers = scorers or load_scorers(replace(suite, clip="", lpips="", inception=""), device=device)
    if scorers.classifier is None:
        raise ValueError(
            f"The suite {suite.name!r} has no weights of its judge, without which no attack succeeds or fails: give "
            "--judge-style and --judge-object."
        )
    work = _Work(config, suite, rows, out, seed, progress)
    base_hash, states = work.prepare(subject.open_base(tested, device=device, dtype=dtype))
    pipe = subject.open_erased(tested, device=device, dtype=dtype)
    entries, spent = work.search(pipe, states)
    model_hash = work.draw(pipe, entries)
    tables = {
        "base": score(out / "base", rows, scorers, tau=suite.tau),
        "erased": score(out / "erased", [entry.to_row() for entry in entries], scorers, tau=suite.tau),
    }
    erased = Table(
        [
            {**scored, "attacked": entry.row.key, "arm": entry.arm, "attempt_index": entry.number}
            for scored, entry in zip(tables["erased"].table.rows, entries, strict=True)
        ]
    )
    scores = {"base": tables["base"].table, "erased": erased}
    write_scores(out / "scores.jsonl", scores)
    content = {
        "schema_version": SCHEMA_VERSION,
        "attack": asdict(config) | {"null": load_module(config).NULL},
        "suite": describe_suite(suite),
        "concept": asdict(tested.concept) | {"canvas_names": list(target.names)},
        "models": {"erased": model_hash, "base": base_hash},
        **report(scores, target, resamples=suite.resamples),
        "prompts": prompt_records(rows, entries, spent, scores, target),
        "cost": work.cost(spent),
        "provenance": {
            "source": tested.name,
            "method": tested.card.get("method"),
            "base": tested.card.get("base", {"id": tested.base_name}),
            "seed": seed,
            "dtype": str(pipe.unet.dtype).removeprefix("torch."),
            "judge": dict(vars(scorers.classifier.judge).get("card", {})),
            "versions": versions(),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        "reproduce": command,
    }
    _sheet(out, rows, entries, scores, target)
    write_json(out / "attack.json", content)
    return out / "attack.json"


def target_rows(suite: SuiteConfig, target: Target, seeds: Sequence[int], prompts: str = "") -> list[Row]:
    """The prompts to attack: those cells of the suite's grid that ask for the target, or those of a CSV.

    Raises:
        FileNotFoundError: no such CSV.
        ValueError: the grid does not hold the target, or the CSV is malformed.
    """
    if prompts:
        lines = read_prompts(find_data(prompts, within="prompts", suffix=".csv"))
        return [
            Row(prompt_id=f"prompt_{line.id}", prompt=line.prompt, seed=seed)
            for line in lines
            for seed in ([line.seed] if line.seed is not None else seeds)
        ]
    styles, objects = suite.axes
    rows = [row for row in grid_rows(styles, objects, seeds, target, world=suite.load_world()) if row.role == "target"]
    if not rows:
        raise ValueError(f"The suite {suite.name!r} has no prompt that asks for {', '.join(target.names)}.")
    return [replace(row, role="") for row in rows]


class _Work(NamedTuple):
    """The stages that need a model, each of which leaves files."""

    config: AttackConfig
    suite: SuiteConfig
    rows: list[Row]
    out: Path
    seed: int
    progress: bool

    def prepare(self, base: DiffusionPipeline) -> tuple[str, dict[str, objective.States] | None]:
        """Draw the prompts with the base and, for an attack with gradients, keep its states on the way to them."""
        family(base)
        base_hash = fingerprint(base).model
        manifest.write_settings(self.out, self._settings(base_hash))
        module, path, device = load_module(self.config), self.out / "states.safetensors", base.device
        prompts = [row.prompt for row in self.rows]
        if module.WHITE_BOX and not path.exists():
            with self._booked("states", base) as run, only_trainable(base, {}):
                states = objective.draw_states(
                    base,
                    prompts,
                    trajectories=attack_params(self.config).trajectories,
                    num_inference_steps=self.suite.num_inference_steps,
                    guidance_scale=cast(float, find_guidance(base, self.suite.guidance_scale)),
                    run=run,
                )
                objective.save_states(path, states)
        with self._booked("images of base", base):
            self._generate(base, self.rows, "base")
        return base_hash, objective.load_states(path, prompts, device=device) if module.WHITE_BOX else None

    def search(
        self, pipe: DiffusionPipeline, states: dict[str, objective.States] | None
    ) -> tuple[list[Entry], dict[str, Found]]:
        """Search prompt by prompt; what is there already is read."""
        module, folder = load_module(self.config), self.out / "search"
        check_attackable(pipe, white_box=module.WHITE_BOX)
        manifest.write_settings(folder, {"model_hash": fingerprint(pipe).model})
        entries: list[Entry] = []
        spent: dict[str, Found] = {}
        for row in tqdm(self.rows, desc=f"attack {self.config.attack}", unit="prompt", disable=not self.progress):
            path, run = folder / f"{row.key}.safetensors", self._run(pipe)
            if not path.exists():
                with run.measure(pipe.unet), only_trainable(pipe, {}):
                    found = module.search(
                        pipe,
                        row,
                        attack_params(self.config),
                        states=states[row.prompt] if states else None,
                        tries=self.config.tries,
                        batch_size=self.suite.batch_size,
                        run=run,
                    )
                attempt.save(path, found._replace(cost=run.summary()))
            spent[row.key] = found = attempt.load(path)
            arms = {BEFORE: [Attempt(row.prompt, row.seed)], ATTACK: found.attack, module.NULL: found.null}
            if module.WHITE_BOX:
                arms[SEEDS] = [Attempt(row.prompt, each) for each in other_seeds(row, self.config.tries, run)]
            entries += [Entry(row, arm, place, each) for arm, tries in arms.items() for place, each in enumerate(tries)]
        return entries, spent

    def draw(self, pipe: DiffusionPipeline, entries: list[Entry]) -> str:
        """Draw all images with the erased model; returns its hash."""
        prefixes = {entry.to_row().key: entry.attempt.prefix for entry in entries if entry.attempt.prefix is not None}
        with self._booked("images", pipe):
            self._generate(pipe, [entry.to_row() for entry in entries], "erased", prefixes=prefixes)
        return fingerprint(pipe).model

    def cost(self, spent: dict[str, Found]) -> dict[str, Any]:
        """What each stage took, a continued attack's earlier parts included; forwards and backwards in samples."""
        searched = [found.cost for found in spent.values()]
        sums = {key: sum(each[key] for each in searched) for key in COSTS}
        peaks = [each["peak_memory_bytes"] for each in searched if each["peak_memory_bytes"] is not None]
        booked = json.loads(self._book.read_text(encoding="utf-8"))
        return {"search": sums, **booked, "peak_memory_bytes": max(peaks, default=None)}

    @property
    def _book(self) -> Path:
        return self.out / "cost.json"

    @contextmanager
    def _booked(self, stage: str, pipe: DiffusionPipeline) -> Iterator[Run]:
        """Add what the block takes to the book, also where the block is stopped."""
        run = self._run(pipe)
        try:
            with run.measure(pipe.unet):
                yield run
        finally:
            book = json.loads(self._book.read_text(encoding="utf-8")) if self._book.exists() else {}
            found, before = run.summary(), book.get(stage, {})
            book[stage] = {key: before.get(key, 0) + found[key] for key in COSTS}
            write_json(self._book, book)

    def _generate(
        self, pipe: DiffusionPipeline, rows: list[Row], name: str, *, prefixes: dict[str, torch.Tensor] | None = None
    ) -> None:
        generate(
            pipe,
            rows,
            self.out / name,
            num_inference_steps=self.suite.num_inference_steps,
            guidance_scale=self.suite.guidance_scale,
            batch_size=self.suite.batch_size,
            prefixes=prefixes,
            label=f"images of {name}",
            progress=self.progress,
        )

    def _run(self, pipe: DiffusionPipeline) -> Run:
        return Run(seed=self.seed, device=pipe.device, dtype=pipe.unet.dtype, quiet=not self.progress)

    def _settings(self, base_hash: str) -> dict[str, Any]:
        return {
            **asdict(self.config),
            "seed": self.seed,
            "suite": hash_json(asdict(self.suite)),  # the prompts that are attacked have a hash of their own
            "prompts": hash_json([asdict(row) for row in self.rows]),
            "base": base_hash,
        }


def check_attackable(pipe: DiffusionPipeline, *, white_box: bool) -> None:
    """Refuse a pipeline with code of its own: what it does with a prompt has no gradient, and embeddings pass it by.

    Raises:
        ValueError: as said. UnGuide is known, and seed search works on every pipeline.
    """
    stock = type(pipe).__module__.startswith("diffusers.pipelines.")
    if white_box and not stock and not isinstance(pipe, UnGuidePipeline):
        raise ValueError(
            f"The pipeline is a {type(pipe).__name__}, whose own code may change a prompt, and gradients do not know "
            "of that: use the attack 'seeds'."
        )


def _sheet(out: Path, rows: list[Row], entries: list[Entry], scores: dict[str, Table], target: Target) -> None:
    """Base, before, attacked and nulls of each prompt: of several tries the first hit, or else the first."""
    shows = shows_target(scores["erased"], target).tolist()
    arms = list(dict.fromkeys(entry.arm for entry in entries))
    lines = []
    for row, hit in zip(rows, shows_target(scores["base"], target).tolist(), strict=True):
        tiles = [Tile(out / "base" / "images" / f"{row.key}.png", hit)]
        for arm in arms:
            own = [
                Tile(out / "erased" / "images" / f"{entry.to_row().key}.png", shown)
                for entry, shown in zip(entries, shows, strict=True)
                if entry.row.key == row.key and entry.arm == arm
            ]
            tiles.append(next((tile for tile in own if tile.hit), own[0]))
        lines.append((row.prompt, tiles))
    write_sheet(out / "sheet.png", ["base", *arms], lines)
