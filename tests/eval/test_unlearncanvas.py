"""The UnlearnCanvas suites: world, judge of two timm classifiers, and what is reported without their weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torchvision import transforms

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES, template
from erase.cli.main import NOT_JUDGED, main
from erase.concept import Concept
from eval.attack.robustness import attack
from eval.draw import manifest
from eval.draw.generate import generate
from eval.evaluate import evaluate, suite_rows
from eval.formulas.accuracy import unlearn_canvas
from eval.formulas.intervals import wilson
from eval.measure.aggregate import Summary
from eval.measure.compare import read_models
from eval.measure.sequence import read_sequence
from eval.score.scorers import classifier, timm_pair
from eval.score.scoring import load_scorers
from eval.suite.config import SuiteConfig, load_suite
from eval.suite.grid import Target, find_target
from eval.suite.world import load_world


WORLD = load_world("unlearncanvas")
VAN_GOGH = Target("style", ("Van_Gogh",))
ARCHITECTURE = "test_vit"  # 160 px, 0.4 M parameters
SUITE = """
name: few
world: unlearncanvas
styles: [Monet, Seed_Images, Van_Gogh]
objects: [Cats, Dogs]
seeds: [1, 2, 3, 4]
held_out: ""
num_inference_steps: 2
gold: false
judge: timm_pair
timm_pair: {architecture: test_vit}
clip: ""
resamples: 50
aspects: [target_image, general_image, efficiency]
"""
JUDGED = ("ua", "ira", "cra_excl_target", "cra_code", "normalised_erasure", "diversity", "fd_canvas", "kid_canvas")


def as_the_authors_do(path: Path | Image.Image, side: int = 160) -> torch.Tensor:
    """The preprocessing of the benchmark's ``accuracy.py``, by the library that it uses."""
    image = path if isinstance(path, Image.Image) else Image.open(path)
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    return transforms.Compose(steps)(image.convert("RGB"))[None]


def blank_model(classes: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        return timm.create_model(ARCHITECTURE, num_classes=classes).eval()


def save(model: torch.nn.Module, path: Path) -> Path:
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "few.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def judge(tiny_folder: Path, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints whose heads are fitted to what the base draws."""
    place = tmp_path_factory.mktemp("judge")
    rows = suite_rows(load_suite(str(suite_file)), VAN_GOGH)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    generate(pipe, rows, place, num_inference_steps=2, guidance_scale=5.0, progress=False)
    images = torch.cat([as_the_authors_do(place / "images" / f"{row.key}.png") for row in rows])
    files = {}
    for kind in ("style", "object"):
        labels = WORLD.labels(kind)
        model = blank_model(len(labels))
        with torch.no_grad():
            pooled = model.forward_head(model.forward_features(images), pre_logits=True)
            shift = pooled.mean(0)
            wanted = torch.zeros(len(rows), len(labels), dtype=torch.float64)
            wanted[range(len(rows)), [labels.index(getattr(row, kind)) for row in rows]] = 16.0
            seen = (pooled - shift).double()
            kernel = seen @ seen.T  # ridge, since exact weights would be so large that rounding decides
            ridge = kernel.trace() / len(rows) * 1e-6 * torch.eye(len(rows), dtype=torch.float64)
            weight = (seen.T @ torch.linalg.solve(kernel + ridge, wanted)).float()
            model.head.weight.copy_(weight.T)
            model.head.bias.copy_(-8 - shift @ weight)
        files[kind] = save(model, place / f"{kind}.pth")
    return files


@pytest.fixture(scope="module")
def suite(suite_file: Path, judge: dict[str, Path]) -> SuiteConfig:
    return load_suite(str(suite_file), judge_style=str(judge["style"]), judge_object=str(judge["object"]))


def damaged(pipe: StableDiffusionPipeline, scale: float = 0.3) -> StableDiffusionPipeline:
    """Something else than the base, so that some answers of the judge change."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(scale * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return pipe


def content_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_the_world_is_the_benchmarks() -> None:
    styles, objects = WORLD.labels("style"), WORLD.labels("object")
    assert (len(styles), len(objects)) == (51, 20)
    assert list(styles) == sorted(styles)
    assert list(objects) == sorted(objects)
    assert styles.index("Seed_Images") == 38
    assert WORLD.prompt("Seed_Images", "Sea") == "A Sea image in Photo style."
    compat = load_world("unlearncanvas", compat=True)
    assert compat.prompt("Seed_Images", "Sea") == "A Sea image in Seed Images style."
    assert compat.prompt("Red_Blue_Ink", "Sea") == WORLD.prompt("Red_Blue_Ink", "Sea")
    assert find_target(["van gogh", "Photo"], "style", WORLD).names == ("Van_Gogh", "Seed_Images")
    with pytest.raises(ValueError, match=r"world unlearncanvas has no object 'Unicorns'; it has Architectures, Bears"):
        find_target(["Unicorns"], "object", WORLD)


def test_the_canvas_world_keeps_its_prompts() -> None:
    canvas = load_world("canvas")
    assert (canvas.labels("style"), canvas.labels("object")) == (STYLE_NAMES, OBJECT_NAMES)
    assert all(canvas.prompt(style, obj) == template(style, obj) for style in STYLE_NAMES for obj in OBJECT_NAMES)
    with pytest.raises(ValueError, match="no published code"):
        load_world("canvas", compat=True)
    with pytest.raises(ValueError, match="no world 'mars'; there are canvas, unlearncanvas"):
        load_world("mars")


def test_the_shipped_suites() -> None:
    full, mini = load_suite("unlearncanvas"), load_suite("unlearncanvas-mini")
    rows = suite_rows(full, VAN_GOGH)
    assert len(rows) == 51 * 20 * 5
    assert sum(row.role == "target" for row in rows) == 100
    assert {row.seed for row in rows} == {188, 288, 588, 688, 888}
    for config in (full, mini):
        assert (config.num_inference_steps, config.guidance_scale) == (100, 9)
        assert not config.has_judge
    known = {row.key: row.prompt for row in rows}
    few = suite_rows(mini, VAN_GOGH)
    assert len(few) == 1000
    assert sum(row.key in known for row in few) == 500  # what both draw is drawn once
    assert all(known.get(row.key, row.prompt) == row.prompt for row in few)
    for kind, names in zip(("style", "object"), mini.axes, strict=True):
        n = {name: sum(row.role == "target" for row in suite_rows(mini, Target(kind, (name,)))) for name in names}
        assert set(n.values()) == {100}
    for hits, half in ((50, 0.096), (90, 0.060)):  # what its comment says
        lo, hi = wilson(hits, 100)
        assert (hi - lo) / 2 == pytest.approx(half, abs=5e-4)


def test_the_pair_sees_what_the_benchmarks_code_sees(judge: dict[str, Path]) -> None:
    """Sizes that are not square and not equal, against timm and torchvision as the benchmark calls them."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((48, 80), (300, 200))]
    files = timm_pair.Config(style=str(judge["style"]), object=str(judge["object"]), architecture=ARCHITECTURE)
    pair = timm_pair.load(files, WORLD)
    with torch.no_grad():
        found = pair(pair.prepare(images))
    for kind, logits in (("style", found.style_logits), ("object", found.object_logits)):
        model = blank_model(len(WORLD.labels(kind)))
        model.load_state_dict(torch.load(judge[kind], weights_only=True)["model_state_dict"])
        with torch.no_grad():
            expected = torch.cat([model(as_the_authors_do(image)) for image in images])
        assert torch.allclose(logits, expected, atol=1e-4)
    assert found.features.shape == (2, 2 * 64)


def test_compat_sees_the_jpeg(judge: dict[str, Path], tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / "as_saved.jpg")
    files = timm_pair.Config(style=str(judge["style"]), object=str(judge["object"]), architecture=ARCHITECTURE)
    right, compat = (timm_pair.load(files, WORLD, compat=value) for value in (False, True))
    assert torch.allclose(compat.prepare([image]), as_the_authors_do(tmp_path / "as_saved.jpg"), atol=1e-6)
    assert torch.allclose(right.prepare([image]), as_the_authors_do(image), atol=1e-6)
    assert not torch.allclose(right.prepare([image]), compat.prepare([image]), atol=0.1)
    assert "JPEG" in compat.card["preprocessing"]
    assert "JPEG" not in right.card["preprocessing"]


def test_an_order_file_puts_the_classes_in_their_places(judge: dict[str, Path], tmp_path: Path) -> None:
    order = {kind: list(WORLD.labels(kind)) for kind in ("style", "object")}
    turned = {kind: [*labels[7:], *labels[:7]] for kind, labels in order.items()}
    paths = {}
    for kind, labels in turned.items():
        model = blank_model(len(labels))
        model.load_state_dict(torch.load(judge[kind], weights_only=True)["model_state_dict"])
        places = [order[kind].index(label) for label in labels]
        with torch.no_grad():
            model.head.weight.copy_(model.head.weight[places].clone())
            model.head.bias.copy_(model.head.bias[places].clone())
        paths[kind] = str(save(model, tmp_path / f"{kind}.pth"))
    (tmp_path / "order.json").write_text(json.dumps(turned))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    plain = timm_pair.Config(**{kind: str(path) for kind, path in judge.items()}, architecture=ARCHITECTURE)
    moved = timm_pair.Config(**paths, architecture=ARCHITECTURE, labels=str(tmp_path / "order.json"))
    with torch.no_grad():
        one, other = (pair(pair.prepare([image])) for pair in (timm_pair.load(each, WORLD) for each in (plain, moved)))
    assert torch.allclose(one.style_logits, other.style_logits, atol=1e-5)
    assert torch.allclose(one.object_logits, other.object_logits, atol=1e-5)
    for change, match in (
        ({"style": turned["style"][1:]}, r"has 50 styles, of which some are missing; the world unlearncanvas has 51"),
        ({"object": ["Cat", *turned["object"][1:]]}, r"has 20 objects, with 'Cat' unknown or twice"),
        ({"object": 3}, "must hold"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(turned | change))
        with pytest.raises(ValueError, match=match):
            timm_pair.load(replace(moved, labels=str(tmp_path / "wrong.json")), WORLD)
    (tmp_path / "wrong.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        timm_pair.load(replace(moved, labels=str(tmp_path / "wrong.json")), WORLD)


def test_another_order_in_the_same_file_is_another_judge(judge: dict[str, Path], tmp_path: Path) -> None:
    order = {kind: list(WORLD.labels(kind)) for kind in ("style", "object")}
    files = {kind: str(path) for kind, path in judge.items()}
    config = timm_pair.Config(**files, architecture=ARCHITECTURE, labels=str(tmp_path / "order.json"))
    identities = []
    for turned in (order, {kind: labels[::-1] for kind, labels in order.items()}):
        (tmp_path / "order.json").write_text(json.dumps(turned))
        pair = timm_pair.load(config, WORLD)
        own = classifier.Config(judge=pair, styles=WORLD.labels("style"), objects=WORLD.labels("object"))
        identities.append(classifier.load(replace(own, prepare=pair.prepare)).identity)
    assert None not in identities
    assert identities[0] != identities[1]


def test_wrong_checkpoints_are_one_sentence(judge: dict[str, Path], tmp_path: Path) -> None:
    style, obj = str(judge["style"]), str(judge["object"])

    def load(**fields: str) -> None:
        timm_pair.load(
            timm_pair.Config(**{"style": style, "object": obj, "architecture": ARCHITECTURE} | fields), WORLD
        )

    with pytest.raises(
        ValueError, match=r"style checkpoint .* has 20 classes, but .* 51 styles; .* both files swapped"
    ):
        load(style=obj, object=style)
    with pytest.raises(ValueError, match=r"has 50 classes, but the world unlearncanvas has 51 styles; give"):
        load(style=str(save(blank_model(50), tmp_path / "fifty.pth")))
    with pytest.raises(ValueError, match=r"has no architecture 'vit_gigantic'"):
        load(architecture="vit_gigantic")
    with pytest.raises(ValueError, match=r"is no checkpoint of test_vit2"):
        load(architecture="test_vit2")
    with pytest.raises(ValueError, match="has a style checkpoint but no object checkpoint"):
        load(object="")
    with pytest.raises(FileNotFoundError, match=r"weights .*none.pth do not exist"):
        load(object=str(tmp_path / "none.pth"))
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no head.weight"):
        load(object=str(tmp_path / "other.pth"))
    torch.save({"model_state_dict": {"a": Path("x")}}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="not a file of tensors"):
        load(object=str(tmp_path / "code.pth"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"judge": "canvas"}, "world unlearncanvas but the judge canvas"),
        ({"judge": "vit"}, "choose canvas or timm_pair"),
        ({"world": "canvas", "styles": [], "compat": True}, "no published code"),
        ({"world": "mars"}, "no world 'mars'"),
        ({"styles": ["Blueprint"]}, "'Blueprint' in styles; there are Abstractionism"),
        ({"world": "canvas", "judge": "canvas", "styles": []}, "has checkpoints of a timm_pair but the judge canvas"),
    ],
)
def test_a_suite_that_does_not_fit_together(suite: SuiteConfig, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(suite, **change)


def test_held_out_wordings_must_be_of_the_world(suite: SuiteConfig, held_out_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names one object per image"):
        suite_rows(replace(suite, held_out=str(held_out_csv)), VAN_GOGH)
    text = "family,concept,kind,prompt,style,object,language\nalias,Van_Gogh,style,x,Van_Gogh,Unicorns,\n"
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ValueError, match="of the object 'Unicorns', which is not part of its world unlearncanvas"):
        suite_rows(replace(suite, held_out=str(tmp_path / "other.csv")), VAN_GOGH)


def test_a_judged_report(suite: SuiteConfig, judge: dict[str, Path], tiny_pipe, tiny_folder: Path, tmp_path) -> None:
    """The numbers are those that the benchmark's own steps give on the images that were drawn."""
    concept = Concept(target=("Van Gogh",), kind="style")
    evaluate(damaged(tiny_pipe), suite, tmp_path, base=str(tiny_folder), concept=concept, progress=False)
    content = content_of(tmp_path)
    assert content["provenance"]["judge"]["architecture"] == ARCHITECTURE
    assert content["metrics"]["fd_canvas"]["title"] == "fd_unlearncanvas"
    assert content["metrics"]["ua"]["base"]["value"] == 0  # the judge was fitted to the base's images
    assert content["metrics"]["ira"]["base"]["value"] == 1
    models = {}
    for kind, path in judge.items():
        models[kind] = blank_model(len(WORLD.labels(kind)))
        models[kind].load_state_dict(torch.load(path, weights_only=True)["model_state_dict"])
    right: dict[str, dict[tuple[str, str], list[bool]]] = {"style": {}, "object": {}}
    for row in suite_rows(suite, VAN_GOGH):
        for kind, model in models.items():
            with torch.no_grad():
                logits = model(as_the_authors_do(tmp_path / "erased" / "images" / f"{row.key}.png"))
            hit = WORLD.labels(kind)[int(logits.argmax())] == getattr(row, kind)
            right[kind].setdefault((row.style, row.object), []).append(hit)
    gone = 1 - np.mean([right["style"]["Van_Gogh", obj] for obj in ("Cats", "Dogs")])
    kept = [(style, obj) for style in ("Monet", "Seed_Images") for obj in ("Cats", "Dogs")]
    found = {name: content["metrics"][name]["erased"]["value"] for name in ("ua", "ira", "cra_excl_target", "cra_code")}
    assert found["ua"] == pytest.approx(gone)
    assert found["ira"] == pytest.approx(np.mean([right["style"][cell] for cell in kept]))
    assert found["cra_excl_target"] == pytest.approx(np.mean([right["object"][cell] for cell in kept]))
    assert found["cra_code"] == pytest.approx(np.mean(list(right["object"].values())))
    assert 0 < found["ira"] < 1  # some of both, so that the numbers could be told apart
    assert content["verdict"]["code"] != "not judged"
    scores = read_models(tmp_path)["erased"]
    assert np.allclose([sum(row["object_scores"]) for row in scores.table.rows], 1, atol=1e-3)
    assert scores.features is not None
    assert scores.features.shape == (24, 128)


def test_compat_through_the_suite(suite: SuiteConfig, tiny_pipe, tmp_path: Path) -> None:
    """Photos are asked for by the name of their folder, their style does not count, and the judge sees JPEG."""
    concept = Concept(target=("Van Gogh",), kind="style")
    compat = replace(suite, compat=True, aspects=["general_image"])
    evaluate(tiny_pipe, compat, tmp_path, base=tiny_pipe, concept=concept, progress=False)
    content = content_of(tmp_path)
    n = {name: content["metrics"][name]["erased"]["n_images"] for name in ("ua", "ira", "cra_excl_target", "cra_code")}
    assert n == {"ua": 8, "ira": 8, "cra_excl_target": 16, "cra_code": 24}
    counted = [(row["axis"], row["concept"]) for row in content["concepts"]["rows"]]
    assert sorted(counted) == [("object", "Cats"), ("object", "Dogs"), ("style", "Monet")]
    assert content["metrics"]["worst_retained"]["erased"]["concept"] != "Seed_Images"
    assert content["metrics"]["worst_retained"]["erased"]["concepts"] == 3
    prompts = {row["prompt"] for row in read_models(tmp_path)["base"].table.rows}
    assert "A Cats image in Seed Images style." in prompts
    assert "A Cats image in Photo style." not in prompts
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "as its benchmark&#39;s published code has it" in page
    assert "test_vit, style <code>" in page
    assert "JPEG of quality 75" in page


@pytest.mark.parametrize("family", ["tiny_pipe_v", "tiny_pipe_xl"])
def test_other_families(family: str, suite: SuiteConfig, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pipe = request.getfixturevalue(family)
    evaluate(pipe, suite, tmp_path, base=pipe, concept=Concept(target=("Dogs",), kind="object"), progress=False)
    content = content_of(tmp_path)
    assert content["metrics"]["ua"]["erased"]["n_images"] == 3 * 4
    assert content["metrics"]["unchanged"]["erased"]["value"] == 1
    assert not next(gate["passed"] for gate in content["gates"] if gate["name"] == "judge")  # it knows another base
    assert content["verdict"]["code"] == "not measurable"


@pytest.mark.parametrize("kind", ["style", "object"])
def test_compat_leaves_out_the_style_accuracy_of_photos(kind: str) -> None:
    style = np.repeat(["Monet", "Seed_Images", "Van_Gogh"], 2)
    obj = np.tile(["Cats", "Dogs"], 3)
    seen_style = np.array(["Monet", "Van_Gogh", "Van_Gogh", "Monet", "Monet", "Van_Gogh"])
    targets = ["Van_Gogh"] if kind == "style" else ["Dogs"]
    asked = {"kind": kind, "targets": targets, "uncounted_styles": ("Seed_Images",)}
    found = {name: each.value for name, each in unlearn_canvas(style, obj, seen_style, obj, **asked).items()}
    if kind == "style":  # Monet twice, one of them right; the objects in photos count
        assert found == {"ua": 0.5, "ira": 0.5, "cra_excl_target": 1, "cra_code": 1}
    else:  # of cats Monet is right and Van Gogh wrong; of all, two of four
        assert found == {"ua": 0, "ira": 1, "cra_excl_target": 0.5, "cra_code": 0.5}
    with pytest.raises(ValueError, match="no prompts without Van_Gogh"):
        suite_rows(
            SuiteConfig(
                name="x",
                world="unlearncanvas",
                compat=True,
                judge="timm_pair",
                held_out="",
                clip="",
                styles=["Seed_Images", "Van_Gogh"],
            ),
            VAN_GOGH,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, suite_file: Path) -> Path:
    """Two damaged models beside their base."""
    place = tmp_path_factory.mktemp("models")
    for name, scale in (("a", 0.05), ("b", 0.3)):
        damaged(StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32), scale).save_pretrained(
            place / name
        )
    return place


@pytest.fixture
def call(
    place: Path,
    tiny_folder: Path,
    suite_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(place)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        given = ["--suite", suite_file, "--target", "Van Gogh", "--base-model", tiny_folder, "--device", "cpu"]
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in (*arguments, *given)])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_without_weights_nothing_is_judged(call, judge: dict[str, Path], place: Path) -> None:
    """Images are there, no number that rests on the judge is, and the verdict and the exit code say so."""
    code, out, err = call("eval", "a", "--out", "one", "--quiet")
    assert code == NOT_JUDGED
    assert "Report: " in out
    assert "not everything was judged" in err
    content = content_of(place / "one")
    assert content["verdict"]["code"] == "not judged"
    assert not next(gate["passed"] for gate in content["gates"] if gate["name"] == "judge")
    for name in (*JUDGED, "target_proportion", "leak_at_k", "worst_retained"):
        for model in ("erased", "base"):
            estimate = content["metrics"][name].get(model)
            assert estimate is None or (estimate["value"] is None and estimate["not_run"] == "weights absent")
        assert content["metrics"][name]["erased"]["value"] is None
    assert content["metrics"]["ua"]["struck"] is None  # there is no number to withhold
    summary = Summary(models=read_models(place / "one"), target=VAN_GOGH, world=WORLD)
    for count in (summary.outcomes, summary.seen):  # a missing answer would count as erased
        with pytest.raises(ValueError, match="No image was judged"):
            count(summary.grid("erased"))
    assert content["metrics"]["drift"]["erased"]["value"] > 0  # what needs no judge is measured
    assert content["metrics"]["collapse_retain"]["erased"]["n_images"] == 16
    assert content["cells"] == {}
    images = sorted((place / "one" / "erased" / "images").glob("*.png"))
    assert len(images) == 24
    page, text = ((place / "one" / f"report.{form}").read_text(encoding="utf-8") for form in ("html", "md"))
    assert "Not judged" in page
    assert page.count("not run: weights absent") >= 2 * len(JUDGED)
    assert page.count("Change per cell") == page.count("Erasure against retention") == 0
    assert "unjudged" in page
    assert "| UA | not run: weights absent | not run: weights absent |" in text
    with pytest.raises(ValueError, match="was not judged"):
        read_sequence([place / "one"])
    stamps = [path.stat().st_mtime_ns for path in images]
    files = ("--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, err = call("eval", "a", "--out", "one", "--quiet", *files)
    assert (code, err) == (0, "")
    assert [path.stat().st_mtime_ns for path in images] == stamps
    content = content_of(place / "one")
    assert content["metrics"]["ua"]["erased"]["value"] is not None
    assert f"--judge-style {judge['style']}" in content["reproduce"]


def test_wordings_and_attacks_without_weights(suite_file: Path, tiny_pipe, tmp_path: Path) -> None:
    (tmp_path / "held_out.csv").write_text(
        "family,concept,kind,prompt,style,object,language\n"
        "alias,Van_Gogh,style,a starry cat,Van_Gogh,Cats,English\n"
        "language,Van_Gogh,style,un chat,Van_Gogh,Cats,French\n"
        "language,Van_Gogh,style,ein hund,Van_Gogh,Dogs,German\n"
    )
    (tmp_path / "attacks.csv").write_text(
        "prompt,attack,null,kind,concept\nxx cat,search,,style,Van_Gogh\nyy cat,search,yes,style,Van_Gogh\n"
    )
    config = replace(
        load_suite(str(suite_file)),
        held_out=str(tmp_path / "held_out.csv"),
        held_out_seeds=[1],
        attacks=str(tmp_path / "attacks.csv"),
        aspects=["multilingual_robustness", "attack_robustness"],
    )
    concept = Concept(target=("Van Gogh",), kind="style")
    evaluate(tiny_pipe, config, tmp_path / "out", base=tiny_pipe, concept=concept, progress=False)
    content = content_of(tmp_path / "out")
    rows = [*content["held_out"], *content["attacks"]]
    assert len(rows) == 1 + 3 + 2  # alias; both languages together and each; attack and null
    for row in rows:
        for model in ("erased", "base"):
            assert (row[model]["value"], row[model]["not_run"]) == (None, "weights absent")
            assert row[model]["n_images"] > 0
    assert content["metrics"]["attack_excess"]["erased"]["not_run"] == "weights absent"
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| alias | not run: weights absent | not run: weights absent | 1 |" in text


def test_several_models_without_weights(call, place: Path) -> None:
    code, _, _ = call("eval", "a", "b", "--out", "both", "--quiet")
    assert code == NOT_JUDGED
    content = content_of(place / "both")
    assert {verdict["code"] for verdict in content["verdicts"].values()} == {"not judged"}
    gaps = next(pair for pair in content["comparison"]["differences"] if (pair["a"], pair["b"]) == ("base", "model1"))
    assert "drift" not in gaps["metrics"]  # the base does not drift
    assert not {"ua", "ira", "normalised_erasure"} & set(gaps["metrics"])
    assert content["comparison"]["concepts"] == []


def test_several_judged_models(call, judge: dict[str, Path], place: Path) -> None:
    files = ("--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, _ = call("eval", "a", "b", "--out", "judged", "--quiet", *files)
    assert code == 0
    content = content_of(place / "judged")
    pair = next(each for each in content["comparison"]["differences"] if (each["a"], each["b"]) == ("model0", "model1"))
    assert pair["paired"]
    values = {name: content["metrics"]["ira"]["values"][name]["value"] for name in ("model0", "model1")}
    assert pair["metrics"]["ira"]["value"] == pytest.approx(values["model1"] - values["model0"])
    assert "Seed Images" in (place / "judged" / "report.html").read_text(encoding="utf-8")


def test_the_plan(call, place: Path) -> None:
    code, out, _ = call("eval", "a", "b", "--out", "planned", "--dry-run")
    assert code == 0
    assert "few 1: 3 styles x 2 objects x 4 seeds = 24 images of the grid for each model" in out
    assert out.count("24, of which 0 are there") == 3  # base, a, b
    assert out.count("96 samples") == 3  # two steps, each with guidance
    assert "72 images to draw, 288 UNet forwards, about" in out
    assert "judge:          not run: weights absent" in out
    assert not (place / "planned").exists()
    call("eval", "a", "--out", "drawn", "--quiet")
    code, out, _ = call("eval", "a", "--out", "drawn", "--dry-run")
    assert "24, of which 24 are there" in out


def test_compat_on_the_command_line_is_that_of_the_file(call, place: Path) -> None:
    assert call("eval", "a", "--out", "compat", "--quiet", "--compat")[0] == NOT_JUDGED
    content = content_of(place / "compat")
    assert content["suite"]["compat"] is True
    assert content["reproduce"].endswith(" --compat")
    assert "as its benchmark&#39;s published code has it" in (place / "compat/report.html").read_text(encoding="utf-8")
    prompts = {row["prompt_text"] for row in manifest.read(place / "compat/erased").values()}
    assert "A Cats image in Seed Images style." in prompts
    assert "A Cats image in Photo style." not in prompts


def test_an_attack_with_compat_stands_beside_an_evaluation_with_compat_only(
    call, judge: dict[str, Path], place: Path
) -> None:
    files = ("--quiet", "--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, err = call("attack", "b", "--attack", "seeds", "--tries", "1", "--out", "b.seeds", *files, "--compat")
    assert (code, err) == (0, "")
    attack = json.loads((place / "b.seeds" / "attack.json").read_text(encoding="utf-8"))
    assert attack["suite"]["compat"] is True
    assert attack["reproduce"].endswith(" --compat")
    assert "JPEG" in attack["provenance"]["judge"]["preprocessing"]
    code, _, err = call("eval", "b", "--out", "b.refused", *files, "--attacks", "b.seeds")
    assert code == 2
    assert "run `erase attack` without --compat" in err
    assert not (place / "b.refused").exists()
    for out, flags, is_foreign in (("b.right", [], True), ("b.compat", ["--compat"], False)):
        assert call("eval", "b", "--out", out, *files, *flags)[0] == 0
        (run,) = content_of(place / out)["searched"]
        assert run["is_foreign"] is is_foreign
        assert ("without --compat" in (run["struck"] or "")) is is_foreign


def test_compat_is_refused_where_it_means_nothing(place: Path, capsys: Any) -> None:
    for suite, message in (
        ("canvas", "The world canvas has no published code to be compatible with; leave compat out."),
        ("coco", "has prompt files and scorers of its own, but --compat is given: leave it out."),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["eval", "a", "--suite", suite, "--compat", "--target", "Van Gogh", "--base-model", "a"])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "a", "--suite", "canvas", "--compat", "--target", "Van Gogh", "--base-model", "a"])
    assert stopped.value.code == 2
    assert "no published code to be compatible with; leave compat out." in capsys.readouterr().err


def test_an_attack_needs_the_judge(call, suite_file: Path, tiny_pipe, tiny_folder: Path, place: Path) -> None:
    code, _, err = call("attack", "a", "--attack", "seeds", "--out", "attacked")
    assert code == 2
    assert "no weights of its judge" in err
    assert not (place / "attacked").exists()


def test_the_judge_of_a_suite_runs_where_it_is_told(suite: SuiteConfig) -> None:
    scorers = load_scorers(suite)
    assert scorers.classifier is not None
    picture = Image.new("RGB", (32, 32), (200, 10, 10))
    judged = scorers.classifier([picture] * 3)
    assert judged.style.tolist() == [judged.style[0]] * 3
    assert judged.style[0] in WORLD.labels("style")
    assert judged.style_scores.shape == (3, 51)
    assert judged.object_scores.shape == (3, 20)


def test_attack_is_judged_by_the_pair(suite: SuiteConfig, tiny_pipe, tiny_folder: Path, tmp_path: Path) -> None:
    concept = Concept(target=("Van Gogh",), kind="style")
    few = replace(suite, objects=["Cats"])
    report = attack(damaged(tiny_pipe), "seeds", few, tmp_path, base=str(tiny_folder), concept=concept, progress=False)
    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["provenance"]["judge"]["judge"] == "timm_pair"


def test_the_clip_model_of_the_canvas_scores_no_other_world() -> None:
    with pytest.raises(ValueError, match="the CLIP model canvas, which knows no other"):
        SuiteConfig(name="odd", world="unlearncanvas", judge="timm_pair", held_out="")
