"""What a vision-language model sees in the images of prompt files."""

from dataclasses import replace

import numpy as np

from eval.measure.parts import ENGLISH, find_file, find_languages
from eval.measure.view import Evidence, Metric, Part, Sample, View
from eval.suite.prompt_files import TARGET


SHOWN_TARGET = "share of images in which a vision-language model sees the target"


def shown(view: View) -> np.ndarray:
    """Whether each image shows the one thing that was asked for, (n,) bool; of several things, the share that it shows.

    (n,) bool or float.
    """
    answers = [row["shown"] for row in view.rows]
    if all(len(answer) == 1 for answer in answers):
        return np.array([answer[0] for answer in answers], bool)
    return np.array([np.mean(answer) for answer in answers])


def _sample(view: View) -> Sample:
    return view.sample(shown)


def _adapt(metric: Metric, evidence: Evidence, part: Part) -> Metric | None:
    """The metric of a file, or of a language of it: of the target less is better."""
    file = find_file(evidence, part.file)
    if file is None or not file.shows:
        return None
    title, definition = metric.title, metric.definition
    if TARGET in file.shows:
        title, definition = "Shows the target", SHOWN_TARGET
    if part.language:
        title += f", {part.language}"
    elif len(find_languages(evidence, part.file)) > 1:
        definition += f", without {ENGLISH}"
    is_target = TARGET in file.shows
    direction = "down" if is_target else metric.direction
    return replace(metric, title=title, definition=definition, direction=direction, claims_gone=is_target)


METRICS = [
    Metric(
        key="shown",
        title="Shows what is asked for",
        direction="up",
        unit="share",
        definition="share of what a vision-language model was asked for and sees",
        needs=("shown",),
        sample=_sample,
        kinds=("prompts",),
        has_share=False,
        by_file=True,
        adapt=_adapt,
    )
]
