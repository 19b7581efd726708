"""What the erasure took and what it leaves behind."""

from markupsafe import Markup

from eval.report.tables import Cell, Row, Table, model_head, section
from eval.report.text import count, duration, number, signed, size
from eval.results import ModelCost, ModelInfo, Results


PLACE = 180
NOTE = (
    "What the erasure took and what it leaves behind. Forwards and backwards are those of the denoiser, counted in "
    "samples (sf); recomputed: forwards that gradient checkpointing repeats in backwards. Added latency: forwards per "
    "image above base, which depend on no machine. Wall times hold whatever else the machine did at that time."
)
HEADS = (
    "time to erase",
    "forwards + backwards",
    "peak memory",
    "storage",
    "changed",
    "time per image",
    "added latency",
)


def applies(results: Results) -> bool:
    """Whether the cost of a model is known."""
    return any(model.label in results.cost.models for model in results.erased)


def html(results: Results) -> Markup:
    """One row per erased model."""
    rows = [_row(results, model) for model in results.erased if model.label in results.cost.models]
    table = Table(name="Cost", corner="model", heads=[Cell(head) for head in HEADS], rows=rows)
    spent = results.cost.evaluation
    took = f" This evaluation took {duration(spent['seconds'])}." if "seconds" in spent else ""
    return section(results, "Cost", NOTE + took, [table])


def markdown(results: Results) -> str:
    """Nothing: report.json has it."""
    return ""


def _row(results: Results, model: ModelInfo) -> Row:
    cost, base = results.cost.models[model.label], results.cost.models.get(model.base, ModelCost())
    spent, changed = cost.erasure or {}, cost.footprint
    again = spent.get("unet_recomputed")
    cells = [
        Cell(duration(spent.get("seconds"))),
        Cell(
            f"{count(spent.get('unet_forwards'))} + {count(spent.get('unet_backwards'))}",
            (f"{count(again)} recomputed",) if again else (),
        ),
        Cell(size(spent.get("peak_memory_bytes"))),
        Cell(size(cost.storage_bytes)),
        Cell(
            f"{changed['tensors']} of {changed['tensors_of']} tensors",
            (f"{number(changed['parameters'] / changed['parameters_of'])} of the weights",),
        )
        if changed
        else Cell("n/a"),
        Cell(duration(cost.seconds_per_image), (f"base {duration(base.seconds_per_image)}",)),
        _latency(cost.forwards_per_image, base.forwards_per_image),
    ]
    small = "" if spent else "nothing beside the model says what it took"
    return Row(model_head(results, model.label, small=small), cells)


def _latency(forwards: float | None, base: float | None) -> Cell:
    if not forwards or not base:
        return Cell("n/a", ("not counted",))
    return Cell(f"{signed(forwards / base - 1)} %", (f"{forwards:.1f} sf, base {base:.1f}",))
