"""What ``erase`` measures, in Python: the commands ``eval``, ``attack`` and ``generate``, and the scores of a report.

The functions take what the commands take. They import ``eval`` when they are called, and only if it is ours.
"""

import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from eval.score.table import Scores


log = logging.getLogger(__name__)


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    suite: str | Path = "canvas",
    target: str | Sequence[str] = (),
    kind: str | None = None,
    base_model: str | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    attacks: Sequence[str | Path] = (),
    judge_style: str | Path = "",
    judge_object: str | Path = "",
    compat: bool = False,
    sequence: bool = False,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    quiet: bool = False,
) -> Path:
    """Measure erased models beside their base (and gold, on the canvas) and write one report.

    A stopped evaluation goes on with the images and scores that it left.

    Args:
        models: What ``erase_concept`` or ``erase run`` saved; or any diffusers folder, hub id or ``canvas``, with
            ``target`` and ``base_model``. Several are set side by side.
        suite: A suite in ``configs/suites``, or a YAML file.
        target: What was erased from models without ``erasure.json``.
        kind: Kind of the target: ``style`` (if None), ``object`` or ``combination``.
        base_model: What the models were made from, if ``erasure.json`` does not say it.
        out: Folder for images, scores and the report. If None, ``MODEL.eval``, or ``erase-eval`` for several models.
        cache: Folder that keeps the images of base and gold for other evaluations.
        attacks: Folders of attacks on one of the models, to show in the report. Those beside a model are shown anyway.
        judge_style: Checkpoint of the style classifier of a suite whose judge comes without weights.
        judge_object: Checkpoint of its object classifier.
        compat: Follow the published code of the benchmark where that differs.
        sequence: The models erase one target after another, in this order.
        batch_size: Images per forward. If None, the suite's. Images agree to 1 of 255 whatever it is.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        quiet: Show no progress bars of this package. Those of diffusers, which loads the models, stay.

    Returns:
        The path of ``report.html``. Its folder holds ``report.json`` and what ``read_scores`` reads.

    Raises:
        FileNotFoundError: A model, a prompt file or weights do not exist.
        ValueError: A setting is wrong, ``out`` holds a report of another kind, or another package is named ``eval``.

    Example:
        >>> import erase
        >>> report = erase.evaluate("out/van-gogh", suite="canvas")  # doctest: +SKIP
    """
    check_eval()
    from eval.requests.evaluation import Request, evaluate_all

    request = Request(
        paths=_texts(models),
        suite=str(suite),
        target=_texts(target),
        kind=kind,
        base_model=base_model,
        out=_path(out),
        cache=_path(cache),
        attacks=[Path(folder) for folder in attacks],
        judge_style=str(judge_style),
        judge_object=str(judge_object),
        compat=compat,
        sequence=sequence,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        quiet=quiet,
    )
    summary = evaluate_all(request)
    if not summary.is_judged:
        log.warning("Not everything was judged, because weights are absent; the report says which.")
    return summary.report


def attack(
    model: str | Path,
    *,
    attack: str | Path = "soft",
    tokens: int | None = None,
    steps: int | None = None,
    tries: int | None = None,
    prompts: str | Path = "",
    suite: str | Path = "canvas",
    out: str | Path | None = None,
    target: str | Sequence[str] = (),
    kind: str | None = None,
    base_model: str | None = None,
    judge_style: str | Path = "",
    judge_object: str | Path = "",
    compat: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    quiet: bool = False,
) -> Path:
    """Attack an erased model, beside null attacks of the same number of images; ``evaluate`` then shows the result.

    Args:
        model: What ``erase_concept`` or ``erase run`` saved, or any diffusers folder.
        attack: ``soft``, ``discrete`` or ``seeds``: an attack in ``configs/attacks``, or a YAML file.
        tokens: Tokens in front of the prompt. If None, the attack's own number.
        steps: Gradient steps of each try. If None, the attack's own number.
        tries: Images for each prompt, of the attack and of each null. If None, the attack's own number.
        prompts: CSV of prompts that ask for the target. If empty, those of the suite's grid.
        suite: Prompts, sampler and judge: a suite in ``configs/suites``, or a YAML file.
        out: Folder for everything that is found. If None, ``MODEL.ATTACK``.
        target: What was erased, if no ``erasure.json`` says so.
        kind: Kind of the target: ``style`` (if None), ``object`` or ``combination``.
        base_model: The model before the erasure, if not where ``erasure.json`` says.
        judge_style: Checkpoint of the style classifier of a suite whose judge comes without weights.
        judge_object: Checkpoint of its object classifier.
        compat: Follow the published code of the benchmark where that differs.
        seed: All randomness of the search derives from it.
        batch_size: Images per forward. If None, the suite's. Images agree to 1 of 255 whatever it is.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        quiet: Show no progress bars of this package. Those of diffusers, which loads the models, stay.

    Returns:
        The path of the attack's report.

    Raises:
        FileNotFoundError: A model, a prompt file or weights do not exist.
        ValueError: A setting is wrong, the model cannot be attacked this way, or another package is named ``eval``.

    Example:
        >>> import erase
        >>> report = erase.attack("out/van-gogh", attack="soft")  # doctest: +SKIP
    """
    check_eval()
    from eval.requests.attack import Request, run_attack

    request = Request(
        folder=Path(model),
        attack=str(attack),
        suite=str(suite),
        target=_texts(target),
        tokens=tokens,
        steps=steps,
        tries=tries,
        prompts=str(prompts),
        out=_path(out),
        kind=kind,
        base_model=base_model,
        judge_style=str(judge_style),
        judge_object=str(judge_object),
        compat=compat,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        quiet=quiet,
    )
    return run_attack(request)


def generate(
    model: str | Path,
    prompts: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int = 50,
    batch_size: int = 32,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    header: bool = True,
    skip_empty: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    quiet: bool = False,
) -> Path | None:
    """Draw every prompt of a file with every seed; processes of torchrun or accelerate launch share the rows.

    Args:
        model: What ``erase_concept`` or ``erase run`` saved, a diffusers folder, a hub id, or ``canvas``.
        prompts: CSV, JSON or text file of prompts, or a shipped one.
        out: Folder for the images. A stopped generation in it goes on; images of other prompts or settings in it stay
            alone, and the new ones go into a folder beside it.
        seeds: For every prompt. If None, the file's own, or 0.
        guidance_scale: For every prompt. If None, the file's own, or that of the pipeline's call.
        num_inference_steps: Denoising steps.
        batch_size: Images per forward.
        negative_prompt: For every prompt.
        height: In pixels. If None, the model's own.
        width: In pixels. If None, the model's own.
        header: Whether a CSV begins with the names of its columns. Without them it has one prompt per line, as in HUB.
        skip_empty: Leave out rows without a prompt, as one of I2P's is.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        quiet: Show no progress bars of this package. Those of diffusers, which loads the models, stay.

    Returns:
        The folder of the images; None in every process but the first.

    Raises:
        FileNotFoundError: There is no such model or prompt file.
        OSError: The disk is full; the images that were drawn stay.
        ValueError: A setting is wrong, ``out`` holds something else, or another package is named ``eval``.

    Example:
        >>> import erase
        >>> folder = erase.generate("out/van-gogh", "prompts.csv", "out/images", seeds=range(5))  # doctest: +SKIP
    """
    check_eval()
    from eval.draw.prompt_images import run
    from eval.draw.prompt_set import Config
    from eval.suite.suite import Sampler

    config = Config(
        model=str(model),
        prompts=str(prompts),
        out=Path(out),
        sampler=Sampler(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
        ),
        seeds=None if seeds is None else list(seeds),
        device=device,
        dtype=dtype,
        header=header,
        skip_empty=skip_empty,
    )
    generation = run(config, progress=not quiet)
    return None if generation is None else generation.out


def read_scores(folder: str | Path) -> "dict[str, Scores]":
    """Read what the scorers said of every image of an evaluation.

    Args:
        folder: Where ``evaluate`` or ``erase eval`` wrote its report.

    Returns:
        The scores of each model by its label: ``records`` has one row per image, ``arrays`` the features.

    Raises:
        FileNotFoundError: The folder holds no scores.
        ValueError: Another package is named ``eval``.

    Example:
        >>> import erase
        >>> scores = erase.read_scores("out/van-gogh.eval")  # doctest: +SKIP
        >>> scores["base"].records["judge_style"]  # doctest: +SKIP
    """
    check_eval()
    from eval.score.table import read_scores as read

    return read(Path(folder))


def check_eval() -> None:
    """Refuse to go on if ``import eval`` gives something else than the package that belongs to ``erase``.

    Raises:
        ValueError: It says what has the name, and what to do.
    """
    expected = Path(__file__).resolve().parents[1] / "eval"
    origin = _origin_of_eval()
    if origin is None:
        raise ValueError(f"The package eval is missing in {expected.parent}: reinstall erase.")
    if origin.resolve() not in (expected, expected / "__init__.py"):
        raise ValueError(
            f"Python finds {origin} under the name 'eval', which hides the package of erase that evaluates: rename "
            "it, or start Python in another folder."
        )


def _origin_of_eval() -> Path | None:
    """Return the file, or the folder without ``__init__.py``, that ``import eval`` gives or already gave."""
    module = sys.modules.get("eval")
    spec = importlib.util.find_spec("eval") if module is None else module.__spec__
    origin = spec.origin if spec else getattr(module, "__file__", None)
    if origin is None and spec and spec.submodule_search_locations:
        origin = next(iter(spec.submodule_search_locations))
    return Path(origin) if origin else None


def _texts(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(each) for each in given]


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
