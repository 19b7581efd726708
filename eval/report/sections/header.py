"""What the report is about, and of a grid suite the verdict on every model."""

from markupsafe import Markup

from eval.report.outline import title
from eval.report.templating import part
from eval.results import Results


PLACE = 10
TONES = {  # verdict -> colour of its banner
    "erased": "good",
    "erased with damage": "fair",
    "erased by name only": "fair",
    "partly erased": "fair",
    "inference-only": "fair",
    "not measurable": "unknown",
    "not judged": "unknown",
    "not erased": "bad",
    "destroyed": "bad",
    "blocked": "bad",
}


def applies(results: Results) -> bool:
    """Every report has a heading."""
    return True


def html(results: Results) -> Markup:
    """Heading, lead, and one banner per verdict."""
    heading, kind = title(results), ""
    if results.kind == "prompts":
        heading = results.suite["name"]
    elif len(results.erased) == 1:
        heading, kind = ", ".join(results.erased[0].target), results.erased[0].kind
    return part("header", results, heading=heading, kind=kind, lead=_lead(results), tones=TONES)


def markdown(results: Results) -> str:
    """Title, lead, and the verdicts; of one model the title has its word."""
    blocks = [f"# {title(results)}", ", ".join(_lead(results))]
    for label, verdict in results.verdicts.items():
        name = f"{label}: {verdict.code}. " if len(results.verdicts) > 1 else ""
        blocks += [name + verdict.sentence, "\n".join(f"- {reason}" for reason in verdict.reasons)]
    return "\n\n".join(filter(None, blocks))


def _lead(results: Results) -> list[str]:
    suite, erased = results.suite, results.erased
    origin = f"{erased[0].card.get('method') or 'unknown method'} on {erased[0].base_name}"
    return [
        *([origin] if len(erased) == 1 else []),
        f"suite {suite['name']} {suite['version']}",
        f"{results.images:,} images per model at equal prompts, seeds and initial noise",
        f"{suite['sampler']['steps']} steps",
        results.provenance.written[:10],
    ]
