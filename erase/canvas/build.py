"""Train the canvas stage by stage; every stage finds what the stages before it left in the work folder."""

import time
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from erase.canvas import autoencoder, dataset, generator, judge, towers, weights
from erase.canvas.tokens import train_tokenizer
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES


GOLD = ("Van_Gogh", "Cats")  # what is shipped; any other concept can be trained
STEPS = {"vae": 2600, "towers": 900, "judge": 3000, "unet": 8000}
STAGES = ("vae", "towers", "judge", "unet", *(f"gold-{name}" for name in GOLD))


def train_stage(stage: str, data: Path, work: Path, out: Path, *, seed: int = 0) -> float:
    """Train one stage, or go on with it, and write its weights to ``out``; returns the seconds it took.

    ``gold-<concept>`` takes any style or object; in a work folder without any of the parts that it shares with the
    base, it takes the shipped ones.

    Raises:
        ValueError: an unknown stage.
        FileNotFoundError: a split or an earlier stage is missing.
    """
    stages: dict[str, Callable[[], None]] = {
        "vae": lambda: _vae(data, work, seed),
        "towers": lambda: _towers(data, work, out, seed),
        "judge": lambda: _judge(data, work, out, seed),
        "unet": lambda: _unet(None, data, work, out, seed),
    } | {f"gold-{name}": lambda name=name: _unet(name, data, work, out, seed) for name in (*STYLE_NAMES, *OBJECT_NAMES)}
    if stage not in stages:
        raise ValueError(f"There is no stage {stage!r}; choose one of {', '.join(STAGES)}, or gold-<concept>.")
    work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    stages[stage]()
    recipe = {"steps": STEPS["unet" if stage.startswith("gold-") else stage], "seed": seed, "world": dataset.WORLD}
    weights.write_recipe(stage, recipe | {"splits": dataset.SPLITS}, out)
    return time.perf_counter() - start


def _vae(data: Path, work: Path, seed: int) -> None:
    pictures = dataset.load(data / "generator.npz")
    autoencoder.train(pictures.images, work, steps=STEPS["vae"], seed=seed).save_pretrained(work / "vae")


def _towers(data: Path, work: Path, out: Path, seed: int) -> None:
    tokenizer = train_tokenizer(seed)
    tokenizer.save_pretrained(work / "tokenizer")
    trained = towers.train(dataset.load(data / "judge.npz"), tokenizer, work, steps=STEPS["towers"], seed=seed)
    trained.text.save_pretrained(work / "text_encoder")
    towers.save_clip(trained, tokenizer, out / "clip")


def _judge(data: Path, work: Path, out: Path, seed: int) -> None:
    trained = judge.train(dataset.load(data / "judge.npz"), work, steps=STEPS["judge"], seed=seed)
    judge.save(trained, dataset.load(data / "held_out.npz"), out / "judge")


def _unet(absent: str | None, data: Path, work: Path, out: Path, seed: int) -> None:
    vae, text_encoder, tokenizer = _frozen_parts(absent, work)
    pictures = dataset.load(data / "generator.npz")
    if absent is not None:
        pictures = generator.without(pictures, absent)
    name = "unet" if absent is None else f"gold-{absent}"
    unet = generator.train(pictures, vae, text_encoder, tokenizer, work, name=name, steps=STEPS["unet"], seed=seed)
    if absent is None:
        weights.write_base(vae, text_encoder, tokenizer, unet, out)
    else:
        weights.write_gold(unet, absent, out)


def _frozen_parts(absent: str | None, work: Path) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer]:
    missing = [part for part in ("vae", "text_encoder", "tokenizer") if not (work / part).exists()]
    if absent is not None and len(missing) == 3:
        pipe = weights.load_base()
        return pipe.vae, pipe.text_encoder, pipe.tokenizer
    if missing:
        raise FileNotFoundError(f"{work / missing[0]} does not exist; train the stages vae and towers first.")
    vae = AutoencoderKL.from_pretrained(work / "vae")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    return vae, text_encoder, CLIPTokenizer.from_pretrained(work / "tokenizer")
