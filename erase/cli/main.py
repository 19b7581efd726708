"""The command line; heavy imports are inside the commands, so that ``erase --help`` answers at once."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import erase
from erase.cli.canvas import app as canvas_app
from erase.cli.erasing import list_methods, run
from erase.cli.interop import export, import_
from erase.cli.measuring import attack, demo, evaluate, generate


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
app.command("run")(run)
app.command("eval")(evaluate)
app.command("attack")(attack)
app.command("generate")(generate)
app.command("demo")(demo)
app.command("import")(import_)
app.command("export")(export)
app.command("methods")(list_methods)
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


def _sentence(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error) or f"{type(error).__name__} without a message; repeat with --traceback."


def _fail(message: str, code: int) -> None:
    print(f"erase: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
