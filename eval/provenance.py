"""What a report was made with: versions, machine and time."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any


PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Versions of what decides a number, the machine, and the time in UTC."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "versions": versions | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
