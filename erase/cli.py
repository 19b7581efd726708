"""The command line; heavy imports are inside the commands, so that ``erase --help`` answers at once."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import erase
from erase.cli_canvas import app as canvas_app


class _Interrupted(Exception):
    """Ctrl-C with what is to be said about it; typer would swallow the text of a ``KeyboardInterrupt``."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the class that typer names here is private
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Interrupted(str(interrupt) or "Interrupted; nothing was saved.") from interrupt


app = typer.Typer(
    cls=_Group,
    name="erase",
    help="Erase a concept from a text-to-image diffusion model, and measure what is gone and what was hurt.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(canvas_app, name="canvas")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can mend becomes one sentence and the exit code 2, Ctrl-C becomes 130."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in given  # for developers: the error as Python shows it
    given = [argument for argument in given if argument != "--traceback"]
    try:
        code = app(given, prog_name="erase", standalone_mode=False)
    except (_Interrupted, KeyboardInterrupt) as interrupt:
        _fail(str(interrupt) or "Interrupted; nothing was saved.", 130)
    except (ValueError, OSError, typer.TyperException) as error:
        if wants_traceback:
            raise
        _fail(_sentence(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(erase.__version__)
        raise typer.Exit


@app.command("run")
def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml]... [KEY=VALUE]...",
            help="YAML files, or shipped ones such as esd/canvas-style, run one after another; and settings that "
            "change them, such as params.steps=200.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Erasing method; see 'erase methods'.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="What to erase; repeat it for several at once.")] = None,
    anchor: Annotated[str | None, typer.Option(help="What the target is mapped to; '' is the empty prompt.")] = None,
    kind: Annotated[str | None, typer.Option(help="style, object, person or explicit.")] = None,
    base_model: Annotated[str | None, typer.Option(help="canvas, a diffusers folder, or a hub id.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder to make for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    save: Annotated[
        str | None, typer.Option(help="pipeline: a folder that plain diffusers loads; delta: only what changed.")
    ] = None,
    retain: Annotated[
        list[str] | None, typer.Option(help="Prompt, or CSV file of prompts, that must keep its meaning; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Erase a concept and save the result."""
    from erase.cli_run import run_all

    flags: dict[str, Any] = {
        "method": method,
        "base_model": base_model,
        "out": out,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "save": save,
        "retain": retain or None,  # typer gives an empty list for a flag that is not there
    }
    concept = {"target": target or None, "anchor": anchor, "kind": kind}
    run_all(sources or [], flags, concept, dry_run=dry_run, quiet=quiet)


@app.command("eval")
def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="What 'erase run' made, of either form; or any diffusers folder, hub id or 'canvas', with --target "
            "and --base-model. Several are set side by side in one report.",
            show_default=False,
        ),
    ],
    suite: Annotated[str, typer.Option(help="A suite in configs/suites, or a YAML file.")] = "canvas",
    target: Annotated[
        list[str] | None,
        typer.Option(help="What was erased from models without erasure.json; repeatable.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Kind of --target; a style if not given.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="What the models were made from, if erasure.json does not say it.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for images, scores and the report.", show_default="PATH.eval, or erase-eval for several"
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the images of base and gold for other evaluations.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Measure erased models beside their base (and gold, on the canvas) and write a report."""
    from erase.cli_eval import evaluate_all

    _quiet_libraries()
    flags = [f"--target {shlex.quote(name)}" for name in target or []]
    flags += [f"--{name} {shlex.quote(value)}" for name, value in (("kind", kind), ("base-model", base_model)) if value]
    report = evaluate_all(
        paths,
        suite,
        target=target or [],
        kind=kind,
        base_model=base_model,
        out=out,
        cache=cache,
        device=device,
        dtype=dtype,
        quiet=quiet,
        command=" ".join(["erase eval", *map(shlex.quote, paths), f"--suite {shlex.quote(suite)}", *flags]),
    )
    print(f"Report: {report}")


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make for the erased model and the report.")] = Path("erase-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the erasure.")] = 0,
) -> None:
    """Erase one style from the embedded canvas model and report what happened; no network, no GPU, minutes."""
    from eval.demo import run as run_demo

    _quiet_libraries()
    print(f"Report: {run_demo(out, seed=seed)}")


@app.command("methods")
def list_methods() -> None:
    """List the erasing methods: name, what it does, paper."""
    from erase.config import available_methods, describe_method

    for name in available_methods():
        summary, paper = describe_method(name)
        print(f"{name}\n    {summary}\n    {paper}")


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="What 'erase run' made.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    form: Annotated[str, typer.Option(help="pipeline: a folder that plain diffusers loads; delta: only what changed.")],
    base_model: Annotated[
        str | None, typer.Option(help="Where the base model is, if not where it was.", show_default=False)
    ] = None,
) -> None:
    """Write an erased model in the other form."""
    from erase.artifact import export as export_artifact

    _quiet_libraries()
    print(f"Saved: {export_artifact(folder, out, form, base_model=base_model)}")


def _quiet_libraries() -> None:
    """Turn off the bars that diffusers and transformers draw while they load."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _sentence(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error) or f"{type(error).__name__} without a message; repeat with --traceback."


def _fail(message: str, code: int) -> None:
    print(f"erase: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
