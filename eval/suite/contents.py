"""What the settings of scorers count as in the hash of a suite: files by their content, never by their path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.files import find_weights, hash_weights


CANVAS = "canvas"  # the setting that stands for the shipped weights of the canvas
LOCAL = "local-dir:"  # before a folder, as open_clip writes it


def identify(scorers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of scorers with the content of each file or folder instead of its path, without batch sizes.

    Nothing is downloaded: weights on the hub count by their content once they are on this machine.
    """
    return {name: _settings(settings) | _shipped(name, settings) for name, settings in scorers.items()}


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _content(value) for name, value in settings.items() if name != "batch_size"}


def _content(value: object) -> object:
    """A SHA-256 for text that names a file or a folder on this machine; every other value as it is."""
    if isinstance(value, Mapping):
        return _settings(value)
    if not isinstance(value, str) or not value or value == CANVAS:
        return value
    path = find_weights(value.removeprefix(LOCAL), local_only=True)
    return {"sha256": hash_weights(path)} if path and path.exists() else value


def _shipped(name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the shipped weights that a scorer uses."""
    return {"shipped": hash_weights(folder)} if (folder := _shipped_folder(name, settings)) else {}


def _shipped_folder(name: str, settings: Mapping[str, Any]) -> Path | None:
    if name == "judge":
        from erase.canvas import judge

        return judge.folder()
    if CANVAS in settings.values():
        from erase.canvas import towers

        return towers.clip_folder()
    return None
