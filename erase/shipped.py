"""Where the shipped canvas weights lie, found without importing torch."""

from pathlib import Path


FOLDER = Path(__file__).parent / "canvas" / "weights"


def base_folder() -> Path:
    """Return the base model, a folder that ``StableDiffusionPipeline.from_pretrained`` opens.

    Raises:
        FileNotFoundError: The weights are not installed.
    """
    path = FOLDER / "base"
    if not (path / "model_index.json").exists():
        raise FileNotFoundError(f"{path} holds no canvas model; reinstall the package or run `erase canvas train`.")
    return path


def gold_names() -> list[str]:
    """Return the concepts for which a UNet retrained without them is shipped."""
    return sorted(path.name for path in (FOLDER / "gold").glob("*") if (path / "config.json").exists())
