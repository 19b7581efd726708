"""Whole attacks on tiny models, with a judge that knows what the base draws."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from erase.concept import Concept
from eval.attack.config import AttackConfig
from eval.attack.record import AttackRecord, read_record
from eval.attack.run import Options, attack
from eval.draw.generate import generate
from eval.models.subject import describe
from eval.score.classifier import Classifier, to_tensor
from eval.score.run import Scorers
from eval.suite.rows import Row
from eval.suite.suite import Suite


PROMPTS = ("z cat", "z dog")
SEEDS = (3, 4)
GUIDANCE = 20.0  # a word more or less is then more than the judge overlooks


@pytest.fixture(scope="session")
def small(suite: Suite) -> Suite:
    """The grid alone, with more guidance, and with a scorer that no attack needs."""
    assert suite.grid is not None
    return replace(
        suite,
        sampler=replace(suite.sampler, guidance_scale=GUIDANCE),
        grid=replace(suite.grid, held_out=""),
        scorers={"clip": {}, **suite.scorers},
        resamples=200,
    )


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("csv") / "prompts.csv"
    path.write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def judge(
    tiny_folder: Path, small: Suite, memory: type[nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Scorers:
    """Sees the target in what lies close to the base's images of the prompts, and nothing in anything else."""
    out = tmp_path_factory.mktemp("seen")
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    rows = [Row(prompt_id=prompt.replace(" ", "_"), prompt=prompt, seed=seed) for prompt in PROMPTS for seed in SEEDS]
    generate(pipe, rows, out, small.sampler, progress=False)
    images = to_tensor([Image.open(out / "images" / f"{row.key}.png") for row in rows])
    styles = torch.full((len(rows),), STYLE_NAMES.index("Van_Gogh"))
    network = memory(images, styles, torch.zeros(len(rows), len(OBJECT_NAMES), dtype=torch.bool))
    return Scorers({"judge": Classifier(network, STYLE_NAMES, OBJECT_NAMES)})


@pytest.fixture
def run(
    tiny_folder: Path, small: Suite, csv: str, judge: Scorers, van_gogh: Concept, tmp_path: Path
) -> Callable[..., AttackRecord]:
    """Attack a pipeline; gives what ``attack.json`` holds."""

    def attack_pipe(
        pipe: DiffusionPipeline,
        name: str = "soft",
        *,
        out: str = "out",
        seed: int = 0,
        base: DiffusionPipeline | None = None,
        seeds: Sequence[int] = SEEDS,
        **params: Any,
    ) -> AttackRecord:
        config = AttackConfig(attack=name, seeds=list(seeds), tries=3, params=params)
        tested = describe(pipe, concept=van_gogh, base=base or str(tiny_folder))
        options = Options(prompts=csv, seed=seed, progress=False)
        path = attack(tested, config, small, tmp_path / out, options, scorers=judge)
        assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 2
        return read_record(path.parent)

    return attack_pipe
