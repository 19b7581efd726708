"""Weights that a suite names by a file on the hub; what is in the hub's cache is there, and nothing is fetched."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import torchvision
from open_clip.pretrained import get_pretrained_url

from erase.cli.main import main
from erase.prompts import data_folder
from eval.score import scoring
from eval.score.prompt_scoring import load_scorers, missing_weights
from eval.score.scorers import inception, lpips
from eval.score.weights import find_weights
from eval.suite.config import SuiteConfig, describe_suite, has_weights
from eval.suite.prompt_config import PromptFile, PromptSuiteConfig, prompt_suite_hash


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
GRID = """
name: few
styles: [Photo, Van_Gogh]
objects: [Cats, Dogs]
seeds: [1]
held_out: ""
num_inference_steps: 1
gold: false
clip: ""
resamples: 20
aspects: [general_image]
lpips: {lpips}
inception: {inception}
"""
PROMPTS = """
name: few
prompts:
  - path: prompts.csv
    source: a file of this test
scorers: [inception]
num_inference_steps: 1
resamples: 20
inception: {inception}
"""


class Cache:
    """A hub's cache: a file by the hash of its content, and a link to it from each revision that has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(self, repository: str, file: str, content: bytes, *, commit: str = COMMIT, ref: str = "main") -> None:
        """Put a file in, as one of a commit that a branch or a tag stands for."""
        folder = self.root / f"models--{repository.replace('/', '--')}"
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        for path, told in ((blob, content), (folder / "refs" / ref, commit.encode())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(told)
        link = folder / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Cache(tmp_path / "hub")


@pytest.fixture
def call(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Any]:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    (tmp_path / "prompts.csv").write_text("prompt\na cat\na dog\n")
    monkeypatch.chdir(tmp_path)

    def run(suite: str, *arguments: str, model: str = "tiny") -> tuple[int, str, str]:
        (tmp_path / "few.yaml").write_text(suite)
        flags = ["--base-model", model, "--suite", "few.yaml", "--quiet", "--device", "cpu"]
        with pytest.raises(SystemExit) as stopped:
            main(["eval", model, "--target", "Van Gogh", *flags, *arguments])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_file_on_the_hub(hub: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    hub.add("owner/name", "w.pth", b"newest")
    hub.add("owner/name", "in/a/folder/w.pth", b"deep")
    hub.add("owner/name", "w.pth", b"older", commit=OTHER, ref="v1.0")
    for named, content in [
        ("owner/name/w.pth", b"newest"),
        ("owner/name@main/w.pth", b"newest"),
        (f"owner/name@{COMMIT}/w.pth", b"newest"),
        ("owner/name@v1.0/w.pth", b"older"),
        ("owner/name/in/a/folder/w.pth", b"deep"),
    ]:
        assert find_weights(named).read_bytes() == content
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


def test_a_suite_hashes_what_the_hub_holds(hub: Cache, tmp_path: Path, suite: SuiteConfig) -> None:
    hub.add("owner/name", "w.pth", b"weights")
    (tmp_path / "w.pth").write_bytes(b"weights")
    (tmp_path / "prompts.csv").write_text("prompt\na cat\n")
    file = PromptFile(path=str(tmp_path / "prompts.csv"), source="a file of this test")
    prompts = PromptSuiteConfig(name="few", prompts=[file], scorers=["inception"])
    places = ("owner/name/w.pth", str(tmp_path / "w.pth"), "owner/name/none.pth")
    for of_hub, local, absent in (
        [describe_suite(replace(suite, inception=place))["hash"] for place in places],
        [describe_suite(replace(suite, lpips=place))["hash"] for place in places],
        [prompt_suite_hash(replace(prompts, inception=place)) for place in places],
    ):
        assert of_hub == local != absent
    assert describe_suite(replace(suite, inception=places[0]))["inception"] == places[0]  # as it was named
    assert [has_weights(replace(suite, inception=place)) for place in places] == [True, True, False]
    assert [has_weights(replace(suite, lpips=place)) for place in places] == [True, True, False]
    assert [missing_weights(replace(prompts, inception=place)) for place in places] == [[], [], ["inception"]]
    absent_ones = replace(suite, lpips=places[2], inception=places[2], judge="canvas")
    found = scoring.load_scorers(absent_ones)
    assert (found.lpips, found.inception) == (None, None)
    assert load_scorers(replace(prompts, inception=places[2])).images.inception is None
    with pytest.raises(FileNotFoundError, match="AlexNet weights"):
        scoring.load_scorers(replace(suite, lpips=str(tmp_path / "none.pth")))


def test_lpips_of_the_hub_and_what_its_weights_are(
    hub: Cache, call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    hub.add("owner/name", "w.pth", content)
    asked = GRID.format(lpips="owner/name/w.pth", inception="owner/name/none.pth")
    code, _, err = call(asked, "--out", "o", model="canvas")  # 16 px are too few for AlexNet
    assert code == 3, err
    assert "The weights owner/name/none.pth are neither a file on this machine" in caplog.text
    text, page = ((tmp_path / "o" / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| Drift, LPIPS", "| FID", "| KID"))]
    assert rows[0][0] == "| Drift, LPIPS (alex), weights are not the published ones"
    assert rows[0][2].startswith("0.000")
    assert [row[2] for row in rows[1:]] == ["not run: weights absent"] * 2
    assert "not the published file" in page
    report = json.loads((tmp_path / "o/report.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(content).hexdigest()
    assert report["provenance"]["lpips"] == {"weights_sha256": digest, "is_published": False}
    assert "inception" not in report["provenance"]

    monkeypatch.setattr(lpips, "PUBLISHED", digest)
    code, _, err = call(asked.replace("owner/name/none.pth", '""'), "--out", "p", model="canvas")
    assert (code, err) == (0, "")
    text = (tmp_path / "p/report.md").read_text(encoding="utf-8")
    assert "| Drift, LPIPS (alex) | " in text
    assert "published" not in text
    assert "the published file" in (tmp_path / "p/report.html").read_text(encoding="utf-8")


def test_inception_of_the_hub(hub: Cache, call: Callable, tmp_path: Path) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    suite = PROMPTS.format(inception="owner/name@v1/w.pth")
    code, out, _ = call(suite, "--dry-run")
    assert code == 0
    assert "inception (not run: weights absent, unless owner/name@v1/w.pth can be fetched)" in out
    code, _, _ = call(suite, "--out", "o")
    assert code == 3
    assert "| not run: weights absent |" in (tmp_path / "o/report.md").read_text(encoding="utf-8")

    class Random(extractor.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep the random weights."""

    torch.save({}, tmp_path / "empty.pth")
    torch.save(Random("random", ["2048"], str(tmp_path / "empty.pth")).state_dict(), tmp_path / "w.pth")
    hub.add("owner/name", "w.pth", (tmp_path / "w.pth").read_bytes(), ref="v1")
    code, out, _ = call(suite, "--dry-run")
    assert "scorers:        inception\n" in out
    code, _, err = call(suite, "--out", "o")
    assert code == 0, err
    text = (tmp_path / "o/report.md").read_text(encoding="utf-8")
    assert "weights absent" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| FID to base")]
    assert row.startswith(
        "| FID to base (torchmetrics Inception 2048, bilinear 299, antialias), weights are not the pub"
    )
    assert "2049 are needed" in row
    report = json.loads((tmp_path / "o/report.json").read_text(encoding="utf-8"))
    assert report["provenance"]["inception"]["is_published"] is False
    assert "not the published file" in (tmp_path / "o/report.html").read_text(encoding="utf-8")


def test_published_hashes_are_those_that_other_packages_name() -> None:
    named = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    assert named.endswith(f"alexnet-owt-{lpips.PUBLISHED[:8]}.pth")
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    assert extractor.URL_INCEPTION_V3.endswith(f"weights-inception-2015-12-05-{inception.PUBLISHED[:8]}.pth")
    told = (data_folder("prompts") / "README.md").read_text(encoding="utf-8")
    for model in ("ViT-B-32", "ViT-L-14"):
        assert get_pretrained_url(model, "openai").split("/")[-2] in told
    assert inception.PUBLISHED in told
    assert lpips.PUBLISHED in told
