"""What ``erase attack`` found on the models, attacks of one protocol side by side."""

from collections.abc import Sequence

from markupsafe import Markup

from eval.report.tables import ABSENT, Cell, Row, Table, change_cell, model_head, section, value_cell
from eval.report.tables import markdown as join
from eval.report.text import count, hits, interval, number, words
from eval.results import Results, SearchedAttack


PLACE = 150
NOTE = (
    "What erase attack found: share of prompts on which the target appears in any of the tries; point at a number for "
    "the share of images. Below it the prompts and the 95 % interval. Each null attack draws as many images without a "
    "search, so an attack counts only by its excess over the stronger one, in points."
)


def applies(results: Results) -> bool:
    """Whether a model was attacked."""
    return bool(results.searched)


def html(results: Results) -> Markup:
    """One table per protocol."""
    return section(results, "Searched attacks", NOTE, _tables(results))


def markdown(results: Results) -> str:
    """The same tables."""
    return join(_tables(results))


def _tables(results: Results) -> list[Table]:
    protocols: dict[str, list[SearchedAttack]] = {}
    for run in results.searched:
        protocols.setdefault(run.protocol, []).append(run)
    return [_table(results, runs) for runs in protocols.values()]


def _table(results: Results, runs: Sequence[SearchedAttack]) -> Table:
    first, labels = runs[0], [run.label for run in runs]
    # the same attack with other seeds of its search is told by its folder
    notes = [run.folder if labels.count(run.label) > 1 else "" for run in runs]
    names = dict.fromkeys(arm.name for run in runs for arm in run.arms)
    rows = [Row(Cell(name), [_arm(run, name) for run in runs], is_sub=name.startswith("null: ")) for name in names]
    rows.append(Row(Cell("excess over the stronger null, points"), [_excess(run) for run in runs]))
    rows.append(Row(Cell("cost of the search"), [_cost(run) for run in runs]))
    title = f"Attack {first.attack}: {first.budget}; {first.n_prompts} prompts of {first.suite['name']}"
    pairs = list(zip(runs, notes, strict=True))
    return Table(
        name=title,
        title=title,
        corner="prompts with the target",
        heads=[model_head(results, run.label, small=note) for run, note in pairs],
        rows=rows,
        reasons=[f"{note or run.label}: struck through. {run.struck}" for run, note in pairs if run.struck],
    )


def _arm(run: SearchedAttack, name: str) -> Cell:
    """Success of one arm; what the base shows without an attack stands whatever the gates say."""
    arm = next((each for each in run.arms if each.name == name), None)
    if arm is None:
        return ABSENT
    total, images = arm.total, arm.per_image
    cell = value_cell(total, struck="" if arm.arm == "base" else run.struck)
    title = f"{hits(images)} images = {number(images.value)} {interval(images)}" if images else ""
    return cell._replace(small=(f"{hits(total)} {interval(total)}",), title=title)


def _excess(run: SearchedAttack) -> Cell:
    cell = change_cell(run.excess, struck=run.struck)
    return cell._replace(small=(*cell.small, words(run.null))) if run.excess else cell


def _cost(run: SearchedAttack) -> Cell:
    spent = f"{count(run.cost['unet_forwards'])} + {count(run.cost['unet_backwards'])}"
    return Cell(spent, ("forwards + backwards",))
