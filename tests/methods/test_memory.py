"""What every trained method keeps in memory: one UNet, and optimiser states for nothing but what is trained."""

import copy
import gc
import weakref
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from erase.concept import Concept
from erase.methods import advunlearn, concept_ablation, doco, esd, unguide
from erase.model.delta import only_trainable
from erase.training.run import Run


QUICK = {"steps": 2, "num_inference_steps": 3, "lr": 1e-3}
IMAGES = {**QUICK, "batch_size": 2, "images": 4, "retain_images": 4}
WALK = {"calibration_samples": 2, "quantile": 0.01, "lr": 3e-2}
PREFIX = {"warmup_steps": 1, "target_trajectories": 3, "retain_trajectories": 2, "retain_batch": 1, "attack_steps": 2}
CASES: dict[str, tuple[ModuleType, dict, list[str]]] = {
    "esd": (esd, QUICK, []),
    "esd, trajectories of the student": (esd, {**QUICK, "trajectory": "stale", "refresh": 1, "variant": "u"}, []),
    "concept_ablation": (concept_ablation, {**IMAGES, "retain_weight": 1.0}, ["a fish"]),
    "doco": (doco, {**IMAGES, "steps": 3, "warmup_steps": 1}, ["a fish"]),
    "advunlearn": (advunlearn, {**QUICK, **PREFIX}, ["a fish", "a dog"]),
    "advunlearn of the UNet": (advunlearn, {**QUICK, **PREFIX, "component": "unet"}, ["a fish", "a dog"]),
    "unguide": (unguide, {**QUICK, **WALK}, ["a cat"]),
    "unguide with a retain loss": (unguide, {**QUICK, **WALK, "variant": "u", "retain_weight": 1.0}, ["a cat"]),
}


def live_unets() -> int:
    # isinstance would ask lazy modules for their class, which imports them
    return sum(issubclass(type(each), UNet2DConditionModel) for each in gc.get_objects())


def live_tensors() -> list[torch.Tensor]:
    return [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]


def storages() -> set[int]:
    """Where the tensors of now are, those of other tests' fixtures among them."""
    return {each.data_ptr() for each in live_tensors()}


def copies_of(parameters: list[torch.Tensor], *, but: set[int]) -> list[torch.Size]:
    """The shapes of those that another storage, not in ``but``, holds as well."""
    wanted: dict[torch.Size, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.numel() >= 64 and parameter.detach().std() > 0:  # others are alike by chance
            wanted.setdefault(parameter.shape, []).append(parameter.detach())
    return [
        each.shape
        for each in live_tensors()
        for own in wanted.get(each.shape, ())
        if each.data_ptr() not in but | {own.data_ptr()} and torch.equal(each.detach(), own)
    ]


class Kept:
    """The most bytes that forwards keep at once for their backwards, those of weights aside."""

    def __init__(self, weights: set[int]) -> None:
        self.weights, self.now, self.peak = weights, 0, 0
        self.owners: weakref.WeakValueDictionary[int, Holder] = weakref.WeakValueDictionary()

    def pack(self, tensor: torch.Tensor) -> "Holder":
        return Holder(tensor, self)

    def unpack(self, holder: "Holder") -> torch.Tensor:
        return holder.tensor


class Holder:
    """A tensor that is kept, and its bytes in the account for as long as the graph lives."""

    def __init__(self, tensor: torch.Tensor, kept: Kept) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept.weights | set(kept.owners):
            kept.owners[storage.data_ptr()] = self
            kept.now += storage.nbytes()
            kept.peak = max(kept.peak, kept.now)
            weakref.finalize(self, self._drop, kept, storage.nbytes())

    @staticmethod
    def _drop(kept: Kept, size: int) -> None:
        kept.now -= size


class Watch:
    """Looks at what is alive in every call that leads to a gradient and after every step of an optimiser."""

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        self.pipe, self.before = pipe, storages()
        self.unets: set[int] = set()
        self.copies: list[torch.Size] = []
        self.trained: set[int] = set()  # ids of the pipeline's parameters that some optimiser steps
        self.trainable: set[int] = set()
        self.state: list[tuple[int, int]] = []  # numbers in an optimiser's state, and in what it trains

    def __enter__(self) -> "Watch":
        self._hooks = [self.pipe.unet.register_forward_hook(self._call), register_optimizer_step_post_hook(self._step)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [each for name in ("unet", "text_encoder", "vae") for each in self.pipe.components[name].parameters()]

    def _call(self, *_: object) -> None:
        if torch.is_grad_enabled():
            self.unets.add(live_unets())
            self.copies += copies_of([each for each in self._parameters() if not each.requires_grad], but=self.before)

    def _step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._call()
        stepped = [each for group in optimizer.param_groups for each in group["params"]]
        own = {id(each) for each in self._parameters()}
        self.trained |= own & {id(each) for each in stepped}
        self.trainable |= {id(each) for each in self._parameters() if each.requires_grad}
        assert all(each.grad is None for each in self._parameters() if not each.requires_grad)
        assert set(map(id, optimizer.state)) <= set(map(id, stepped))
        held = sum(
            each.numel() for state in optimizer.state.values() for each in state.values() if torch.is_tensor(each)
        )
        self.state.append((held, sum(each.numel() + 1 for each in stepped)))


@pytest.mark.parametrize("case", CASES)
def test_there_is_one_unet_and_the_optimisers_hold_what_is_trained_and_nothing_else(tiny_pipe, case: str) -> None:
    method, changes, retain = CASES[case]
    concept = Concept(target="a cat", anchor="a lion", kind="object", templates=("{}", "two of {}"))
    gc.collect()
    before = live_unets()
    with Watch(tiny_pipe) as watch, torch.enable_grad():
        method.erase(tiny_pipe, concept, retain, method.Config(**changes), Run(quiet=True))
    assert watch.unets == {before}
    assert watch.copies == []
    assert watch.trained == watch.trainable
    assert watch.trained
    assert all(held <= 2 * trained for held, trained in watch.state)  # Adam's two moments
    assert max(held for held, _ in watch.state) > 0


def test_a_second_unet_and_copies_of_its_weights_would_be_seen(tiny_pipe) -> None:
    parameters = list(tiny_pipe.unet.parameters())
    gc.collect()
    before, but = live_unets(), storages()
    assert copies_of(parameters, but=but) == []
    twin = copy.deepcopy(tiny_pipe.unet)
    assert live_unets() == before + 1
    assert len(copies_of(parameters, but=but)) > 20
    state = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    del twin
    gc.collect()
    assert live_unets() == before
    assert len(copies_of(parameters, but=but)) > 20
    del state
    assert copies_of(parameters, but=but) == []


class Training(NamedTuple):
    """What a training did: every gradient that an optimiser was given, in turn, and what it took."""

    gradients: list[torch.Tensor]
    kept: int
    cost: dict
    blocks: int  # samples through a block of the UNet
    layers: int  # calls of a layer of the text encoder


def train(pipe: StableDiffusionPipeline, case: str, *, gradient_checkpointing: bool) -> Training:
    method, changes, retain = CASES[case]
    concept = Concept(target="a cat", anchor="a lion", kind="object", templates=("{}", "two of {}"))
    run = Run(gradient_checkpointing=gradient_checkpointing, dtype=pipe.unet.dtype, quiet=True)
    gradients: list[torch.Tensor] = []
    counts = {"blocks": 0, "layers": 0}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        given = [each.grad for group in optimizer.param_groups for each in group["params"]]
        gradients.extend(each.clone() for each in given if each is not None)

    def count(name: str, number: int) -> None:
        counts[name] += number

    hooks = [
        register_optimizer_step_pre_hook(keep),
        pipe.unet.mid_block.attentions[0]
        .transformer_blocks[0]
        .register_forward_pre_hook(lambda _, inputs: count("blocks", len(inputs[0]))),
        next(layers_of(pipe)).self_attn.register_forward_pre_hook(lambda *_: count("layers", 1)),
    ]
    kept = Kept({each.data_ptr() for each in (*pipe.unet.parameters(), *pipe.text_encoder.parameters())})
    try:
        with torch.enable_grad(), saved_tensors_hooks(kept.pack, kept.unpack):
            method.erase(pipe, concept, retain, method.Config(**changes), run)
    finally:
        for hook in hooks:
            hook.remove()
    return Training(gradients, kept.peak, run.summary(), counts["blocks"], counts["layers"])


def layers_of(pipe: StableDiffusionPipeline):
    return (each for each in pipe.text_encoder.modules() if isinstance(each, CLIPEncoderLayer))


@pytest.mark.parametrize("case", CASES)
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients_and_counts(tiny_pipe, case: str) -> None:
    for layer in layers_of(tiny_pipe):
        layer.self_attn.dropout = 0.5  # would be drawn in train(), which transformers' own checkpointing needs
    other = copy.deepcopy(tiny_pipe)
    plain = train(tiny_pipe, case, gradient_checkpointing=False)
    found = train(other, case, gradient_checkpointing=True)
    assert len(plain.gradients) == len(found.gradients) > 0
    for expected, gradient in zip(plain.gradients, found.gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    counted = ("unet_forwards", "unet_backwards")
    assert [found.cost[name] for name in counted] == [plain.cost[name] for name in counted]
    assert (plain.cost["gradient_checkpointing"], found.cost["gradient_checkpointing"]) == (False, True)
    assert found.kept < 0.7 * plain.kept
    assert found.blocks - plain.blocks == found.cost["unet_recomputed"] == found.cost["unet_backwards"] > 0
    assert plain.cost["unet_recomputed"] == 0
    assert (found.layers > plain.layers) == case.startswith("advunlearn")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_checkpointing_computes_again_in_the_same_precision(tiny_pipe, dtype: torch.dtype) -> None:
    for part in (tiny_pipe.unet, tiny_pipe.text_encoder, tiny_pipe.vae):
        part.to(dtype)
    other = copy.deepcopy(tiny_pipe)
    plain = train(tiny_pipe, "advunlearn", gradient_checkpointing=False)
    found = train(other, "advunlearn", gradient_checkpointing=True)
    assert found.kept < plain.kept
    for expected, gradient in zip(plain.gradients, found.gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_gradient_checkpointing_is_off_again_whatever_happens_and_the_callers_own_stays_on(tiny_pipe) -> None:
    def flags() -> list[tuple[bool, bool]]:
        parts = [*tiny_pipe.unet.modules(), *tiny_pipe.text_encoder.modules()]
        return [(each.training, getattr(each, "gradient_checkpointing", False)) for each in parts]

    tiny_pipe.text_encoder.train()
    embeddings, before = tiny_pipe.text_encoder.get_input_embeddings(), flags()
    with only_trainable(tiny_pipe, {}, gradient_checkpointing=True):
        assert flags() != before
        assert not any(each.training for layer in layers_of(tiny_pipe) for each in layer.children())
    assert flags() == before
    with pytest.raises(RuntimeError, match="stop"), only_trainable(tiny_pipe, {}, gradient_checkpointing=True):
        raise RuntimeError("stop")
    assert flags() == before
    assert not embeddings._forward_hooks
    tiny_pipe.unet.enable_gradient_checkpointing()
    next(layers_of(tiny_pipe)).gradient_checkpointing = True
    before = flags()
    for is_on in (False, True):
        with only_trainable(tiny_pipe, {}, gradient_checkpointing=is_on):
            assert tiny_pipe.unet.is_gradient_checkpointing
        assert flags() == before
