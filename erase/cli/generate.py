"""The body of ``erase generate``."""

from typing import TYPE_CHECKING

from erase.cli.quiet import quiet_libraries


if TYPE_CHECKING:
    from eval.draw.prompt_set import Config


def plan(config: "Config") -> None:
    """Print what ``generate_all`` would do; the counts are printed before torch is imported to measure the time."""
    from eval.draw.prompt_plan import describe
    from eval.files import PROMPTS

    if (config.out / PROMPTS).exists():
        quiet_libraries()  # the weights are loaded, to tell whether they drew these images
    for text in describe(config):
        print(text, flush=True)


def generate_all(config: "Config", *, quiet: bool) -> None:
    """Draw every row, and print what it took."""
    from eval.draw.prompt_images import run

    quiet_libraries()
    generation = run(config, progress=not quiet)
    if generation is not None:
        print(f"{generation.line}\nSaved: {generation.out}")
