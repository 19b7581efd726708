"""The demonstration: erase one style from the embedded canvas model, load the result from disk and measure it."""

from collections.abc import Sequence
from pathlib import Path

import typer

from erase.config import read_config
from erase.experiment import is_complete, run_experiment
from eval.evaluate import Options, evaluate
from eval.models import subject
from eval.report.terminal import summary_lines
from eval.results import read_results
from eval.suite.suite import load_suite


CONFIG = "uce/canvas-style"
SUITE = "canvas-demo"


def run(out: Path, *, seed: int = 0, seeds: Sequence[int] | None = None, progress: bool = True) -> Path:
    """Erase, evaluate and print the headline numbers; a demonstration that was stopped goes on where it was.

    Args:
        out: Folder for the erased model (``model``) and its evaluation (``report``).
        seed: Of the erasure.
        seeds: In place of the suite's, for the grid and the held-out wordings alike.
        progress: Show progress bars.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: ``out`` holds something else.
    """
    model = out / "model"
    config = read_config(CONFIG, settings={"seed": seed, "device": "cpu", "out": str(model)})
    if not is_complete(config):
        run_experiment(config, quiet=not progress)
    tested = subject.describe(model, label="erased", concept=None, base=None)
    command = f"erase run {CONFIG} seed={seed} out={model}\nerase eval {model} --suite {SUITE}"
    done = evaluate(
        [tested], load_suite(SUITE, seeds=seeds), out / "report", Options(progress=progress, command=command)
    )
    typer.echo("\n".join(summary_lines(read_results(done.report.parent))))
    return done.report
