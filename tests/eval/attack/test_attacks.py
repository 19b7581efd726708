"""The searches, on a model whose erasure is planted: its tokenizer drops a word that a prefix can restore."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from erase.concept import Concept
from erase.methods import unguide
from erase.model.delta import only_trainable
from erase.model.diffusion import predict_noise
from erase.training.run import Run, hash_tensors
from eval.attack.attacks import discrete, seeds, soft
from eval.attack.attempt import Tries, load, save
from eval.attack.objective import Objective, States, draw_states, load_states, save_states, vocabulary
from eval.draw.generate import generate
from eval.suite.rows import Row
from eval.suite.suite import Sampler


ROW = Row(prompt_id="cat", prompt="z cat", seed=1)
STEPS = 6
SAMPLER = Sampler(steps=2, guidance_scale=5.0)


def tiny_run() -> Run:
    return Run(quiet=True)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def states(base: DiffusionPipeline) -> States:
    return draw_states(
        base, [ROW.prompt], trajectories=1, num_inference_steps=STEPS, guidance_scale=3.0, run=tiny_run()
    )[ROW.prompt]


def search(pipe: DiffusionPipeline, module, states: States | None, tries: int = 3, batch_size: int = 64, **settings):
    """Search as an attack does; gives the tries, and the run with its cost."""
    run = tiny_run()
    with run.measure(pipe.unet), only_trainable(pipe, {}):
        result = module.search(
            pipe, ROW, module.Config(**settings), states=states, tries=tries, batch_size=batch_size, run=run
        )
    return result, run


@pytest.fixture(scope="module")
def state_loss(states: States) -> Callable[[DiffusionPipeline, torch.Tensor], float]:
    """The loss of a prefix at every state."""

    def loss(pipe: DiffusionPipeline, prefix: torch.Tensor) -> float:
        options = {"states": states, "states_per_step": STEPS, "batch_size": 64, "run": tiny_run()}
        with torch.no_grad():
            return Objective(pipe, ROW, **options).loss(prefix, 0).item()

    return loss


def test_the_states_are_the_base_s_and_so_are_the_predictions(base, states: States) -> None:
    assert states.latents.shape == (STEPS, 4, 8, 8)
    embeds = base.encode_prompt(ROW.prompt, "cpu", 1, False)[0].expand(STEPS, -1, -1)
    with torch.no_grad():
        expected = predict_noise(
            base.unet, states.latents, states.timesteps, conditioning={"encoder_hidden_states": embeds}
        )
    torch.testing.assert_close(states.noise_pred, expected, atol=1e-5, rtol=1e-4)
    assert len(set(states.timesteps.tolist())) == STEPS


def test_every_prompt_has_its_own_states_on_disk_too(base, tmp_path: Path) -> None:
    run, prompts = tiny_run(), ["z cat", "z dog", "z cat", "z fish"]
    with run.measure(base.unet):
        drawn = draw_states(base, prompts, trajectories=2, num_inference_steps=3, guidance_scale=3.0, run=run)
    assert run.summary()["unet_forwards"] == 2 * 3 * 2 * 3  # guidance, distinct prompts, trajectories, steps
    alone = draw_states(base, prompts[1:2], trajectories=1, num_inference_steps=3, guidance_scale=3.0, run=run)
    assert [len(each.timesteps) for each in drawn.values()] == [6, 6, 6]
    # the noise belongs to the number of the walk: walk 0 is the cat's here and the dog's there
    torch.testing.assert_close(drawn["z cat"].latents[0], alone["z dog"].latents[0])
    for prompt, each in drawn.items():
        embeds = base.encode_prompt(prompt, "cpu", 1, False)[0].expand(6, -1, -1)
        arguments = {"encoder_hidden_states": embeds}
        with torch.no_grad():
            expected = predict_noise(base.unet, each.latents, each.timesteps, conditioning=arguments)
        torch.testing.assert_close(each.noise_pred, expected, atol=1e-5, rtol=1e-4)
    save_states(tmp_path / "states.safetensors", drawn)
    again = load_states(tmp_path / "states.safetensors", prompts, device=torch.device("cpu"))
    assert again.keys() == drawn.keys()
    for prompt, each in again.items():
        assert all(one.equal(other) for one, other in zip(each, drawn[prompt], strict=True))


def test_the_planted_word_as_a_prefix_restores_the_base(forgetful, base, state_loss) -> None:
    word = vocabulary(base)[base.tokenizer("z").input_ids[1]][None, None]
    assert state_loss(forgetful, word) < 1e-10
    assert state_loss(forgetful, torch.zeros_like(word)) > 1e-6


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
def test_soft_tokens_bring_the_loss_down_and_beat_the_null(forgetful, states, state_loss, optimizer: str) -> None:
    settings = {"tokens": 1, "states_per_step": 3, "optimizer": optimizer}
    result, _ = search(forgetful, soft, states, steps=30, **settings)
    begun, _ = search(forgetful, soft, states, steps=1, step_size=1e-9, **settings)
    started, attacked, null = (
        [state_loss(forgetful, attempt.prefix) for attempt in arm] for arm in (begun.attack, result.attack, result.null)
    )
    assert max(attacked) < 0.2 * min(started)
    assert max(attacked) < min(null)
    assert sum(attacked) < 0.2 * sum(null)
    for one, other in zip(result.attack, result.null, strict=True):
        torch.testing.assert_close(one.prefix.norm(dim=2), other.prefix.norm(dim=2))


def test_the_start_is_not_that_of_advunlearn(forgetful, states) -> None:
    """Its training starts at embeddings of the vocabulary; a step of nothing shows where the search starts."""
    embeddings = vocabulary(forgetful)
    for init, is_word in (("vocabulary", True), ("gaussian", False)):
        result, _ = search(forgetful, soft, states, tokens=2, steps=1, step_size=1e-12, init=init)
        gaps = torch.cdist(torch.cat([attempt.prefix[0] for attempt in result.attack]), embeddings).amin(1)
        assert ((gaps < 1e-4) == is_word).all()
        assert len({tuple(attempt.prefix.flatten().tolist()) for attempt in result.attack}) == 3


def test_words_find_the_planted_one_and_the_text_says_so(forgetful, states, tmp_path: Path, base) -> None:
    result, _ = search(forgetful, discrete, states, tokens=1, steps=30, states_per_step=3)
    texts = [attempt.prompt for attempt in result.attack]
    assert "z z cat" in texts
    assert result.losses[texts.index("z z cat"), -1] < 1e-10
    assert all(attempt.prompt.endswith(" z cat") and attempt.prefix is None for attempt in result.attack + result.null)
    assert "z z cat" not in [attempt.prompt for attempt in result.null]
    # what is tested is text, so the image of the text is the base's image of the prompt
    row = Row(prompt_id="text", prompt="z z cat", seed=1)
    generate(forgetful, [row], tmp_path / "erased", SAMPLER, progress=False)
    generate(base, [ROW], tmp_path / "base", SAMPLER, progress=False)
    one, other = (tmp_path / name for name in ("erased/images/text_seed1.png", "base/images/cat_seed1.png"))
    assert np.array_equal(Image.open(one), Image.open(other))


def test_words_come_back_from_their_text(tiny_pipe) -> None:
    words = discrete.find_words(tiny_pipe)
    assert "z" in words.values()
    assert not any(token in words for token in tiny_pipe.tokenizer.all_special_ids)
    numbers = list(words)[::7]
    text = " ".join(words[number] for number in numbers[:60])
    assert tiny_pipe.tokenizer(text).input_ids[1:-1] == numbers[:60]


@pytest.mark.parametrize("module", [soft, discrete])
def test_the_costs_are_exact_and_the_batch_does_not_matter(forgetful, states, module) -> None:
    settings = {"tokens": 2, "steps": 4, "states_per_step": 2, "tries": 3}
    result, run = search(forgetful, module, states, **settings)
    count = 3 * 4 * 2
    assert (run.summary()["unet_forwards"], run.summary()["unet_backwards"]) == (count, count)
    assert result.losses.shape == (3, 4)
    alone, run = search(forgetful, module, states, batch_size=1, **settings)
    assert run.summary()["unet_backwards"] == count
    torch.testing.assert_close(result.losses, alone.losses, rtol=1e-2, atol=1e-9)
    fewer, _ = search(forgetful, module, states, **{**settings, "tries": 1})
    assert fewer.attack[0].seed == result.attack[0].seed
    torch.testing.assert_close(fewer.losses[0], result.losses[0], rtol=1e-2, atol=1e-9)


def test_gradients_are_the_prefix_s_alone_and_the_pipeline_comes_back(forgetful, states) -> None:
    parts = (forgetful.unet, forgetful.text_encoder, forgetful.vae)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    forgetful.unet.train()
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[3].requires_grad_(False)
    before = [parameter.requires_grad for parameter in parameters]
    weights, noise = hash_tensors(forgetful.unet.state_dict()), torch.get_rng_state()
    seen: list[tuple[bool, bool, bool]] = []

    def look(unet: torch.nn.Module, inputs: tuple, arguments: dict, output: tuple) -> None:
        needed = any(parameter.requires_grad for parameter in parameters)
        seen.append((needed, arguments["encoder_hidden_states"].requires_grad, unet.training))

    hook = forgetful.unet.register_forward_hook(look, with_kwargs=True)
    search(forgetful, soft, states, steps=2)
    hook.remove()
    assert set(seen) == {(False, True, False)}
    assert [parameter.requires_grad for parameter in parameters] == before
    assert parameters[0].grad.equal(torch.ones_like(parameters[0]))
    assert all(parameter.grad is None for parameter in parameters[1:])
    assert forgetful.unet.training
    assert not any(module._forward_hooks for part in parts for module in part.modules())
    assert hash_tensors(forgetful.unet.state_dict()) == weights
    assert torch.get_rng_state().equal(noise)


def test_a_prefix_is_drawn_as_the_text_would_be(tiny_pipe, tmp_path: Path) -> None:
    """Both paths to the UNet agree, in a batch that holds prompts with and without a prefix."""
    word = vocabulary(tiny_pipe)[tiny_pipe.tokenizer("z").input_ids[1]][None, None]
    rows = [Row(prompt_id=name, prompt=text, seed=1) for name, text in (("a", "cat"), ("b", "z cat"), ("c", "cat"))]
    generate(tiny_pipe, rows, tmp_path, SAMPLER, prefixes={rows[0].key: word}, progress=False)
    one, two, three = (np.asarray(Image.open(tmp_path / "images" / f"{row.key}.png"), np.int16) for row in rows)
    assert np.abs(one - two).max() <= 1
    assert np.abs(one - three).max() > 3


def test_seed_search_has_other_seeds_and_asks_nothing_in_its_null(tiny_pipe) -> None:
    result, run = search(tiny_pipe, seeds, None, tries=4)
    drawn = [attempt.seed for attempt in result.attack]
    assert len({*drawn, ROW.seed}) == 5
    assert [attempt.seed for attempt in result.null] == drawn
    assert {attempt.prompt for attempt in result.attack} == {ROW.prompt}
    assert {attempt.prompt for attempt in result.null} == {""}
    assert run.summary()["unet_forwards"] == 0


def test_the_tries_survive_the_disk(forgetful, states, tmp_path: Path) -> None:
    for module in (soft, discrete):
        tries, _ = search(forgetful, module, states, steps=2)
        save(tmp_path / "tries.safetensors", tries)
        assert plain(load(tmp_path / "tries.safetensors")) == plain(tries)
    (tmp_path / "tries.safetensors").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="is damaged"):
        load(tmp_path / "tries.safetensors")


def plain(tries: Tries) -> list:
    attempts = [
        (attempt.prompt, attempt.seed, None if attempt.prefix is None else attempt.prefix.tolist())
        for attempt in tries.attack + tries.null
    ]
    return [attempts, tries.losses.tolist()]


@pytest.fixture
def guided(tiny_pipe: StableDiffusionPipeline) -> DiffusionPipeline:
    settings = {"steps": 4, "num_inference_steps": 4, "refresh": 2, "lr": 3e-2, "generation_steps": 8}
    more = {"observe_steps": 2, "calibration_samples": 4, "quantile": 0.01}
    concept = Concept(target="z cat", kind="object")
    return unguide.erase(tiny_pipe, concept, ["z cat"], unguide.Config(**settings, **more), tiny_run())


def test_unguide_is_attacked_as_a_recognised_sample(guided, states, state_loss, tmp_path: Path) -> None:
    word = vocabulary(guided)[5][None, None]
    weight = guided.guider.config.target_weight
    before = guided.guider.statistic, guided.guider.weight
    loss = state_loss(guided, word)
    tokens = guided.tokenizer([ROW.prompt], padding="max_length", max_length=77, return_tensors="pt").input_ids
    embeds = vocabulary(guided)[tokens]
    embeds = torch.cat([embeds[:, :1], word, embeds[:, 1:-1]], 1)
    hook = guided.text_encoder.get_input_embeddings().register_forward_hook(lambda *_: embeds)
    with torch.no_grad():
        encoded = guided.text_encoder(tokens)[0].expand(STEPS, -1, -1)
        hook.remove()
        adapter = guided.unet(states.latents, states.timesteps, encoded).sample
        with guided.guider.detached(guided.unet):
            plain = guided.unet(states.latents, states.timesteps, encoded).sample
    blend = weight * plain + (1 - weight) * adapter
    assert (adapter - plain).abs().max() > 1e-4
    assert loss == pytest.approx((blend - states.noise_pred).square().mean().item(), rel=1e-3)
    result, run = search(guided, soft, states, steps=25, tokens=2, states_per_step=3)
    assert run.summary()["unet_backwards"] == run.summary()["unet_forwards"] == 2 * 3 * 25 * 3  # base and adapter
    assert result.losses[:, -5:].mean() < result.losses[:, :5].mean()
    assert (guided.guider.statistic, guided.guider.weight) == before
    row = Row(prompt_id="hit", prompt=ROW.prompt, seed=1)
    sampler = Sampler(steps=8, guidance_scale=5.0)
    generate(guided, [row], tmp_path, sampler, prefixes={row.key: result.attack[0].prefix}, progress=False)
    assert guided.guider.weight.tolist() in ([1.0], [pytest.approx(weight)])  # it decided by itself


def test_what_cannot_be_attacked_is_refused(tiny_pipe_xl, tiny_pipe, states) -> None:
    for module in (soft, discrete):
        with pytest.raises(ValueError, match="StableDiffusionXLPipeline, but gradients reach a prefix through one"):
            search(tiny_pipe_xl, module, states)
        with pytest.raises(ValueError, match="with a prefix of 75, but the model reads 77"):
            search(tiny_pipe, module, states, tokens=75)
    for module, settings, match in (
        (soft, {"tokens": 0}, "tokens is 0"),
        (soft, {"init": "zeros"}, "choose one of gaussian, vocabulary"),
        (soft, {"step_size": float("nan")}, "a positive number"),
        (discrete, {"optimizer": "sgd"}, "choose one of adam, sign"),
        (discrete, {"steps": 0}, "steps is 0"),
    ):
        with pytest.raises(ValueError, match=match):
            module.Config(**settings)
