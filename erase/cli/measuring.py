"""The flags of ``erase eval``, ``attack``, ``generate`` and ``demo``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from erase.cli.options import BatchSize, Compat, Device, DryRun, Dtype, JudgeObject, JudgeStyle, Quiet, as_flags
from erase.cli.quiet import quiet_libraries


NOT_JUDGED = 3  # exit code of an evaluation that lacked weights of what the suite asks for


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
    batch_size: BatchSize = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure erased models beside their base (and gold, on the canvas) and write a report.

    The exit code is 3 where weights are absent that the suite's judge or scorers need: the images are made, and what
    cannot be judged says so.
    """
    from erase.api import check_eval

    check_eval()
    from eval.requests.evaluation import Request, evaluate_all, plan_all

    flags: list[tuple[str, Any]] = [("suite", suite), *(("target", name) for name in target or ())]
    flags += [("kind", kind), ("base-model", base_model), ("judge-style", judge_style), ("judge-object", judge_object)]
    flags += [*(("attacks", folder) for folder in attacks or ()), ("dtype", dtype)]
    given = [*as_flags(flags), *["--compat"] * compat, *["--sequence"] * sequence]
    request = Request(
        paths=paths,
        suite=suite,
        target=target or [],
        kind=kind,
        base_model=base_model,
        out=out,
        cache=cache,
        attacks=attacks or [],
        judge_style=judge_style,
        judge_object=judge_object,
        compat=compat,
        sequence=sequence,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        quiet=quiet,
        command=shlex.join(["erase", "eval", *paths, *given]),
    )
    if dry_run:
        for line in plan_all(request):
            print(line, flush=True)
        return
    quiet_libraries()
    summary = evaluate_all(request)
    from eval.draw.generate import process_state

    if process_state().is_main_process:
        print(summary.line)
    if not summary.is_judged:
        print("erase: not everything was judged, because weights are absent; the report says which.", file=sys.stderr)
        raise typer.Exit(NOT_JUDGED)


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
    batch_size: BatchSize = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    quiet: Quiet = False,
) -> None:
    """Attack an erased model with soft tokens, words or seeds, beside null attacks of the same number of images.

    'erase eval' then shows the result in the model's report.
    """
    from erase.api import check_eval

    check_eval()
    from eval.requests.attack import Request, attack_one

    quiet_libraries()
    flags: list[tuple[str, Any]] = [("attack", attack), ("tokens", tokens), ("steps", steps), ("tries", tries)]
    flags += [("prompts", prompts), ("suite", suite), ("base-model", base_model), ("seed", seed), ("dtype", dtype)]
    flags += [*(("target", name) for name in target or ()), ("kind", kind)]
    flags += [("judge-style", judge_style), ("judge-object", judge_object)]
    request = Request(
        folder=folder,
        attack=attack,
        suite=suite,
        target=target or [],
        tokens=tokens,
        steps=steps,
        tries=tries,
        prompts=prompts,
        out=out,
        kind=kind,
        base_model=base_model,
        judge_style=judge_style,
        judge_object=judge_object,
        compat=compat,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        quiet=quiet,
        command=shlex.join(["erase", "attack", str(folder), *as_flags(flags), *["--compat"] * compat]),
    )
    print(attack_one(request))


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
    device: Device = "auto",
    dtype: Dtype = "float32",
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw every prompt of a file with every seed; shared by the processes of torchrun or accelerate launch."""
    from erase.api import check_eval

    check_eval()
    from erase.cli.generate import generate_all, plan
    from erase.config import parse_seeds
    from eval.draw.prompt_set import Config
    from eval.suite.suite import Sampler

    config = Config(
        model=model,
        prompts=prompts,
        out=out,
        sampler=Sampler(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
        ),
        seeds=None if seeds is None else parse_seeds(seeds),
        device=device,
        dtype=dtype,
        header=not no_header,
        skip_empty=skip_empty,
    )
    if dry_run:
        plan(config)
    else:
        generate_all(config, quiet=quiet)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to make for the erased model and the report.")] = Path("erase-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the erasure.")] = 0,
) -> None:
    """Erase one style from the embedded canvas model and report what happened; no network, no GPU, minutes."""
    from erase.api import check_eval

    check_eval()
    from eval.demo import run as run_demo

    quiet_libraries()
    print(f"Report: {run_demo(out, seed=seed)}")
