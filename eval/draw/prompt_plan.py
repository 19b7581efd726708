"""The plan of a prompt set: what drawing it would do and cost."""

from collections.abc import Iterator
from dataclasses import replace

from eval.draw.plan import LATER, Counts, Part, check_machine, count, count_lines, describe_time
from eval.draw.prompt_set import Config, read_set
from eval.files import PROMPTS
from eval.models.saved import find_saved


def describe(config: Config) -> Iterator[str]:
    """Yield the plan in lines for a terminal: first the counts, then the time, which is measured.

    Raises:
        FileNotFoundError: There is no such model or prompt file.
        ValueError: What drawing would refuse, as far as it shows without the weights.
    """
    counts = make_plan(config)
    yield "\n".join(count_lines(counts))
    yield describe_time([Part("", config.model, counts)], device=config.device, dtype=config.dtype)


def make_plan(config: Config) -> Counts:
    """Count what drawing would do; downloads and writes nothing.

    It loads the weights only if the folder holds images, to tell whether these weights drew them.

    Raises:
        FileNotFoundError: There is no such model or prompt file.
        ValueError: What drawing would refuse, as far as it shows without the weights.
    """
    check_machine(config.device, config.dtype)
    prompts, sampler = read_set(config), config.sampler
    settings = {"steps": sampler.steps, "dtype": config.dtype, "negative_prompt": sampler.negative_prompt}
    difference = prompts.differs(config.out, settings)
    out = config.out
    if (out / PROMPTS).exists() and find_saved(config.model) is not None:
        from eval.draw.prompt_images import open_model, place_images
        from eval.models.fingerprint import fingerprint

        pipe = open_model(replace(config, device="cpu"))
        out = place_images(config, prompts, pipe, fingerprint(pipe))
    elif difference:
        folder = f"one beside {out}, which holds {difference}"
        return Counts(images=len(prompts.rows), done=0, unknown=LATER, folder=folder)
    return replace(count(config.model, prompts.rows, out, sampler), folder=str(out))
