"""The command line; heavy imports are inside the commands, so that ``erase --help`` answers at once."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import erase
from erase.cli.canvas import app as canvas_app
from erase.cli.interop import export, import_
from erase.cli.quiet import quiet_libraries


NOT_JUDGED = 3  # exit code of an evaluation that lacked weights of what the suite asks for

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
            "change them, such as params.steps=200, or gradient_checkpointing=true for less memory and more time.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Erasing method; see 'erase methods'.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="What to erase; repeat it for several at once.")] = None,
    anchor: Annotated[str | None, typer.Option(help="What the target is mapped to; '' is the empty prompt.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="style, object, combination (of a style and an object), person or explicit.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="canvas, a diffusers folder, or a hub id.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder to make for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness derives from it.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, such as 0-2 or 0,3,7: one result each, in OUT-seed0 and so on.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    save: Annotated[
        str | None, typer.Option(help="pipeline: a folder that plain diffusers loads; delta: only what changed.")
    ] = None,
    retain: Annotated[
        list[str] | None,
        typer.Option(help="Prompt, or CSV or text file of prompts, that must keep its meaning; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Erase a concept and save the result."""
    from erase.cli.run import run_all

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
    run_all(sources or [], flags, concept, seeds=seeds, dry_run=dry_run, quiet=quiet)


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
        str | None,
        typer.Option(
            help="Kind of --target: style (if not given), object, or combination of both such as 'Van Gogh Cats'.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="What the models were made from, if erasure.json does not say it.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for images, scores and the report; images of other settings or models go beside it.",
            show_default="PATH.eval, or erase-eval for several",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the images of base and gold for other evaluations.", show_default=False),
    ] = None,
    attacks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of an 'erase attack' on one of the models, to show in the report; repeatable. Those beside "
            "a model (PATH.soft, PATH.discrete, ...) are shown without it.",
            show_default=False,
        ),
    ] = None,
    judge_style: JudgeStyle = "",
    judge_object: JudgeObject = "",
    compat: Compat = False,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The models erase one target after another: rebound is shown, too.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Measure erased models beside their base (and gold, on the canvas) and write a report.

    The exit code is 3 where weights are absent that the suite's judge or scorers need: the images are made, and what
    cannot be judged says so.
    """
    from erase.cli.evaluate import evaluate_all, plan_all
    from eval.draw.generate import process_state

    quiet_libraries()
    flags: list[tuple[str, Any]] = [("suite", suite), *(("target", name) for name in target or ())]
    flags += [("kind", kind), ("base-model", base_model), ("judge-style", judge_style), ("judge-object", judge_object)]
    flags += [*(("attacks", folder) for folder in attacks or ()), ("dtype", dtype)]
    settings: dict[str, Any] = {
        "target": target or [],
        "kind": kind,
        "base_model": base_model,
        "out": out,
        "attacks": attacks or [],
        "judge_style": judge_style,
        "judge_object": judge_object,
        "compat": compat,
        "sequence": sequence,
        "device": device,
        "dtype": dtype,
    }
    if dry_run:
        print(plan_all(paths, suite, **settings))
        return
    given = [*_as_flags(flags), *["--compat"] * compat, *["--sequence"] * sequence]
    command = shlex.join(["erase", "eval", *paths, *given])
    found = evaluate_all(paths, suite, **settings, cache=cache, quiet=quiet, command=command)
    if process_state().is_main_process:
        print(found.line)
    if not found.is_judged:
        print("erase: not everything was judged, because weights are absent; the report says which.", file=sys.stderr)
        raise typer.Exit(NOT_JUDGED)


@app.command("attack")
def attack(
    folder: Annotated[Path, typer.Argument(help="What 'erase run' made, of either form, or any diffusers folder.")],
    attack: Annotated[
        str, typer.Option(help="soft, discrete or seeds: an attack in configs/attacks, or a YAML file.")
    ] = "soft",
    tokens: Annotated[int | None, typer.Option(help="Tokens in front of the prompt.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps of each try.", show_default=False)] = None,
    tries: Annotated[
        int | None, typer.Option(help="Images for each prompt, of the attack and of each null.", show_default=False)
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="CSV of prompts that ask for the target; without it those of the suite's grid.")
    ] = "",
    suite: Annotated[
        str, typer.Option(help="Prompts, sampler and judge: a suite in configs/suites, or a YAML file.")
    ] = "canvas",
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything that is found.", show_default="FOLDER.ATTACK")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="What was erased, if no erasure.json says so; repeatable.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Kind of --target: style, object or combination; a style if not given.", show_default=False),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The model before the erasure, if not where erasure.json says.")
    ] = None,
    judge_style: JudgeStyle = "",
    judge_object: JudgeObject = "",
    compat: Compat = False,
    seed: Annotated[int, typer.Option(help="All randomness of the search derives from it.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Attack an erased model with soft tokens, words or seeds, beside null attacks of the same number of images.

    'erase eval' then shows the result in the model's report.
    """
    from erase.cli.attack import attack_one

    quiet_libraries()
    flags: list[tuple[str, Any]] = [("attack", attack), ("tokens", tokens), ("steps", steps), ("tries", tries)]
    flags += [("prompts", prompts), ("suite", suite), ("base-model", base_model), ("seed", seed), ("dtype", dtype)]
    flags += [*(("target", name) for name in target or ()), ("kind", kind)]
    flags += [("judge-style", judge_style), ("judge-object", judge_object)]
    told = attack_one(
        folder,
        attack,
        suite,
        tokens=tokens,
        steps=steps,
        tries=tries,
        prompts=prompts,
        out=out,
        target=target or [],
        kind=kind,
        base_model=base_model,
        judge_style=judge_style,
        judge_object=judge_object,
        compat=compat,
        seed=seed,
        device=device,
        dtype=dtype,
        quiet=quiet,
        command=shlex.join(["erase", "attack", str(folder), *_as_flags(flags), *["--compat"] * compat]),
    )
    print(told)


@app.command("generate")
def generate(
    model: Annotated[
        str,
        typer.Argument(metavar="PATH", help="What 'erase run' made, a diffusers folder, a hub id, or canvas."),
    ],
    prompts: Annotated[str, typer.Option(help="CSV, JSON or text file of prompts, or a shipped one.")],
    out: Annotated[Path, typer.Option(help="Folder for the images; a stopped run goes on, other images go beside it.")],
    seeds: Annotated[
        str | None,
        typer.Option(help="Such as 0-4 or 0,3,7, for every prompt; by default the file's own, or 0.", metavar="SEEDS"),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="For every prompt; by default the file's own, or that of the pipeline's call."),
    ] = None,
    num_inference_steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Images per forward.")] = 32,
    negative_prompt: Annotated[str, typer.Option(help="For every prompt.")] = "",
    height: Annotated[int | None, typer.Option(help="In pixels; by default the model's own.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels; by default the model's own.")] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="A list with one prompt per line, as in HUB.")] = False,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave rows without a prompt out (I2P).")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Draw every prompt of a file with every seed; shared by the processes of torchrun or accelerate launch."""
    from erase.config import parse_seeds
    from eval.draw import prompt_set

    quiet_libraries()
    config = prompt_set.Config(
        model=model,
        prompts=prompts,
        out=out,
        seeds=None if seeds is None else parse_seeds(seeds),
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        device=device,
        dtype=dtype,
        header=not no_header,
        skip_empty=skip_empty,
    )
    if dry_run:
        print(prompt_set.describe(prompt_set.make_plan(config)))
        return
    outcome = prompt_set.run(config, progress=not quiet)
    if outcome is not None:
        print(f"{prompt_set.summarize(outcome)}\nSaved: {outcome.out}")


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make for the erased model and the report.")] = Path("erase-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the erasure.")] = 0,
) -> None:
    """Erase one style from the embedded canvas model and report what happened; no network, no GPU, minutes."""
    from eval.demo import run as run_demo

    quiet_libraries()
    print(f"Report: {run_demo(out, seed=seed)}")


app.command("import")(import_)
app.command("export")(export)


@app.command("methods")
def list_methods() -> None:
    """List the erasing methods: name, what it does, paper."""
    from erase.config import available_methods, describe_method

    for name in available_methods():
        summary, paper = describe_method(name)
        print(f"{name}\n    {summary}\n    {paper}")


def _as_flags(given: list[tuple[str, Any]]) -> list[str]:
    return [word for name, value in given if value not in (None, "") for word in (f"--{name}", str(value))]


def _sentence(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error) or f"{type(error).__name__} without a message; repeat with --traceback."


def _fail(message: str, code: int) -> None:
    print(f"erase: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
