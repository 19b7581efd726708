import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPTextModel

import erase
from erase.concept import Concept
from erase.config import read_config
from erase.experiment import artifact_bytes
from erase.methods import advunlearn
from erase.model.base_model import count_parameters
from erase.model.diffusion import select_text_encoder_parameters
from erase.prompts import data_folder, read_prompts
from erase.training.attack import attack_prefix
from erase.training.run import Run, hash_tensors


CAT = Concept(target="a cat", kind="object")
RETAIN = ["a dog", "a fish", "a house"]
SMALL = {
    "steps": 6,
    "warmup_steps": 2,
    "num_inference_steps": 4,
    "target_trajectories": 3,
    "retain_trajectories": 4,
    "retain_batch": 2,
    "attack_steps": 3,
    "lr": 1e-3,
    "attack_lr": 1e-2,
}


def run_adv(pipe, concept: Concept = CAT, *, seed: int = 0, folder: Path | None = None, **changes: object) -> Run:
    run = Run(seed=seed, quiet=True, dtype=pipe.unet.dtype, folder=folder, checkpoint_seconds=0)
    assert advunlearn.erase(pipe, concept, RETAIN, advunlearn.Config(**{**SMALL, **changes}), run) is pipe
    return run


def weights(pipe) -> str:
    return hash_tensors({**pipe.text_encoder.state_dict(), **pipe.unet.state_dict()})


@pytest.mark.parametrize(
    ("fixture", "component", "anchor", "layers"),
    [
        ("tiny_pipe", "text_encoder", "", []),
        ("tiny_pipe_v", "text_encoder", "a fox", [1]),
        ("tiny_pipe", "unet", "", []),
    ],
)
def test_gradients_equal_a_recomputation_with_a_second_pipeline(
    request, fixture: str, component: str, anchor: str, layers: list[int]
) -> None:
    pipe = request.getfixturevalue(fixture)
    base, student = copy.deepcopy(pipe), copy.deepcopy(pipe)
    module, probe = getattr(pipe, component), _Probe(pipe, component)
    concept = Concept(target=("a cat", "a cow"), anchor=anchor)
    changes = {"steps": 4, "negative_guidance": 1.5, "retain_weight": 0.7, "attack_init": "last", "prefix_tokens": 2}
    run_adv(pipe, concept, component=component, layers=layers, **changes)
    updates = [call for call in probe.calls if len(call.latents) == 3]
    assert [len(call.latents) for call in probe.calls] == [3, 3, 1, 1, 1, 3, 1, 1, 1, 3]
    for number, call in enumerate(updates):
        getattr(student, component).load_state_dict(call.weights)
        name, prefix = concept.target[number % 2], (None, None, *probe.fronts[2:])[number]
        retained = [text for ids in call.retained for text in RETAIN if pipe.tokenizer(text).input_ids == ids]
        assert len(set(retained)) == 2
        rows = [(name, prefix), *((text, None) for text in retained)]
        total = 0.0
        for i, (text, front) in enumerate(rows):
            x_t, timestep = call.latents[i : i + 1], call.timesteps[i]
            with torch.no_grad():
                empty, known, lead = (_predict(base, x_t, timestep, each) for each in ("", text, anchor))
            target = known if i else lead - 1.5 * (known - empty)
            error = (_predict(student, x_t, timestep, text, front) - target).square().mean()
            total = total + (0.35 * error if i else error)
        trained = dict(getattr(student, component).named_parameters())
        expected = torch.autograd.grad(total, [trained[key] for key in call.gradients])
        scale = max(gradient.abs().max() for gradient in expected)
        assert scale > 0
        for key, gradient in zip(call.gradients, expected, strict=True):
            assert (call.gradients[key] - gradient).abs().max() <= min(1e-5, 1e-4 * scale), key
    assert module is getattr(pipe, component)


class _Call(NamedTuple):
    weights: dict[str, torch.Tensor]
    retained: list[list[int]]
    latents: torch.Tensor
    timesteps: torch.Tensor
    gradients: dict[str, torch.Tensor]


class _Probe:
    """Records every training call of the UNet, the gradients that follow, and the prefixes of the attacks."""

    def __init__(self, pipe, component: str) -> None:
        self.calls: list[_Call] = []
        self.module, self.end = getattr(pipe, component), pipe.tokenizer.eos_token_id
        self.retained: list[list[int]] = []
        self.fronts: list[torch.Tensor] = []  # of every update, the two tokens after BOS that reach the first layer
        self.positions = pipe.text_encoder.embeddings.position_embedding.weight[1:3].detach()
        pipe.unet.register_forward_pre_hook(self._record, with_kwargs=True)
        pipe.text_encoder.register_forward_pre_hook(self._read)
        pipe.text_encoder.encoder.layers[0].register_forward_pre_hook(self._look)
        for name, parameter in self.module.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._keep(name, p))

    def _read(self, encoder: object, inputs: tuple) -> None:
        if len(inputs[0]) > 1:
            self.retained = [row[: row.index(self.end) + 1] for row in inputs[0].tolist()]

    def _look(self, layer: object, inputs: tuple) -> None:
        if torch.is_grad_enabled():
            if len(inputs[0]) == 1:
                self.front = inputs[0][:, 1:3].detach() - self.positions
            else:
                self.fronts.append(self.front)

    def _record(self, unet: object, inputs: tuple, arguments: dict) -> None:
        if torch.is_grad_enabled():
            snapshot = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
            self.calls.append(_Call(snapshot, self.retained, *inputs, {}))

    def _keep(self, name: str, parameter: torch.nn.Parameter) -> None:
        self.calls[-1].gradients[name] = parameter.grad.clone()


def _predict(pipe, latents: torch.Tensor, timestep: torch.Tensor, text: str, front: torch.Tensor | None = None):
    ids = pipe.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    encoder = pipe.text_encoder
    embeds = encoder.embeddings.token_embedding(ids)
    if front is not None:
        embeds = torch.cat([embeds[:, :1], front, embeds[:, 1 : 77 - front.shape[1]]], dim=1)
    hidden = embeds + encoder.embeddings.position_embedding.weight
    mask = torch.full((77, 77), -math.inf).triu(1)[None, None]
    hidden = encoder.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True).last_hidden_state
    return pipe.unet(latents, timestep, encoder.final_layer_norm(hidden).expand(len(latents), -1, -1)).sample


def test_the_first_sign_step_has_its_closed_form_and_gradients_start_at_zero() -> None:
    goal = torch.tensor([[[3.0, -2.0]]])
    seen = []

    def loss(prefix: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(prefix.detach().clone())
        return (prefix - goal).square().sum() * (1 if step == 0 else -1)  # the second step turns round

    start = torch.zeros(1, 1, 2)
    one = attack_prefix(loss, start, steps=1, lr=0.5, optimizer="sign")
    assert one.prefix.tolist() == [[[0.5, -0.5]]]
    assert start.tolist() == [[[0.0, 0.0]]]
    two = attack_prefix(loss, start, steps=2, lr=0.5, optimizer="sign")
    assert two.prefix.tolist() == [[[0.0, 0.0]]]  # summed gradients would not have come back exactly
    assert two.losses.tolist() == [13.0, -(2.5**2 + 1.5**2)]
    adam = attack_prefix(loss, start, steps=1, lr=0.5)
    torch.testing.assert_close(adam.prefix, torch.tensor([[[0.5, -0.5]]]))


def test_upstream_gives_the_prefix_before_the_last_step_of_summed_gradients() -> None:
    def loss(prefix: torch.Tensor, step: int) -> torch.Tensor:
        return (prefix * (1.0, -0.5, -9.0)[step]).sum()

    start = torch.zeros(1, 1, 1)
    assert attack_prefix(loss, start, steps=1, lr=0.5, upstream=True).prefix.item() == 0.0
    reference = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.5)
    for gradient in (1.0, 1.0 - 0.5):
        reference.grad = torch.tensor([gradient])
        adam.step()
    found = attack_prefix(loss, start, steps=3, lr=0.5, upstream=True).prefix
    torch.testing.assert_close(found.flatten(), reference.detach())
    signs = attack_prefix(loss, start, steps=3, lr=0.5, optimizer="sign", upstream=True).prefix
    torch.testing.assert_close(signs.flatten(), torch.tensor([-1.0]))  # the first sign stays: 1 - 0.5 > 0


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
def test_the_attack_brings_its_loss_down_on_a_student_that_differs(tiny_pipe, optimizer: str) -> None:
    base = copy.deepcopy(tiny_pipe)
    with torch.no_grad():
        for name, parameter in select_text_encoder_parameters(tiny_pipe, []).items():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    latents, timestep = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(501)
    with torch.no_grad():
        goal = _predict(base, latents, timestep, "a cat")

    def loss(prefix: torch.Tensor, step: int) -> torch.Tensor:
        return (_predict(tiny_pipe, latents, timestep, "a cat", prefix) - goal).square().mean()

    found = attack_prefix(loss, torch.zeros(1, 2, 16), steps=15, lr=0.05, optimizer=optimizer)
    assert loss(found.prefix, 0) < 0.95 * found.losses[0]
    with pytest.raises(ValueError, match="choose one of adam, sign"):
        attack_prefix(loss, found.prefix, steps=1, lr=1.0, optimizer="sgd")
    with pytest.raises(ValueError, match="attack ended in embeddings that are not finite"):
        attack_prefix(lambda prefix, step: prefix.sum() * math.nan, found.prefix, steps=2, lr=1.0)


@pytest.mark.parametrize("layers", [[], [0], [1]])
def test_only_the_trained_layers_change(tiny_pipe, layers: list[int]) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_pipe.text_encoder.state_dict().items()}
    others = [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.unet)]
    run_adv(tiny_pipe, layers=layers)
    state = tiny_pipe.text_encoder.state_dict()
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    wanted = tuple(f"encoder.layers.{layer}." for layer in layers) or ("encoder.", "final_layer_norm.")
    assert changed == {name for name in state if name.startswith(wanted)}
    assert [hash_tensors(part.state_dict()) for part in (tiny_pipe.vae, tiny_pipe.unet)] == others


def test_upstream_trains_layers_10_and_11_with_layer_1(tiny_pipe) -> None:
    encoder_config = tiny_pipe.text_encoder.config
    encoder_config.num_hidden_layers = 12
    tiny_pipe.text_encoder = type(tiny_pipe.text_encoder)(encoder_config).eval()
    trained = {}
    for compat in ("none", "upstream"):
        pipe = copy.deepcopy(tiny_pipe)
        run_adv(pipe, layers=[1], compat=compat)
        layers = enumerate(zip(pipe.text_encoder.encoder.layers, tiny_pipe.text_encoder.encoder.layers, strict=True))
        trained[compat] = [
            number for number, (ours, base) in layers if not torch.equal(ours.mlp.fc1.weight, base.mlp.fc1.weight)
        ]
    assert trained == {"none": [1], "upstream": [1, 10, 11]}


def test_the_target_goes_and_retain_prompts_stay(tiny_pipe) -> None:
    base, free = copy.deepcopy(tiny_pipe), copy.deepcopy(tiny_pipe)
    settings = {"steps": 40, "warmup_steps": 10, "lr": 3e-3, "attack_steps": 2}
    run_adv(tiny_pipe, retain_weight=3.0, **settings)
    run_adv(free, retain_weight=0.0, **settings)
    latents, timestep = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor(501)
    with torch.no_grad():
        empty, cat = (_predict(base, latents, timestep, text) for text in ("", "a cat"))
        target = empty - (cat - empty)
        forgotten = (_predict(tiny_pipe, latents, timestep, "a cat") - target).square().mean()
        known, kept, lost = (
            torch.cat([_predict(pipe, latents, timestep, text) for text in RETAIN]) for pipe in (base, tiny_pipe, free)
        )
    assert forgotten < 0.9 * (cat - target).square().mean()
    assert (kept - known).square().mean() < 0.5 * (lost - known).square().mean()


def test_counts_are_those_of_a_hand_count_and_of_the_plan(tiny_pipe) -> None:
    concept = Concept(target=("a cat", "a cow"))
    pools = {"gradient": 2 * 4 * (3 + 4), "random": 2 * 4 * (2 + 4)}
    for changes, hand in [
        ({}, (pools["gradient"] + 6 * 3 + 4 * 3, 6 * 3 + 4 * 3)),
        ({"attack_steps": 1, "attack_optimizer": "sign"}, (pools["gradient"] + 6 * 3 + 4, 6 * 3 + 4)),  # fast
        ({"attack": "random"}, (pools["random"] + 6 * 3, 6 * 3)),
        ({"attack": "none", "retain_weight": 0.0}, (2 * 4 * 2 + 6, 6)),
    ]:
        pipe = copy.deepcopy(tiny_pipe)
        cost = run_adv(pipe, concept, **changes).summary()
        plan = advunlearn.plan(pipe, concept, RETAIN, advunlearn.Config(**{**SMALL, **changes}))
        assert (cost["unet_forwards"], cost["unet_backwards"]) == hand
        assert (plan["unet_forwards"], plan["unet_backwards"]) == hand


def test_the_papers_defaults_keep_the_budget_of_the_design() -> None:
    config, retain = advunlearn.Config(), [f"thing {i}" for i in range(5)]
    plan = advunlearn.plan(None, CAT, retain, config)
    pool = config.sampling().expected_forwards(sum(config.walks(1)), has_anchor=False)
    assert pool == 28_000 <= 30 * config.steps
    attacked = advunlearn.Config(warmup_steps=0)
    whole = advunlearn.plan(None, CAT, retain, attacked)
    assert (whole["unet_forwards"] - pool, whole["unet_backwards"]) == (36_000, 36_000)
    assert plan["unet_backwards"] == 800 * 36 + 200 * 6


def test_every_state_of_a_prompt_comes_up_before_one_returns_and_batches_hold_different_prompts() -> None:
    concept, config = Concept(target=("a cat", "a cow")), advunlearn.Config(**{**SMALL, "steps": 30})
    retain = [f"thing {i}" for i in range(6)]
    schedule = advunlearn._schedule(concept, retain, config, Run())
    assert (schedule.forget_walks, schedule.retain_walks, len(schedule.retain)) == (3, 4, 4)
    assert set(schedule.retain) < set(retain)
    pairs, seen, before = schedule.pairs(), [], []
    for iteration in range(30):
        draws = [schedule.forget_draw(iteration, place) for place in range(4)]
        assert {pairs[draw % 7].target for draw in draws} == {concept.target[iteration % 2]}
        batch = [pairs[draw % 7].target for draw in schedule.retain_draws(iteration)]
        assert len(set(batch)) == 2
        if iteration % 2:
            assert {*batch, *before} == set(schedule.retain)
        before = batch
        visits = 4 if iteration >= SMALL["warmup_steps"] else 1
        seen += draws[:visits] if iteration % 2 == 0 else []
    assert len(set(seen)) == len(seen)  # a draw is a state: visit of a trajectory


@pytest.mark.parametrize("attack", [{"attack_steps": 5}, {"attack_steps": 3}, {"attack": "none"}, {"attack": "random"}])
@pytest.mark.parametrize(("prompts", "walks"), [(13, 40), (1, 40), (11, 22), (1, 6)])
def test_updates_go_through_all_trajectories_of_a_prompt_whatever_the_number_of_attack_steps(
    attack: dict[str, Any], prompts: int, walks: int
) -> None:
    concept = Concept(target="a cat", templates=tuple(f"{{}} {i}" for i in range(prompts)))
    config = advunlearn.Config(
        steps=400, warmup_steps=50, retain_weight=0.0, target_trajectories=walks, num_inference_steps=4, **attack
    )
    schedule = advunlearn._schedule(concept, [], config, Run())
    draws = [schedule.forget_draw(iteration, 0) for iteration in range(400)]
    counts = Counter(draw % schedule.forget_walks for draw in draws)
    assert set(counts) == set(range(schedule.forget_walks))
    own = [counts[walk] for walk in range(0, schedule.forget_walks, prompts)]  # of the first prompt
    assert max(own) - min(own) <= 6
    attacks = [schedule.forget_draw(i, 1 + step) for i in range(50, 400) for step in range(config.attack_draws(50))]
    assert len({*draws, *attacks}) == len(draws) + len(attacks)


def test_only_forget_prompts_are_predicted_with_an_anchor(tiny_pipe) -> None:
    anchored = Concept(target="a cat", anchor="a dog")
    run = run_adv(copy.deepcopy(tiny_pipe), anchored)
    plan = advunlearn.plan(None, anchored, RETAIN, advunlearn.Config(**SMALL))
    pool = 4 * (3 * 3 + 4 * 2)  # steps x (forget trajectories x 3 prompts + retain trajectories x 2)
    assert plan["unet_forwards"] == run.summary()["unet_forwards"] == pool + 4 * 3 + 6 * 3


def test_same_seed_same_bytes_and_another_seed_others(tiny_pipe) -> None:
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    run_adv(first, seed=1)
    torch.manual_seed(99)  # the global generator has no say
    run_adv(second, seed=1)
    run_adv(third, seed=2)
    assert weights(first) == weights(second) != weights(third)


# calls of the UNet: 8 fill the pool, 2 warm up, and then 3 attack and 1 updates
@pytest.mark.parametrize("at", [6, 10, 13, 15, 20])
def test_an_interrupted_run_leaves_the_base_and_a_resumed_one_ends_in_the_same_bytes(
    tiny_pipe, tmp_path: Path, at: int
) -> None:
    concept, changes = Concept(target=("a cat", "a cow")), {"attack_init": "last"}
    whole, again, before, calls = copy.deepcopy(tiny_pipe), copy.deepcopy(tiny_pipe), weights(tiny_pipe), []
    expected = run_adv(whole, concept, **changes).summary()

    def interrupt(module: object, inputs: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt

    hook = tiny_pipe.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_adv(tiny_pipe, concept, folder=tmp_path, **changes)
    hook.remove()
    assert weights(tiny_pipe) == before
    assert not tiny_pipe.unet._forward_hooks
    assert not tiny_pipe.text_encoder.get_input_embeddings()._forward_hooks
    assert all(parameter.requires_grad for parameter in tiny_pipe.text_encoder.parameters())
    run_adv(again, concept, folder=tmp_path, **changes)
    assert weights(again) == weights(whole)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "states" in name]  # noqa: SIM118 - not a dict
    assert (tmp_path / "pool.safetensors").stat().st_size > 4 * 4 * 7 * 3 * 4 * 8 * 8
    assert expected["unet_forwards"] == 2 * 4 * 7 + 6 * 3 + 4 * 3
    with pytest.raises(ValueError, match="belongs to a run with another"):
        run_adv(tiny_pipe, concept, folder=tmp_path, attack_steps=2, **changes)


def test_what_is_trained_follows_the_settings(tiny_folder: Path) -> None:
    bytes_of = {}
    for component in ("text_encoder", "unet"):
        settings = {"method": "advunlearn", "base_model": str(tiny_folder), "concept": {"target": ["a cat"]}}
        config = read_config(settings={**settings, "save": "delta", "params": {"component": component}})
        bytes_of[component] = artifact_bytes(config)
    assert bytes_of == {name: 4 * count for name, count in count_parameters(tiny_folder).items() if name in bytes_of}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_fp32_masters(tiny_pipe, dtype: torch.dtype) -> None:
    reference = copy.deepcopy(tiny_pipe)
    settings = {"steps": 3, "warmup_steps": 1, "lr": 1e-2}
    before = {name: p.detach().clone() for name, p in select_text_encoder_parameters(tiny_pipe, []).items()}
    run_adv(reference, **settings)
    tiny_pipe.unet.to(dtype)
    tiny_pipe.text_encoder.to(dtype)
    run_adv(tiny_pipe, **settings)
    assert {parameter.dtype for parameter in tiny_pipe.text_encoder.parameters()} == {dtype}
    moved, wanted = (
        torch.cat([(p.detach().float() - before[name]).flatten() for name, p in parameters.items()])
        for parameters in (select_text_encoder_parameters(pipe, []) for pipe in (tiny_pipe, reference))
    )
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.7


def test_the_saved_text_encoder_plugs_into_another_pipeline(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    erased = erase.erase_concept(
        tiny_folder, "a cat", method="advunlearn", kind="object", retain=RETAIN, out=out, quiet=True, **SMALL
    )
    other = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    expected, base = (pipe.encode_prompt("a cat", "cpu", 1, False)[0] for pipe in (erased, other))
    other.text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder")
    found = other.encode_prompt("a cat", "cpu", 1, False)[0]
    assert torch.equal(found, expected)
    assert not torch.equal(found, base)
    assert torch.equal(erase.load_erased(out).encode_prompt("a cat", "cpu", 1, False)[0], expected)


def test_upstream_differs_from_the_correct_attack(tiny_pipe) -> None:
    found = set()
    fast = {"attack_steps": 1, "attack_optimizer": "sign"}
    for changes in ({}, fast, {"compat": "upstream"}, {"attack": "random"}, {"attack": "none"}):
        pipe = copy.deepcopy(tiny_pipe)
        run_adv(pipe, **changes)
        found.add(weights(pipe))
    assert len(found) == 5


def test_upstream_trains_at_other_levels_also_without_an_attack(tiny_pipe) -> None:
    other, concept = copy.deepcopy(tiny_pipe), Concept(target="a cat", anchor="a fox", kind="object")
    run_adv(tiny_pipe, concept, attack="none")
    cost = run_adv(other, concept, attack="none", compat="upstream").summary()
    assert weights(tiny_pipe) != weights(other)
    config = advunlearn.Config(**SMALL, attack="none", compat="upstream")
    assert advunlearn.plan(None, concept, RETAIN, config)["unet_forwards"] == cost["unet_forwards"]


def test_what_cannot_be_done_is_refused_before_anything_is_computed(tiny_pipe, tiny_pipe_xl) -> None:
    run, config = Run(quiet=True), advunlearn.Config(**SMALL)
    with pytest.raises(ValueError, match=r"supports sd1, sd2, .* but this model is sdxl"):
        advunlearn.erase(tiny_pipe_xl, CAT, RETAIN, config, run)
    with pytest.raises(ValueError, match="retain holds 0 different prompts"):
        advunlearn.erase(tiny_pipe, CAT, [], config, run)
    with pytest.raises(ValueError, match="retain holds 1 different prompts"):
        advunlearn.erase(tiny_pipe, CAT, ["a dog", "a dog"], config, run)
    with pytest.raises(ValueError, match="'a cat' is to be erased and retained"):
        advunlearn.erase(tiny_pipe, CAT, [*RETAIN, "a cat"], config, run)
    with pytest.raises(ValueError, match="no layer 7: choose from 0 to 1"):
        advunlearn.erase(tiny_pipe, CAT, RETAIN, advunlearn.Config(**SMALL, layers=[7]), run)
    long = Concept(target="x" * 74)
    with pytest.raises(ValueError, match="has 78 tokens with a prefix of 2"):
        advunlearn.erase(tiny_pipe, long, RETAIN, advunlearn.Config(**SMALL, prefix_tokens=2), run)
    with pytest.raises(ValueError, match="cannot visit all 7 forget prompts"):
        advunlearn.plan(None, Concept(target=tuple("abcdefg")), RETAIN, config)
    assert run.summary()["unet_forwards"] == 0


def test_a_diverging_run_leaves_the_base(tiny_pipe) -> None:
    before = weights(tiny_pipe)
    with pytest.raises(ValueError, match="not finite"):
        run_adv(tiny_pipe, lr=1e30)
    assert weights(tiny_pipe) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component": "vae"}, "choose one of text_encoder, unet"),
        ({"attack": "pgd"}, "choose one of gradient, random, none"),
        ({"attack_optimizer": "sgd"}, "choose one of adam, sign"),
        ({"attack_init": "latest"}, "choose one of random, last"),
        ({"compat": "yes"}, "choose one of none, upstream"),
        ({"steps": 0}, "steps is 0"),
        ({"attack_steps": 0}, "attack_steps is 0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"attack_lr": 0.0}, "attack_lr is 0.0"),
        ({"retain_weight": -1.0}, "retain_weight is -1.0"),
        ({"warmup_steps": 1000}, "nothing would be attacked"),
        ({"retain_trajectories": 4}, "fewer than the retain_batch of 5"),
        ({"component": "unet", "layers": [0]}, "leave one of them out"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_meaningless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advunlearn.Config(**changes)


def test_the_five_experiments_have_the_papers_values_and_train_on_no_held_out_wording() -> None:
    folder = data_folder("configs") / "advunlearn"
    names = {path.stem for path in folder.glob("*.yaml")}
    assert names == {"canvas-object", "canvas-style", "sd1-explicit", "sd1-object", "sd1-style"}
    chosen = {n: read_config(f"advunlearn/sd1-{n}").params for n in ("style", "object", "explicit")}
    assert {n: (p["layers"], p["retain_weight"]) for n, p in chosen.items()} == {
        "style": ([0], 0.5),
        "object": ([0], 0.5),
        "explicit": ([], 0.3),
    }
    held_out = {row.prompt for row in read_prompts(data_folder("prompts") / "canvas_held_out.csv")}
    for name, target in (("canvas-style", "Sepia"), ("canvas-object", "Frogs")):
        config = read_config(f"advunlearn/{name}", overrides=[f"concept.target=[{target}]"])
        prompts = [pair.target for pair in config.to_concept().pairs()]
        assert not held_out & {*prompts, *config.retain_prompts()}
        assert not any(target in prompt for prompt in config.retain_prompts())
    assert len(read_config("advunlearn/sd1-style").retain_prompts()) >= 80
