"""The parts of a suite that a metric is measured on: all rows, or those of one prompt file or one of its languages."""

from collections.abc import Callable
from dataclasses import replace

from eval.measure.view import Evidence, Metric, Part, View
from eval.suite.prompt_files import PromptFile


ENGLISH = "English"


def find_file(evidence: Evidence, name: str) -> PromptFile | None:
    """The prompt file of a name; None where the suite has none, or for the empty name."""
    files = evidence.suite.prompts.files if evidence.suite.prompts else []
    return next((file for file in files if file.label == name), None)


def find_languages(evidence: Evidence, name: str) -> list[str]:
    """The languages of a prompt file, in the order of its rows."""
    rows = next(iter(evidence.scores.values())).records.rows
    return list(dict.fromkeys(row["language"] for row in rows if row["family"] == name))


def find_parts(metric: Metric, evidence: Evidence) -> list[Part]:
    """Where a metric is measured.

    With several prompt files each is a part of its own beside all rows. A metric that is measured by file only has a
    part for each language of a file as well; where there are several, the part of the file holds the translations.
    """
    if evidence.suite.prompts is None:
        return [Part()]
    names = [file.label for file in evidence.suite.prompts.files]
    if not metric.by_file:
        return [Part(), *(Part(file=name) for name in names if len(names) > 1)]
    parts = []
    for name in names:
        languages = find_languages(evidence, name)
        parts.append(Part(file=name))
        parts += [Part(file=name, language=language) for language in languages if len(languages) > 1]
    return parts


def adapt(metric: Metric, evidence: Evidence, part: Part) -> Metric | None:
    """The metric as it stands for a part; None where it is not measured there."""
    adapted = metric.adapt(metric, evidence, part) if metric.adapt else metric
    if adapted is None or not metric.is_damage or evidence.suite.prompts is None:
        return adapted
    files = evidence.suite.prompts.files
    of_target = [file.label for file in files if file.is_of_target]
    if part.file in of_target or len(of_target) == len(files):
        return replace(adapted, direction="none")
    if of_target and not part.file:
        return replace(adapted, definition=f"{adapted.definition}; without the files that ask for the target")
    return adapted


def restrict(view: View, metric: Metric, part: Part, *, twin: View | None = None) -> View:
    """The rows of a part, of one model; ``twin`` are those of its base, if they were restricted before."""
    condition = _condition(view.evidence, metric, part)
    return view if condition is None else replace(view.where(condition), part=part, twin=twin)


def without_targets(metric: Metric, evidence: Evidence) -> bool:
    """Whether the number of all prompts leaves the files out that ask for the target."""
    if not metric.is_damage or evidence.suite.prompts is None:
        return False
    of_target = [file.is_of_target for file in evidence.suite.prompts.files]
    return any(of_target) and not all(of_target)


def _condition(evidence: Evidence, metric: Metric, part: Part) -> Callable[[dict], bool] | None:
    """What the rows of a part fulfil; None for all rows."""
    if part.language:
        return lambda row: row["family"] == part.file and row["language"] == part.language
    if part.file:
        skips = metric.by_file and len(find_languages(evidence, part.file)) > 1
        return lambda row: row["family"] == part.file and not (skips and row["language"] == ENGLISH)
    if without_targets(metric, evidence):
        files = evidence.suite.prompts.files if evidence.suite.prompts else []
        others = {file.label for file in files if not file.is_of_target}
        return lambda row: row["family"] in others
    return None
