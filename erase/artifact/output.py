"""An output folder that appears whole or not at all, and never in the place of something that exists."""

import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_out(out: Path) -> None:
    """Refuse an output folder that holds something, or that a finished folder cannot be renamed to."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"The output {out} exists and is not a plain folder: choose another one.")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"The output folder {out} already holds something, which is kept: choose another one, or remove it first."
        )
    if out.is_mount() or out.name in ("", ".."):
        raise ValueError(f"The output folder {out} cannot be replaced by a finished one: name a new folder inside it.")


def check_room(out: Path, needed: int) -> None:
    """Refuse to start what would not fit on the disk of ``out``."""
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The result needs {needed / 1e9:.3g} GB, but {folder} has {free / 1e9:.3g} GB left: free some space "
            "or choose another folder."
        )


@contextmanager
def temporary_sibling(out: Path) -> Iterator[Path]:
    """Yield a new folder beside ``out`` that is gone afterwards unless it was renamed; leftovers of kills go first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        owner = leftover.name.rpartition("-")[2]
        if owner.isdecimal() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
    except Exception as error:
        # tokenizers and safetensors report a full disk as exceptions of their own, with the system's number in the text
        code = error.errno if isinstance(error, OSError) else _system_error(str(error))
        if code is None:
            raise
        reason = "the disk is full" if code in NO_ROOM else os.strerror(code)
        raise OSError(
            f"{out} could not be saved ({reason}); nothing that existed was touched: mend that and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fix_modes(folder: Path, *, like: Path) -> None:
    """Give every file the mode of one that was opened normally; safetensors writes 0600 whatever the umask."""
    mode = like.stat().st_mode & 0o777
    for path in list_files(folder):
        path.chmod(mode)


def list_files(folder: Path) -> list[Path]:
    """Return all files below ``folder`` in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _system_error(text: str) -> int | None:
    match = re.search(r"os error (\d+)", text)
    return int(match[1]) if match else None
