"""The report of an evaluation keeps what ``erase attack`` did to its models, and strikes what says nothing of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from erase.concept import Concept
from eval.attack.record import AttackRecord, AttackResults, Outcome, PromptRecord, read_record, write_attack
from eval.attack.searched import (
    Attacked,
    describe_attacks,
    explain_foreign,
    find_attacks,
    read_attack,
    read_attacks,
)
from eval.formulas.attack import ArmSuccess, Excess, Rate
from eval.measure.view import Evidence
from eval.models.fingerprint import fingerprint
from eval.models.subject import Subject
from eval.results import ModelInfo, SearchedAttack
from eval.suite.grid import GridRows
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.suite import Suite


BASE = ModelInfo(label="base", role="base", hash="base")
ERASED = ModelInfo(label="vg", role="erased", base="base", hash="erased", kind="style", names=("Van_Gogh",))
NO_NULL = "An attack is reported beside a null attack of equal budget only; 'soft' has"


def rate(hits: int, n: int = 10) -> Rate:
    return Rate(hits / n, max(0.0, hits / n - 0.2), min(1.0, hits / n + 0.2), hits, n)


def arm(hits: int, tries: int = 5) -> ArmSuccess:
    return ArmSuccess(asr_total=rate(hits), asr_conditional=None, asr_per_image=rate(hits, 10 * tries), curve=[])


def outcome(withheld: str = "", **nulls: ArmSuccess) -> Outcome:
    results = AttackResults(
        base=rate(9),
        pre=rate(0),
        attack=arm(7),
        nulls=nulls,
        excess=Excess(0.5, 0.1, 0.8, "seed_search", 10),
    )
    return Outcome(results=results, broken={}, withheld=withheld)


@pytest.fixture
def record(small: Suite) -> AttackRecord:
    return AttackRecord(
        attack={"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}},
        suite=json.loads(json.dumps(small.describe())),
        concept={"target": ["Van Gogh"], "anchor": "", "kind": "style", "names": ["Van_Gogh"]},
        models={"erased": "erased", "base": "base"},
        outcome=outcome(random_soft_tokens=arm(1), seed_search=arm(2)),
        prompts=[
            PromptRecord(
                key=f"p{number}_seed188",
                prompt=f"prompt {number}",
                seed=188,
                base=True,
                arms={},
                first_losses=[],
                last_losses=[],
                cost={},
            )
            for number in range(10)
        ],
        cost={"search": {"seconds": 1.0, "unet_forwards": 4000, "unet_backwards": 1500}},
        provenance={"dtype": "float32"},
        reproduce="erase attack vg --attack soft",
    )


@pytest.fixture
def describe(record: AttackRecord, small: Suite) -> Callable[..., SearchedAttack]:
    """Describe an attack that differs from ``record`` in some fields."""

    def call(suite: Suite = small, **changes: Any) -> SearchedAttack:
        attacked = Attacked(folder=Path("out/vg.soft"), record=replace(record, **changes), label="vg")
        (described,) = describe_attacks([attacked], Evidence(suite=suite, models=[BASE, ERASED], scores={}))
        return described

    return call


def plant(folder: Path, record: AttackRecord) -> Path:
    folder.mkdir(parents=True)
    write_attack(folder, record)
    return folder


def test_attacks_are_found_beside_the_model_that_they_are_named_after(
    tmp_path: Path, record: AttackRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vg[1].soft", "vg[1].seeds", "vg1.soft", "vg[1]2.soft"):
        plant(tmp_path / name, record)
    (tmp_path / "vg[1].eval").mkdir()
    assert [folder.name for folder in find_attacks(tmp_path / "vg[1]")] == ["vg[1].seeds", "vg[1].soft"]
    (tmp_path / "vg[1]" / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "vg[1]" / "unet")
    assert len(find_attacks(Path(".."))) == 2
    monkeypatch.chdir(tmp_path / "vg[1]")
    assert len(find_attacks(Path())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"schema_version": 1}', "has the format 1, but 2 is read; run `erase attack` again, or move the folder away"),
        ("[]", "has the format None, but 2 is read"),
        ('{"schema_version": 2}', "is no attack of this format; run `erase attack` again"),
    ],
)
def test_a_damaged_attack_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "attack.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path)
    with pytest.raises(FileNotFoundError, match="give the folder that `erase attack` wrote its report into"):
        read_record(tmp_path / "none")


def test_an_attack_counts_for_its_own_model_base_and_target_only(record: AttackRecord, small: Suite) -> None:
    assert explain_foreign(record, ERASED, BASE, small) == ""
    for role, what in (("erased", "a model"), ("base", "an erasure of a base")):
        other = replace(record, models=record.models | {role: "other"})
        sentence = explain_foreign(other, ERASED, BASE, small)
        assert sentence.startswith(f"It was run on {what} of other weights (other, float32) than")
    cats = replace(record, concept={"target": ["Cats"], "kind": "object", "names": ["Cats"]})
    assert explain_foreign(cats, ERASED, BASE, small).startswith("It was on the object Cats")


def test_an_attack_that_asked_or_judged_otherwise_is_struck_and_refused_by_name(
    describe, record: AttackRecord, small: Suite, tmp_path: Path
) -> None:
    with_compat = GridRows(world="unlearncanvas", compat=True, held_out="", gold=False)
    files = [PromptFile(path="a.csv", name="a", source="")]
    folder = plant(tmp_path / "vg.soft", record)
    assert read_attack(folder, suite=small) == record
    for suite, message in (
        (
            replace(small, grid=with_compat, scorers={"timm_pair": {}}),
            "It was run without compat and the evaluation with it, which changes prompts and judge: run",
        ),
        (
            replace(small, scorers={"timm_pair": {}}),
            "Its images were judged by judge and those of the evaluation by timm_pair: run",
        ),
        (
            Suite(name="files", prompts=PromptFiles(files=files), scorers={"clip": {}}),
            "It asked for cells of a grid, and the evaluation asks prompt files: name a suite with a grid",
        ),
    ):
        described = describe(suite)
        assert described.is_foreign
        assert described.struck.startswith(message)
        with pytest.raises(ValueError, match=message):
            read_attack(folder, suite=suite)
    gone = replace(record, suite=record.suite | {"scorers": {"a scorer that is gone": {}}})
    assert explain_foreign(gone, ERASED, BASE, small).startswith("Its images were judged by no judge")


def test_what_is_kept_of_an_attack(describe) -> None:
    described = describe()
    assert (described.label, described.folder, described.struck) == ("vg", "vg.soft", "")
    assert (described.budget, described.n_prompts) == ("best of 5, 3 tokens, 30 steps", 10)
    assert [(each.name, each.arm, each.total.hits) for each in described.arms] == [
        ("base, no attack", "base", 9),
        ("no attack", "before", 0),
        ("soft", "attack", 7),
        ("null: random soft tokens", "random_soft_tokens", 1),
        ("null: seed search", "seed_search", 2),
    ]
    assert described.arms[2].per_image.n == 50
    assert described.cost["unet_forwards"] == 4000
    assert (described.excess.value, described.null) == (0.5, "seed_search")
    assert described.suite.keys() == {"name", "version", "hash"}


def test_attacks_of_one_protocol_asked_the_same(describe, record: AttackRecord) -> None:
    protocol = describe().protocol
    assert describe(outcome=outcome(seed_search=arm(1)), cost=record.cost).protocol == protocol
    assert describe(attack=record.attack | {"tries": 9}).protocol != protocol
    assert describe(prompts=record.prompts[:5]).protocol != protocol


def test_a_success_without_its_null_is_struck_with_its_reason(describe) -> None:
    none = describe(outcome=outcome())
    assert (none.struck, none.without_null) == (f"{NO_NULL} none.",) * 2
    assert (none.excess, none.null, len(none.arms)) == (None, "", 3)
    fewer = describe(outcome=outcome(seed_search=arm(2, tries=1)))
    assert fewer.struck == f"{NO_NULL} 50 images and its null seed search has 10."
    withheld = describe(outcome=outcome("The base shows the target on 1 of 10 prompts.", seed_search=arm(2)))
    assert withheld.struck == "The base shows the target on 1 of 10 prompts."
    assert not withheld.is_foreign


def test_attacks_that_are_named_belong_to_the_models_with_their_weights(
    tiny_pipe: StableDiffusionPipeline, record: AttackRecord, small: Suite, van_gogh: Concept, tmp_path: Path
) -> None:
    mark = fingerprint(tiny_pipe).model
    other = StableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
    subjects = [Subject(label, pipe, van_gogh, "canvas", {}) for label, pipe in (("a", tiny_pipe), ("b", other))]
    own = plant(tmp_path / "own", replace(record, models=record.models | {"erased": mark}))
    where = {"device": "cpu", "dtype": torch.float32}
    attacked = read_attacks(subjects, [own, own], small, **where)
    assert [(each.folder, each.label) for each in attacked] == [(own, "a"), (own, "b")]
    assert read_attacks(subjects, [], small, **where) == []
    foreign = plant(tmp_path / "foreign", record)
    with pytest.raises(ValueError, match=rf"was run on a model of other weights \(erased\) than a \({mark[:12]}\), b"):
        read_attacks(subjects, [own, foreign], small, **where)


def test_attacks_beside_a_model_are_shown_without_being_named(
    tiny_folder: Path, record: AttackRecord, small: Suite, van_gogh: Concept, tmp_path: Path
) -> None:
    model = tmp_path / "vg"
    model.symlink_to(tiny_folder)
    pipe = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    own = replace(record, models=record.models | {"erased": fingerprint(pipe).model})
    folders = [plant(tmp_path / f"vg.{name}", own) for name in ("seeds", "soft")]
    subjects = [Subject("vg", model, van_gogh, str(tiny_folder), {})]
    where = {"device": "cpu", "dtype": torch.float32}
    assert [each.folder for each in read_attacks(subjects, [], small, **where)] == folders
    both = read_attacks(subjects, folders[1:], small, **where)  # each once, the named one first
    assert [(each.folder, each.label) for each in both] == [(folders[1], "vg"), (folders[0], "vg")]
    files = [PromptFile(path="a.csv", name="a", source="")]
    prompts = Suite(name="files", prompts=PromptFiles(files=files), scorers={"clip": {}})
    assert read_attacks(subjects, [], prompts, **where) == []
    (folders[0] / "attack.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_attacks(subjects, [], small, **where)


def test_attacks_stand_in_the_order_of_the_models(record: AttackRecord, small: Suite) -> None:
    second = replace(ERASED, label="small")
    attacked = [
        Attacked(folder=Path(f"{label}.soft"), record=record, label=label) for label in ("small", "vg", "small")
    ]
    evidence = Evidence(suite=small, models=[BASE, ERASED, second], scores={})
    assert [each.label for each in describe_attacks(attacked, evidence)] == ["vg", "small", "small"]


def test_two_attacks_of_one_name_are_told_apart(record: AttackRecord, small: Suite) -> None:
    attacked = [Attacked(folder=Path(f"{place}/vg.soft"), record=record, label="vg") for place in ("mine", "yours")]
    evidence = Evidence(suite=small, models=[BASE, ERASED], scores={})
    assert [each.folder for each in describe_attacks(attacked, evidence)] == ["mine/vg.soft", "yours/vg.soft"]
