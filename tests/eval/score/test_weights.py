"""Weights of scorers that a suite names by a file on the hub; the hub's cache is read, and nothing is fetched."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import torchvision
from open_clip.pretrained import get_pretrained_url

from erase.prompts import data_folder
from eval.score.run import load_scorers
from eval.score.scorers import inception, lpips
from eval.score.scorers_of import scorer_lines
from eval.suite.grid import GridRows
from eval.suite.suite import Suite


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB, LOCAL, NONE = "owner/name/w.pth", "w.pth", "owner/name/none.pth"


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """AlexNet at random, both as a file here and in the hub's cache."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / LOCAL)
    snapshot = tmp_path / "hub/models--owner--name/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "w.pth").symlink_to(tmp_path / LOCAL)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMIT)
    return (tmp_path / LOCAL).read_bytes()


def suite(backbone: str, weights: str = "") -> Suite:
    scorers: dict[str, dict] = {"lpips": {"backbone": backbone}}
    return Suite(
        name="few", grid=GridRows(), scorers=scorers | ({"inception": {"weights": weights}} if weights else {})
    )


@pytest.mark.parametrize("place", [HUB, LOCAL])
def test_weights_on_the_hub_are_weights(content: bytes, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    code = hashlib.sha256(content).hexdigest()
    assert scorer_lines(suite(place)) == ["lpips"]
    scorers = load_scorers(suite(place))
    assert (scorers.is_complete, scorers.provided["drift_lpips"]) == (True, "")
    assert scorers.cards() == {"lpips": {"weights_sha256": code, "is_published": False}}
    monkeypatch.setattr(lpips, "PUBLISHED", code)
    assert load_scorers(suite(place)).cards()["lpips"]["is_published"] is True


def test_weights_that_cannot_be_fetched(content: bytes, caplog: Any) -> None:
    asked = suite(NONE, NONE)
    assert not caplog.records
    hope = f"(not run: weights absent, unless {NONE} can be fetched)"
    assert scorer_lines(asked) == [f"lpips {hope}, inception {hope}"]
    scorers = load_scorers(asked)
    assert f"The weights {NONE} are neither a file on this machine" in caplog.text
    assert scorers.absent == {"lpips": "weights absent", "inception": "weights absent"}
    assert scorers.cards() == {name: {"not_run": "weights absent"} for name in ("lpips", "inception")}
    with pytest.raises(FileNotFoundError, match=r"AlexNet weights none\.pth do not exist"):
        load_scorers(suite("none.pth"))


def test_published_hashes_are_those_that_other_packages_name() -> None:
    address = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    assert address.endswith(f"alexnet-owt-{lpips.PUBLISHED[:8]}.pth")
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    assert extractor.URL_INCEPTION_V3.endswith(f"weights-inception-2015-12-05-{inception.PUBLISHED[:8]}.pth")
    readme = (data_folder("prompts") / "README.md").read_text(encoding="utf-8")
    for model in ("ViT-B-32", "ViT-L-14"):
        assert get_pretrained_url(model, "openai").split("/")[-2] in readme
    assert inception.PUBLISHED in readme
    assert lpips.PUBLISHED in readme
