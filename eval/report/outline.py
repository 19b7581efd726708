"""What a page is called, which metrics and models come first, and in which colour each model stands."""

from collections.abc import Iterable

from eval.measurements import MetricResult
from eval.report.text import words
from eval.results import ModelInfo, Results


RETENTION = ("ira", "cra_excl_target", "sc", "oc", "up")  # of which a report has those of its kinds of target
HEADLINE = ("ua", *RETENTION, "normalised_erasure")
TINTS = 12  # colours for evaluated models; a thirteenth one starts again
ARROWS = {"up": "↑", "down": "↓", "none": ""}


def title(results: Results) -> str:
    """What a report is about, in a line."""
    erased = results.erased
    if results.kind == "prompts":
        return f"{results.suite['name']}: {', '.join(model.label for model in erased)}"
    if len(erased) > 1:
        return f"{len(erased)} models side by side"
    return f"{', '.join(erased[0].target)}: {results.verdicts[erased[0].label].code}"


def headline(results: Results) -> list[str]:
    """The metrics of a grid that come first; none for prompt files."""
    return [key for key in HEADLINE if key in results.metrics]


def full_title(metric: MetricResult) -> str:
    """The title of a metric behind the prompt file that it is about."""
    return f"{words(metric.file)}: {metric.title}" if metric.file else metric.title


def by_file(results: Results) -> dict[str, dict[str, MetricResult]]:
    """The metrics of all prompts, under an empty name, then those of each prompt file that has some of its own."""
    files: dict[str, dict[str, MetricResult]] = {}
    for key, metric in results.metrics.items():
        files.setdefault(metric.file, {})[key] = metric
    return files


def groups(results: Results, numbers: Iterable[int]) -> dict[int, list[ModelInfo]]:
    """Number of a group -> its models, for some groups."""
    return {number: [each for each in results.models if each.group == number] for number in dict.fromkeys(numbers)}


def targets(results: Results, group: int) -> str:
    """What was erased from the models of a group, in words."""
    return ", ".join(next((model.target for model in results.erased if model.group == group), ()))


def tints(results: Results) -> dict[str, str]:
    """Label -> the class that sets the colour of a model."""
    erased = [model.label for model in results.erased]
    return {
        model.label: f"tint{erased.index(model.label) % TINTS}" if model.role == "erased" else model.role
        for model in results.models
    }
