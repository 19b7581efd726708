"""Files of an evaluation: lines that a kill cut short, hashes of weights, and weights that lie in the hub's cache."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from eval.files import append_lines, find_weights, hash_weights, replacing
from eval.suite.suite import Suite


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


class Cache:
    """A hub's cache: a file by the hash of its content, and a link to it from each revision that has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(self, repository: str, file: str, content: bytes, *, commit: str = COMMIT, ref: str = "main") -> None:
        """Put a file in, as one of a commit that a branch or a tag stands for."""
        folder = self.root / f"models--{repository.replace('/', '--')}"
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        for path, value in ((blob, content), (folder / "refs" / ref, commit.encode())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
        link = folder / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Cache(tmp_path / "hub")


def test_a_line_that_a_kill_cut_short_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, [{"a": 1}, {"a": "é"}])
    for cut in (1, 4):
        whole = path.read_bytes()
        path.write_bytes(whole[:-cut])
        append_lines(path, [{"a": 3}])
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert lines[-1] == {"a": 3}
        assert lines[0] == {"a": 1}
        assert len(lines) == 2


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_the_hash_of_weights_is_of_all_files_of_a_folder(tmp_path: Path) -> None:
    assert hash_weights("") == hash_weights(tmp_path / "none") == ""
    for place in ("a", "b"):
        (tmp_path / place / "in").mkdir(parents=True)
        (tmp_path / place / "in" / "w.bin").write_bytes(b"weights")
        (tmp_path / place / "config.json").write_text("{}")
    assert hash_weights(tmp_path / "a") == hash_weights(str(tmp_path / "b")) != hash_weights(tmp_path / "a" / "in")
    (tmp_path / "b" / "in" / "w.bin").write_bytes(b"others!")
    assert hash_weights(tmp_path / "a") != hash_weights(tmp_path / "b")


def test_a_file_on_the_hub(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    cache.add("owner/name", "w.pth", b"newest")
    cache.add("owner/name", "in/a/folder/w.pth", b"deep")
    cache.add("owner/name", "w.pth", b"older", commit=OTHER, ref="v1.0")
    for name, content in [
        ("owner/name/w.pth", b"newest"),
        ("owner/name@main/w.pth", b"newest"),
        (f"owner/name@{COMMIT}/w.pth", b"newest"),
        ("owner/name@v1.0/w.pth", b"older"),
        ("owner/name/in/a/folder/w.pth", b"deep"),
    ]:
        assert find_weights(name).read_bytes() == content
    assert find_weights("") is None
    assert not caplog.records
    for absent in ("owner/name/none.pth", "owner/none/w.pth", "owner/name@v2/w.pth"):
        caplog.clear()
        assert find_weights(absent) is None
        assert f"The weights {absent} are neither a file on this machine" in caplog.text
        caplog.clear()
        assert find_weights(absent, local_only=True) is None
        assert not caplog.records
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/w.pth").write_bytes(b"here")
    assert find_weights("owner/name/w.pth").read_bytes() == b"here"  # what exists comes first
    for no_hub_file in ("w.pth", "owner/w.pth", "./owner/name/none.pth", str(tmp_path / "none.pth"), "owner/name/"):
        assert find_weights(no_hub_file) == Path(no_hub_file)  # for the loader to refuse


@pytest.mark.parametrize(("scorer", "setting"), [("inception", "weights"), ("lpips", "backbone")])
def test_a_suite_hashes_what_the_hub_holds(
    cache: Cache, tmp_path: Path, grid_suite: Suite, scorer: str, setting: str
) -> None:
    cache.add("owner/name", "w.pth", b"weights")
    (tmp_path / "w.pth").write_bytes(b"weights")
    places = ("owner/name/w.pth", str(tmp_path / "w.pth"), "owner/name/none.pth")
    suites = [replace(grid_suite, scorers={"judge": {}, scorer: {setting: place}}) for place in places]
    of_hub, local, absent = (suite.hash() for suite in suites)
    assert of_hub == local != absent
    assert suites[0].describe()["scorers"][scorer][setting] == places[0]  # as the suite names it
