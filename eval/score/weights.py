"""Weights that a suite names by a path or by a file on the hub, and whether they are the published ones."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from erase.model.base_model import HUB_ID
from eval.draw.manifest import sha256


log = logging.getLogger(__name__)

NOT_PUBLISHED = "weights are not the published ones"


def find_weights(named: str, *, local_only: bool = False) -> Path | None:
    """The file of weights that a suite names.

    Args:
        named: a path, or where none exists a file on the hub: ``owner/name/file.pth``, or of one revision
            ``owner/name@revision/file.pth``.
        local_only: look for a file on the hub in the cache only.

    Returns:
        The path; one that does not exist is for the loader to refuse. None where nothing is named, or a file on the hub
        is neither in the cache nor can be fetched.
    """
    if not named or Path(named).exists():
        return Path(named) if named else None
    owner, _, rest = named.partition("/")
    name, _, file = rest.partition("/")
    match = HUB_ID.fullmatch(f"{owner}/{name}")
    if match is None or not file:
        return Path(named)
    try:
        return Path(hf_hub_download(match["id"], file, revision=match["revision"], local_files_only=local_only))
    except (OSError, ValueError, HfHubHTTPError) as error:
        if not local_only:
            log.warning(
                "The weights %s are neither a file on this machine nor one on the hub that is cached or can be fetched "
                "(%s); what needs them is not run.",
                named,
                type(error).__name__,
            )
        return None


def weights_card(path: Path, *, published: str) -> dict[str, Any]:
    """What a report keeps of a scorer's weights: their SHA-256, and whether it is that of the published file."""
    found = sha256(path)
    return {"weights_sha256": found, "is_published": found == published}


def mark_unpublished(metrics: Mapping[str, dict[str, Any]], names: Iterable[str], card: Mapping[str, Any]) -> None:
    """Say in the titles of metrics that other weights made their numbers, where a scorer's card says so."""
    if card.get("is_published", True):
        return
    for name in names:
        if name in metrics:
            metrics[name]["title"] += f", {NOT_PUBLISHED}"
