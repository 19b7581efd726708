"""The demonstration: erase one style from the embedded canvas model, load the result from disk and measure it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from erase.config import read_config
from erase.experiment import is_complete, run_experiment
from eval.evaluate import evaluate
from eval.report.markdown import headline
from eval.report.text import interval, number


CONFIG = "uce/canvas-style"
SUITE = "canvas-demo"


def run(out: Path, *, seed: int = 0, seeds: Sequence[int] | None = None, progress: bool = True) -> Path:
    """Erase, evaluate and print the headline numbers; a demonstration that was stopped goes on where it was.

    Args:
        out: folder for the erased model (``model``) and its evaluation (``report``).
        seed: of the erasure.
        seeds: instead of the suite's, for the grid and the held-out wordings alike.
        progress: show progress bars.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: ``out`` holds something else.
    """
    model = out / "model"
    config = read_config(CONFIG, settings={"seed": seed, "device": "cpu", "out": str(model)})
    if not is_complete(config):
        run_experiment(config, quiet=not progress)
    page = evaluate(
        model,
        SUITE,
        out / "report",
        seeds=seeds,
        progress=progress,
        command=f"erase run {CONFIG} seed={seed} out={model}\nerase eval {model} --suite {SUITE}",
    )
    content = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))
    typer.echo("\n".join(summary_lines(content)))
    return page


def summary_lines(content: dict[str, Any]) -> Sequence[str]:
    """The headline numbers of ``report.json`` as a small table for a terminal."""
    models = [name for name in ("erased", "base", "gold") if name in content["models"]]
    lines = [
        "",
        f"{', '.join(content['concept']['target'])}: {content['verdict']['code']}. {content['verdict']['sentence']}",
        "",
        f"{'':22}" + "".join(f"{name:>24}" for name in models),
    ]
    for key in headline(content["metrics"]):
        metric = content["metrics"][key]
        cells = [
            f"{number(metric[name]['value'], key)} {interval(metric[name], key)}" if metric.get(name) else "n/a"
            for name in models
        ]
        withheld = "  withheld: see the gates in the report" if metric.get("struck") else ""
        lines.append(f"{metric['title']:22}" + "".join(f"{cell:>24}" for cell in cells) + withheld)
    images = content["coverage"]["images"]["erased"]
    return [*lines, f"95 % intervals; {images['grid_found']} + {images['held_out_found']} images per model", ""]
