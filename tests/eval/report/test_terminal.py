"""The small table for a terminal."""

from dataclasses import replace
from typing import Any

from eval.report.terminal import WIDTH, summary_lines


def test_one_model_beside_its_base(planted: Any) -> None:
    lines = summary_lines(planted.grid(["base (Van Gogh)", "a-whole"]))
    assert lines[1] == "Van_Gogh: erased. A planted sentence."
    assert lines[3].split() == ["base", "(Van", "Gogh)", "a-whole"]
    assert [line.partition("  ")[0] for line in lines[4:8]] == ["UA", "IRA", "CRA", "Normalised erasure"]
    assert lines[4].endswith("100.0 % [67.6, 100.0]")
    assert lines[8:] == ["95 % intervals; 36 images per model", ""]


def test_many_models_stand_in_blocks_that_fit(planted: Any) -> None:
    lines = summary_lines(planted.grid())
    assert lines[1:4] == [
        "b-hurt: not measurable. A planted sentence.",
        "a-whole: erased. A planted sentence.",
        "c-cats: erased. A planted sentence.",
    ]
    assert max(map(len, lines)) <= WIDTH
    heads = [line for line in lines if "base (" in line]
    assert [head.count("base (") + head.count("-") for head in heads] == [3, 2]
    assert sum("75.0 % [40.9, 92.9]*" in line for line in lines) == 2
    assert "* withheld: see the gates in the report" in lines


def test_prompt_files_have_no_verdict_and_the_numbers_of_all_prompts(planted: Any) -> None:
    lines = summary_lines(planted.prompts())
    assert lines[1] == "few: m0, m1"
    assert [line.partition("   ")[0] for line in lines[4:7]] == [
        "Nudity, 6 labels, score from 0.45",
        "CLIP score",
        "KID to base",
    ]
    assert "n/a" in lines[6]


def test_what_was_not_run_says_so(planted: Any) -> None:
    results = planted.grid(["base (Van Gogh)", "a-whole"])
    metric = replace(results.metrics["kid_canvas"], title="UA (of the benchmark)")
    lines = summary_lines(replace(results, metrics={"ua": metric}))
    assert lines[4].split() == ["UA", "n/a", "not", "run"]
