"""The model card of an artefact: what is erased, how to load it, what it cost, what it does not promise."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from erase.model.base_model import CANVAS, HUB_ID


UNKNOWN = "unknown"  # the method of an erasure that was made elsewhere and does not tell
LIMITS = """\
- Erasure is a change of behaviour, not a proof of absence: other wordings, other languages, adversarial prompts,
  image prompts and fine-tuning can bring a concept back. Measure it before you rely on it: `erase eval FOLDER`.
- Related concepts may have suffered; the same command measures that too.
- The licence and the limits of the base model hold for this model as well.
- The text encoder's weights have the hub's `text_model.` names, which transformers 4.46 and 5 read; the tokenizer
  files need transformers 5 unless `vocab.json` and `merges.txt` are among them.\
"""


def model_card(folder_name: str, facts: dict[str, Any], *, form: str, changed: list[str], licence: str | None) -> str:
    """Return the README of an artefact.

    Args:
        folder_name: The last part of the artefact's path, used in the loading line.
        facts: The content of ``erasure.json`` without the file hashes.
        form: ``pipeline`` or ``delta``.
        changed: The names of the changed tensors.
        licence: The base model's licence, if it is known.

    Returns:
        Markdown with the hub's header.
    """
    concept, base = facts["concept"], facts["base"]
    title = "erased from" if changed else "avoided during inference in"
    if "imported" in facts["config"]:
        title = f"said to be {title}"
    return f"""\
---
{_header(facts, licence)}
---

# {", ".join(concept["target"])} {title} {_public_name(base)}

{_claim(facts, changed)}:
{describe_weights(changed)}.

## Load

{_loading_lines(folder_name, facts, form=form, is_inference_only=not changed)}

## Cost

{_cost_line(facts)}

## Limits

{LIMITS}

## Base model and licence

{_public_name(base)}, revision {base["revision"] or "not given"}, SHA-256 of the weights `{base["hash"]}`.
Licence: {licence or "that of the base model, which does not state it in its folder; look it up before you share this"}.

## Made with

{", ".join(f"{name} {version}" for name, version in facts["versions"].items())}. All settings are in `erasure.json`.
"""


def describe_weights(changed: list[str]) -> str:
    """Say what was done to the weights, by the names of the changed tensors.

    Example:
        >>> describe_weights([])
        'nothing removed from the weights, which are those of the base model'
        >>> describe_weights(["unet.a.weight", "unet.b.weight"])
        '2 tensors of unet differ from the base model'
    """
    if not changed:
        return "nothing removed from the weights, which are those of the base model"
    parts = sorted({name.partition(".")[0] for name in changed})
    difference = "are added to" if parts == ["guider"] else "differ from"
    return f"{len(changed)} tensors of {' and '.join(parts)} {difference} the base model"


def read_licence(base_folder: Path) -> str | None:
    """Return the licence that the base model's own card states in its header, if it does."""
    card = base_folder / "README.md"
    if not card.is_file():
        return None
    header = card.read_text(encoding="utf-8", errors="replace").split("---")
    lines = header[1].splitlines() if len(header) > 2 and not header[0].strip() else []
    stated = [line.partition(":")[2].strip() for line in lines if line.startswith("license:")]
    return stated[0] if stated and stated[0] else None


def _claim(facts: dict[str, Any], changed: list[str]) -> str:
    concept = facts["concept"]
    names = f"The {concept['kind']} **{', '.join(concept['target'])}**"
    if imported := facts["config"].get("imported"):
        method = "a method that is not known" if facts["method"] == UNKNOWN else f"the method `{facts['method']}`"
        notes = "".join(f" ({note})" for note in imported["notes"])
        return (
            f"{names} is said to be erased by whoever imported `{imported['file']}`, made elsewhere by "
            f"{method}{notes}; nothing in that file proves it"
        )
    anchor = f"“{concept['anchor']}”" if concept["anchor"] else "nothing (the unconditional prompt)"
    done = f"is mapped to {anchor}" if changed else "is kept out of the images"
    return f"{names} {done} by the method `{facts['method']}`"


def _cost_line(facts: dict[str, Any]) -> str:
    cost = facts["cost"]
    if cost is None:
        return f"Not known: it was made elsewhere. Saved here in {facts['dtype']}."
    recomputed = cost.get("unet_recomputed", 0)  # not counted in records of earlier versions
    again = f", which computed {recomputed:,} forwards again" if recomputed else ""
    return (
        f"{cost['unet_forwards']:,} UNet forwards and {cost['unet_backwards']:,} backwards (in samples){again}, "
        f"{cost['seconds']:.1f} seconds on {facts['config']['device']} in {facts['dtype']}, seed {facts['seed']}."
    )


def _header(facts: dict[str, Any], licence: str | None) -> str:
    base = facts["base"]
    is_hub = base["revision"] is not None and HUB_ID.fullmatch(base["id"]) is not None
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base["id"] if is_hub else None,
        license=licence or "other",
        license_name=None if licence else "same-as-base-model",
        tags=["concept-erasure", *([] if facts["method"] == UNKNOWN else [facts["method"]])],
    )
    return data.to_yaml().strip()


def _public_name(base: dict[str, Any]) -> str:
    """A card may be published, so a folder on somebody's machine goes by its last name."""
    if base["id"] == CANVAS:
        return "the canvas model of erase"
    return base["id"] if base["revision"] else f"the folder {Path(base['id']).name}"


def _loading_lines(folder_name: str, facts: dict[str, Any], *, form: str, is_inference_only: bool) -> str:
    if form == "delta":
        return f"""\
This folder holds only what changed. It needs its base model, and no other library opens it:

```python
import erase
pipe = erase.load_erased("{folder_name}")
```

`erase export {folder_name} --format pipeline --out OUT` makes a folder that plain diffusers opens."""
    if facts["method"] == "unguide":
        return f"""\
Plain diffusers and peft; `pipeline.py` and `guider/unguidance.py` are run, so read them first:

```python
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{folder_name}", dtype=torch.{facts["dtype"]}, trust_remote_code=True)
```

`erase.load_erased("{folder_name}")` runs no code of the folder and checks every file. The folder `unet` holds the
base's own weights: a tool that picks it out, or a folder that has lost `pipeline.py`, is **not erased**. The adapter
alone erases for every prompt and guides nothing:
`pipe.load_lora_weights("{folder_name}", subfolder="guider", weight_name="pytorch_lora_weights.safetensors")`."""
    if is_inference_only:
        return f"""\
Plain diffusers; `inference_only.py` is run, so read it first:

```python
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{folder_name}", dtype=torch.{facts["dtype"]}, trust_remote_code=True)
```

`erase.load_erased("{folder_name}")` runs no code of the folder and checks every file. Every weight is the base's own: a
tool that picks a component out, or a folder that has lost `inference_only.py`, is the base, **not erased**."""
    return f"""\
Plain diffusers, no other package:

```python
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{folder_name}", dtype=torch.{facts["dtype"]})
```"""
