"""The same erasure trained with several seeds: mean and spread of every metric."""

from markupsafe import Markup

from eval.measurements import SeedSpread
from eval.report.tables import ABSENT, Cell, Row, Table, model_head, section
from eval.report.text import number
from eval.results import Results


PLACE = 170
NAME = "Over training seeds"
NOTE = (
    "The same erasure trained again with other seeds: mean ± standard deviation over the trainings, and below it their "
    "range. The intervals above know one training only."
)


def applies(results: Results) -> bool:
    """Whether a second seed of an erasure was evaluated."""
    return bool(results.over_seeds)


def html(results: Results) -> Markup:
    """One table."""
    return section(results, NAME, NOTE, [_table(results)])


def markdown(results: Results) -> str:
    """The same table."""
    return _table(results).markdown


def _table(results: Results) -> Table:
    keys = dict.fromkeys(key for each in results.over_seeds for key in each.metrics)
    return Table(
        name=NAME,
        corner="mean ± sd, lowest to highest",
        heads=[
            model_head(results, *each.labels, small=f"training seeds {', '.join(map(str, each.seeds))}")
            for each in results.over_seeds
        ],
        rows=[
            Row(
                Cell(results.metrics[key].title),
                [_cell(each.metrics.get(key), results.metrics[key].unit) for each in results.over_seeds],
            )
            for key in keys
        ],
        is_narrow=True,
    )


def _cell(spread: SeedSpread | None, unit: str) -> Cell:
    if spread is None:
        return ABSENT
    mean, ends = (
        f"{number(one, unit)} {sign} {number(other, unit)}"
        for one, sign, other in ((spread.mean, "±", spread.sd), (spread.lo, "to", spread.hi))
    )
    return Cell(mean, (ends,), spread.struck, spread.struck)
