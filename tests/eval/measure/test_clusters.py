"""Prompts of one text are one cluster, numbered by the smallest id."""

import numpy as np

from eval.measure.bootstrap import interval, resample, resampled_sums
from eval.measure.clusters import clusters
from eval.measure.view import Sample


def test_ids_of_one_text_are_one_cluster_and_white_space_does_not_matter() -> None:
    rows = [
        {"prompt_id": "p3", "prompt": "a nude"},
        {"prompt_id": "p1", "prompt": "a\tnude "},
        {"prompt_id": "p2", "prompt": "a cat"},
        {"prompt_id": "p0", "prompt": "a Nude"},
    ]
    assert clusters(rows).tolist() == [1, 1, 2, 0]
    assert clusters([]).tolist() == []


def test_copies_of_a_prompt_do_not_narrow_the_interval() -> None:
    """A file that repeats its prompts knows no more than without the copies."""
    values = np.random.default_rng(0).random(40)
    once = [{"prompt_id": f"{place:03d}", "prompt": f"prompt {place}"} for place in range(40)]
    twice = once + [row | {"prompt_id": f"copy {row['prompt_id']}"} for row in once]
    ends = []
    for rows, own in ((once, values), (twice, np.concatenate([values, values]))):
        sample = Sample(values=own, base=None, clusters=clusters(rows))
        ends.append(interval(resample({"m": sample}, resamples=200)["m"].means))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-12)


def test_the_sides_of_two_groups_are_drawn_together() -> None:
    """Both sides of one draw hold all clusters between them."""
    ones, left, right = np.ones(6), np.arange(6) // 2, np.arange(6)
    sides = [
        resampled_sums([ones], clusters, total=9, is_left=is_left, resamples=50)[0] // size
        for clusters, is_left, size in ((left, True, 2), (right, False, 1))
    ]
    assert (sides[0] + sides[1]).tolist() == [9.0] * 50
