import contextlib

import pytest
import torch

from erase.model.delta import Delta, only_trainable
from erase.training.run import hash_tensors


@pytest.fixture
def linear() -> torch.nn.Linear:
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    return layer


def test_roles_change_what_the_module_computes(linear) -> None:
    x = torch.ones(1, 3)
    before = linear(x)
    with Delta({"weight": linear.weight}) as delta:
        assert torch.equal(linear(x), before)
        with torch.no_grad():
            linear.weight.add_(1.0)
        student = linear(x)
        with delta.base(), delta.base():
            assert torch.equal(linear(x), before)
        assert torch.equal(linear(x), student)
        assert not torch.equal(student, before)
        with pytest.raises(KeyError), delta.base():
            raise KeyError
        assert torch.equal(linear(x), student)
        delta.commit()
    assert torch.equal(linear(x), student)


def test_without_commit_the_base_comes_back_in_the_callers_own_storage(linear) -> None:
    storage, before = linear.weight.data_ptr(), linear.weight.detach().clone()
    with contextlib.suppress(RuntimeError), Delta({"weight": linear.weight}) as delta, delta.base():
        delta.student()["weight"].zero_()
        raise RuntimeError
    assert linear.weight.data_ptr() == storage
    assert torch.equal(linear.weight, before)


def test_commit_writes_into_the_callers_own_storage(linear) -> None:
    storage = linear.weight.data_ptr()
    with Delta({"weight": linear.weight}) as delta:
        delta.load_student({"weight": torch.full((2, 3), 5.0)})
        delta.commit()
    assert linear.weight.data_ptr() == storage
    assert (linear.weight == 5).all()


@pytest.mark.parametrize(("value", "message"), [(1.0, "changed no weight"), (float("nan"), "not finite")])
def test_commit_refuses_a_model_that_is_not_erased(linear, value: float, message: str) -> None:
    with Delta({"weight": linear.weight}) as delta:
        delta.student()["weight"].fill_(value)
        with pytest.raises(ValueError, match=message):
            delta.commit()
    assert (linear.weight == 1).all()


def test_a_half_precision_module_has_an_fp32_student(linear) -> None:
    linear.to(torch.bfloat16)
    with Delta({"weight": linear.weight}) as delta:
        assert linear.weight.dtype == torch.float32
        optimizer = torch.optim.SGD([linear.weight], lr=1e-3)
        for _ in range(4):  # 1e-3 is a quarter of the spacing of bfloat16 at 1: each step alone would round away
            linear.weight.sum().backward()
            with delta.base():  # with a gradient present
                assert linear.weight.dtype == torch.bfloat16
            optimizer.step()
            optimizer.zero_grad()
        delta.commit()
    assert linear.weight.dtype == torch.bfloat16
    assert linear.weight[0, 0].item() == torch.tensor(0.996, dtype=torch.bfloat16).item() < 1


def test_only_trainable_freezes_and_restores(tiny_pipe) -> None:
    unet, text_encoder = tiny_pipe.unet, tiny_pipe.text_encoder
    unet.train()
    unet.mid_block.eval()
    text_encoder.requires_grad_(False)
    kept = unet.conv_in.weight
    kept.grad = torch.ones_like(kept)
    before = {module: module.training for module in unet.modules()}
    with contextlib.suppress(RuntimeError), only_trainable(tiny_pipe, {"conv_in.weight": kept}):
        everything = [p for part in (unet, text_encoder, tiny_pipe.vae) for p in part.parameters()]
        assert [id(p) for p in everything if p.requires_grad] == [id(kept)]
        assert kept.grad is None
        assert not unet.training
        kept.sum().backward()
        raise RuntimeError
    assert {module: module.training for module in unet.modules()} == before
    assert all(p.requires_grad for p in unet.parameters())
    assert not any(p.requires_grad for p in text_encoder.parameters())
    assert (kept.grad == 1).all()


def test_hash_tensors_sees_every_bit() -> None:
    tensor = {"a": torch.zeros(3)}
    assert hash_tensors(tensor) == hash_tensors({"a": torch.zeros(3)})
    assert hash_tensors(tensor) != hash_tensors({"a": -torch.zeros(3)})
    assert hash_tensors(tensor) != hash_tensors({"b": torch.zeros(3)})
    assert hash_tensors({"a": torch.tensor(1.0)}) != hash_tensors({"a": torch.tensor([1.0])})
