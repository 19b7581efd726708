"""The settings of an attack: what is shipped is complete, and what is wrong is refused in one sentence."""

from pathlib import Path

import pytest

from eval.attack.config import load_attack


def test_shipped_attacks_say_everything() -> None:
    for name in ("soft", "discrete", "seeds"):
        config = load_attack(name)
        assert config.attack == name
        assert load_attack(name, tries=2).tries == 2
    assert load_attack("soft", params={"tokens": 5, "steps": None}).params["tokens"] == 5
    assert load_attack("soft").params["init"] == "gaussian"
    assert load_attack("soft").params["steps"] == 30


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("attack: soft\nparams: {token: 3}\n", "has no setting 'token'; it has tokens, steps"),
        ("attack: seeds\nparams: {tokens: 3}\n", "has no setting 'tokens'; it has none beside tries and seeds"),
        ("attack: softer\n", "The attack 'softer' is unknown: choose one of discrete, seeds, soft"),
        ("attack: soft\ntries: 0\n", "has 0 tries"),
        ("attack: soft\nseeds: [1, 1]\n", "no seed twice"),
        ("attack: soft\nbudget: 3\n", "budget"),
        ("attack: soft\nparams: {steps: many}\n", r"params\.steps"),
        ("tries: 3\n", "attack"),
        ("- 1\n", "does not hold"),
    ],
)
def test_a_wrong_attack_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=match):
        load_attack(str(tmp_path / "mine.yaml"))


def test_an_unknown_attack_names_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"attacks/discrete, attacks/seeds, attacks/soft\.$"):
        load_attack("sfot")
