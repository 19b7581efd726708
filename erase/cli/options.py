"""Flags that several commands share, and how they are written again in a report's command line."""

from typing import Annotated, Any

import typer


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
JudgeStyle = Annotated[
    str, typer.Option(help="Checkpoint of the style classifier of a suite whose judge comes without weights.")
]
JudgeObject = Annotated[str, typer.Option(help="The same of the object classifier; give both.")]
Compat = Annotated[
    bool,
    typer.Option(
        "--compat",
        help="As the benchmark's published code has it where that differs: the unlearncanvas suites then ask for "
        "photos as 'Seed Images', leave their style accuracy out, and judge images after JPEG compression.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images per forward, if not the suite's: fewer take less memory. Images agree to 1 of 255 whatever it is.",
        show_default=False,
        min=1,
    ),
]


def as_flags(given: list[tuple[str, Any]]) -> list[str]:
    """Return flags as they are typed; those without a value are left out.

    Example:
        >>> as_flags([("suite", "canvas"), ("kind", None), ("seed", 0)])
        ['--suite', 'canvas', '--seed', '0']
    """
    return [word for name, value in given if value not in (None, "") for word in (f"--{name}", str(value))]
