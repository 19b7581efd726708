import pytest
import torch

from erase.training import surgery


def gradients(seed: int) -> surgery.Gradients:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (6, 4), "b": (5,), "c": (3, 2)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def dots(one: surgery.Gradients, two: surgery.Gradients) -> dict[str, float]:
    return {name: float((one[name] * two[name]).sum()) for name in one}


@pytest.fixture
def conflicting() -> tuple[surgery.Gradients, surgery.Gradients]:
    """In ``a`` and ``b`` the two conflict, in ``c`` they agree."""
    unlearn, retain = gradients(0), gradients(1)
    wanted = {"a": -1.0, "b": -1.0, "c": 1.0}
    for name, dot in dots(unlearn, retain).items():
        retain[name] = retain[name] * (wanted[name] if dot > 0 else -wanted[name])
    assert {name: dot > 0 for name, dot in dots(unlearn, retain).items()} == {"a": False, "b": False, "c": True}
    return unlearn, retain


def test_projection_leaves_nothing_along_the_retain_gradient_on_conflict_and_is_the_identity_without(conflicting):
    unlearn, retain = conflicting
    combined = surgery.projection(unlearn, retain)
    left = dots(combined, retain)
    assert left["a"] == pytest.approx(0, abs=1e-12)
    assert left["b"] == pytest.approx(0, abs=1e-12)
    assert torch.equal(combined["c"], unlearn["c"])
    for name in ("a", "b"):  # the first release's formula
        factor = (unlearn[name] * retain[name]).sum() / retain[name].square().sum()
        torch.testing.assert_close(combined[name], unlearn[name] - factor * retain[name])
    scaled = surgery.projection(unlearn, {name: 1e3 * gradient for name, gradient in retain.items()})
    torch.testing.assert_close(scaled, combined)  # the length of the retain gradient has no say


def test_strength_scales_what_is_removed(conflicting):
    unlearn, retain = conflicting
    for mode in ("projection", "sign_mask"):
        whole, half = (surgery.MODES[mode](unlearn, retain, strength) for strength in (1.0, 0.5))
        torch.testing.assert_close(half, {name: (whole[name] + unlearn[name]) / 2 for name in unlearn})
        torch.testing.assert_close(surgery.MODES[mode](unlearn, retain, 0.0), unlearn)


def test_upstream_is_the_published_formula_with_clipping(conflicting):
    unlearn, retain = conflicting
    combined = surgery.upstream(unlearn, retain)
    parameters = {name: torch.nn.Parameter(gradient.clone()) for name, gradient in unlearn.items()}
    clipped = []
    for gradient in (unlearn, retain):
        for name, parameter in parameters.items():
            parameter.grad = gradient[name].clone()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        clipped.append({name: parameter.grad for name, parameter in parameters.items()})
    for name in unlearn:
        u, r = clipped[0][name], clipped[1][name]
        cosine = torch.nn.functional.cosine_similarity(u.flatten(), r.flatten(), dim=0)
        torch.testing.assert_close(combined[name], u - cosine * r / r.norm() if cosine < 0 else u)
    # not a projection: a conflict turns into a step along the retain gradient
    assert min(dots(combined, retain).values()) > 0


def test_sign_mask_keeps_the_entries_that_agree(conflicting):
    unlearn, retain = conflicting
    combined = surgery.sign_mask(unlearn, retain)
    for name in unlearn:
        agree = unlearn[name].sign() == retain[name].sign()
        assert torch.equal(combined[name][agree], unlearn[name][agree])
        assert not combined[name][~agree].any()
    assert min(dots(combined, retain).values()) >= 0


def test_none_is_the_identity_and_nothing_is_changed_in_place(conflicting):
    unlearn, retain = conflicting
    before = [{name: gradient.clone() for name, gradient in each.items()} for each in conflicting]
    for mode in surgery.MODES.values():
        mode(unlearn, retain, 1.0)
    for each, copy in zip(conflicting, before, strict=True):
        assert all(torch.equal(each[name], copy[name]) for name in each)
    assert all(surgery.none(unlearn, retain)[name] is unlearn[name] for name in unlearn)


@pytest.mark.parametrize("mode", surgery.MODES)
def test_zero_gradients_give_finite_results(mode: str):
    unlearn, zeros = {"a": torch.ones(3)}, {"a": torch.zeros(3)}
    combined = surgery.MODES[mode](unlearn, zeros, 1.0)["a"]
    assert torch.allclose(combined / combined.norm(), unlearn["a"] / 3**0.5)
    assert torch.equal(surgery.MODES[mode](zeros, unlearn, 1.0)["a"], zeros["a"])


def test_the_share_of_conflicts(conflicting):
    assert surgery.conflict_share(*conflicting) == pytest.approx(2 / 3)
