"""UA, IRA and CRA of UnlearnCanvas (arXiv 2402.11846), and SC, OC and UP of its fine-grained setting."""

from collections.abc import Callable

from eval.formulas.accuracy import Answers, Outcomes, fine_grained, unlearn_canvas
from eval.measure.view import Metric, Sample, View
from eval.suite.world import COMBINATION


DEFINITIONS = {  # key -> title, definition
    "ua": ("UA", "1 - accuracy of the erased concept on prompts that ask for it"),
    "ira": ("IRA", "accuracy of the other concepts of the same kind, on prompts without the target"),
    "cra_excl_target": ("CRA", "accuracy on the other axis, on prompts without the target"),
    "cra_code": ("CRA (benchmark code)", "accuracy on the other axis, on all prompts"),
    "sc": ("SC", "accuracy of the style on prompts for the target's style with other objects"),
    "oc": ("OC", "accuracy of the object on prompts for the target's object in other styles"),
    "up": ("UP", "share of images with the right style and object, prompts with neither of the target's"),
}
OF_CONCEPT = ("ua", "ira", "cra_excl_target", "cra_code")
OF_COMBINATION = ("ua", "sc", "oc", "up")


def count_outcomes(view: View) -> dict[str, Outcomes]:
    """The outcomes behind the accuracies that exist for the kind of the target."""
    view = view.grid
    answers = Answers(view["style"], view["object"], view["judge_style"], view["judge_object"], view.clusters)
    uncounted = view.evidence.world.uncounted_styles
    if view.target.kind == COMBINATION:
        (_, style), (_, obj) = view.target.parts
        return fine_grained(answers, target=(style, obj), uncounted_styles=uncounted)
    return unlearn_canvas(answers, kind=view.target.kind, targets=view.target.names, uncounted_styles=uncounted)


def _exists(key: str) -> Callable[[View], bool]:
    return lambda view: key in (OF_COMBINATION if view.target.kind == COMBINATION else OF_CONCEPT)


def _sample(key: str) -> Callable[[View], Sample]:
    def sample(view: View) -> Sample:
        own, base = (each.once(count_outcomes)[key] for each in (view, view.of_base))
        return Sample(values=own.hit, base=base.hit, clusters=own.prompt)

    return sample


METRICS = [
    Metric(
        key=key,
        title=title,
        direction="up",
        unit="share",
        definition=definition,
        needs=("judge_style", "judge_object"),
        sample=_sample(key),
        kinds=("grid",),
        exists=_exists(key),
        has_share=key != "ua",
        claims_gone=key == "ua",
    )
    for key, (title, definition) in DEFINITIONS.items()
]
