import pytest
import torch
from diffusers import DDIMPipeline, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig

from erase.model import diffusion


CPU = torch.device("cpu")


def test_families(tiny_pipe, tiny_pipe_v, tiny_pipe_xl) -> None:
    assert [diffusion.family(pipe) for pipe in (tiny_pipe, tiny_pipe_v, tiny_pipe_xl)] == ["sd1", "sd2", "sdxl"]


def test_a_pipeline_whose_erasure_cannot_be_guaranteed_is_refused(tiny_pipe) -> None:
    with pytest.raises(ValueError, match="a DDIMPipeline, but only Stable Diffusion"):
        diffusion.family(DDIMPipeline(tiny_pipe.unet, tiny_pipe.scheduler))
    tiny_pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type is 'sample'"):
        diffusion.family(tiny_pipe)
    tiny_pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(ValueError, match="in_channels 9"):
        diffusion.family(tiny_pipe)


def test_a_unet_with_lora_layers_is_refused(tiny_pipe) -> None:
    tiny_pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["to_k"]))
    with pytest.raises(ValueError, match="carries LoRA layers"):
        diffusion.family(tiny_pipe)


def test_every_prompt_is_encoded_once_and_as_the_pipeline_does(tiny_pipe) -> None:
    seen: list[int] = []
    hook = tiny_pipe.text_encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output[0])))
    conditioning = diffusion.encode_prompts(tiny_pipe, ["", "a cat", "", "a cat", "a dog"], device=CPU)
    hook.remove()
    assert sum(seen) == 3
    expected, negative = tiny_pipe.encode_prompt("a cat", CPU, 1, True)
    rows = conditioning.rows(["a cat", "", "a cat"])
    torch.testing.assert_close(rows["encoder_hidden_states"], torch.cat([expected, negative, expected]))
    assert not conditioning.prompt_embeds.requires_grad


@pytest.mark.parametrize("fixture", ["tiny_pipe", "tiny_pipe_xl"])
def test_prompts_are_encoded_in_batches_of_any_size_and_each_once(request, fixture: str, monkeypatch) -> None:
    pipe, prompts = (
        request.getfixturevalue(fixture),
        ["a", "", *(f"{i} cats" for i in range(2 * diffusion.ENCODE_BATCH))],
    )
    sizes: list[int] = []
    pipe.text_encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output[0])))
    found = diffusion.encode_prompts(pipe, [*prompts, "a"], device=CPU)
    assert sizes == [diffusion.ENCODE_BATCH, diffusion.ENCODE_BATCH, 2]
    monkeypatch.setattr(diffusion, "ENCODE_BATCH", 10_000)
    whole = diffusion.encode_prompts(pipe, prompts, device=CPU)
    assert sizes[3:] == [len(prompts)]
    assert found.index == whole.index == {prompt: row for row, prompt in enumerate(prompts)}
    torch.testing.assert_close(found.prompt_embeds, whole.prompt_embeds, rtol=1e-6, atol=1e-6)
    if fixture == "tiny_pipe_xl":
        torch.testing.assert_close(found.pooled_prompt_embeds, whole.pooled_prompt_embeds, rtol=1e-6, atol=1e-6)
        assert torch.equal(found.time_ids, whole.time_ids)
        assert found.prompt_embeds[1].abs().max() == 0  # the unconditional prompt


def test_a_prompt_that_is_too_long_is_refused_before_any_is_encoded(tiny_pipe) -> None:
    batches = diffusion.encode_in_batches(tiny_pipe, [*map(str, range(100)), "x" * 80], device=CPU)
    with pytest.raises(ValueError, match="has 82 tokens"):
        next(batches)


def test_encoding_with_gradient_is_the_pipelines_own_and_a_prefix_is_further_tokens(tiny_pipe) -> None:
    expected = tiny_pipe.encode_prompt(["a cat", "a dog"], CPU, 1, False)[0]
    found = diffusion.encode_with_gradient(tiny_pipe, ["a cat", "a dog"])
    assert torch.equal(found, expected)
    assert found.requires_grad
    words = torch.tensor([tiny_pipe.tokenizer("ok").input_ids[1:-1]])
    prefix = tiny_pipe.text_encoder.get_input_embeddings()(words).detach().requires_grad_(True)
    found = diffusion.encode_with_gradient(tiny_pipe, ["a cat", "a dog"], prefix=prefix)
    # the tokeniser of the fixture has a token per letter, so that "ok a cat" begins with the tokens of "ok"
    torch.testing.assert_close(found, tiny_pipe.encode_prompt(["ok a cat", "ok a dog"], CPU, 1, False)[0])
    found.sum().backward()
    assert prefix.grad is not None
    assert not tiny_pipe.text_encoder.get_input_embeddings()._forward_hooks
    with pytest.raises(ValueError, match="has 78 tokens with a prefix of 2, but the model reads 77"):
        diffusion.encode_with_gradient(tiny_pipe, ["x" * 74], prefix=prefix)


def test_a_gap_drops_tokens_where_it_is_and_not_at_the_end(tiny_pipe) -> None:
    embed = tiny_pipe.text_encoder.get_input_embeddings()
    prefix = embed(torch.tensor([tiny_pipe.tokenizer("ok").input_ids[1:-1]]))
    found = diffusion.encode_with_gradient(tiny_pipe, ["cats"], prefix=prefix, gap=2)
    ids = tiny_pipe.tokenizer("cats", padding="max_length", return_tensors="pt").input_ids
    rest = [ids[:, :1], torch.tensor([tiny_pipe.tokenizer("ok").input_ids[1:-1]]), ids[:, 1:2], ids[:, 4:]]
    torch.testing.assert_close(found, tiny_pipe.text_encoder(torch.cat(rest, dim=1)).last_hidden_state)


def test_text_encoder_layers_are_told_by_number(tiny_pipe) -> None:
    config = tiny_pipe.text_encoder.config
    config.num_hidden_layers = 12
    tiny_pipe.text_encoder = type(tiny_pipe.text_encoder)(config)
    first = diffusion.select_text_encoder_parameters(tiny_pipe, [1])
    assert {name.split(".")[2] for name in first} == {"1"}  # 10 and 11 begin with 1
    upstream = diffusion.select_text_encoder_parameters(tiny_pipe, [0, 1], by_prefix=True)
    assert {name.split(".")[2] for name in upstream} == {"0", "1", "10", "11"}
    whole = diffusion.select_text_encoder_parameters(tiny_pipe, [])
    left = {name for name, _ in tiny_pipe.text_encoder.named_parameters()} - whole.keys()
    assert left == {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight"}
    with pytest.raises(ValueError, match="no layer 12: choose from 0 to 11"):
        diffusion.select_text_encoder_parameters(tiny_pipe, [0, 12])


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_conditioning_is_the_pipelines_own(tiny_pipe_xl, zeros: bool) -> None:
    tiny_pipe_xl.register_to_config(force_zeros_for_empty_prompt=zeros)
    rows = diffusion.encode_prompts(tiny_pipe_xl, ["", "a cat"], device=CPU).rows(["a cat", ""])
    embeds, negative, pooled, negative_pooled = tiny_pipe_xl.encode_prompt("a cat", device=CPU)
    torch.testing.assert_close(rows["encoder_hidden_states"], torch.cat([embeds, negative]))
    torch.testing.assert_close(rows["added_cond_kwargs"]["text_embeds"], torch.cat([pooled, negative_pooled]))
    expected = tiny_pipe_xl._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 16)
    assert torch.equal(rows["added_cond_kwargs"]["time_ids"], expected.expand(2, -1))


def test_a_prompt_that_would_be_cut_is_refused(tiny_pipe) -> None:
    with pytest.raises(ValueError, match="has 82 tokens, but the model reads 77"):
        diffusion.encode_prompts(tiny_pipe, ["x" * 80], device=CPU)


@pytest.mark.parametrize("fixture", ["tiny_pipe", "tiny_pipe_v"])
def test_noising_and_its_inverse_agree_with_the_scheduler(request, fixture: str) -> None:
    pipe = request.getfixturevalue(fixture)
    sampler = diffusion.ddim_sampler(pipe, 50)
    generator = torch.Generator().manual_seed(0)
    original, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([981, 21])
    latents = diffusion.add_noise(sampler, original, noise, timesteps)
    torch.testing.assert_close(latents, pipe.scheduler.add_noise(original, noise, timesteps))
    prediction = sampler.get_velocity(original, noise, timesteps) if fixture == "tiny_pipe_v" else noise
    found = diffusion.predict_original(sampler, prediction, latents, timesteps)
    torch.testing.assert_close(found, original, rtol=1e-3, atol=1e-3)
    steps = [sampler.step(prediction[i : i + 1], int(timesteps[i]), latents[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(found, torch.cat([step.pred_original_sample for step in steps]))


def test_the_sampler_is_the_models_own_schedule_and_never_clips(tiny_pipe) -> None:
    tiny_pipe.scheduler.register_to_config(clip_sample=True)
    before = tiny_pipe.scheduler.timesteps.clone()
    sampler = diffusion.ddim_sampler(tiny_pipe, 50)
    assert not sampler.config.clip_sample
    assert sampler.timesteps.tolist() == list(range(981, 0, -20))
    assert torch.equal(tiny_pipe.scheduler.timesteps, before)
    with pytest.raises(ValueError, match="num_inference_steps is 1001"):
        diffusion.ddim_sampler(tiny_pipe, 1001)


def test_variants_select_the_modules_of_the_paper(tiny_pipe, tiny_pipe_xl) -> None:
    x, strict, u = (diffusion.select_parameters(tiny_pipe, variant) for variant in ("x", "strict", "u"))
    leaves = {name.split(".attn2.")[1] for name in x}
    assert leaves == {"to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias"}
    assert {name.split(".attn2.")[1] for name in strict} == {"to_k.weight", "to_v.weight"}
    assert strict.keys() < x.keys()
    assert not x.keys() & u.keys()
    others = {name for name, _ in tiny_pipe.unet.named_parameters()} - x.keys() - u.keys()
    assert all("norm" in name or name.startswith(("time_embedding.", "conv_out.")) for name in others)
    assert {"conv_in.weight", "down_blocks.0.resnets.0.time_emb_proj.weight"} < u.keys()
    attention = diffusion.select_parameters(tiny_pipe, "attention")
    assert attention.keys() == {name for name, _ in tiny_pipe.unet.named_parameters() if ".attn" in name}
    u_xl = diffusion.select_parameters(tiny_pipe_xl, "u")
    assert all(name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for name in u_xl)
    assert not any("emb" in name or "attn2" in name for name in u_xl)


def test_selecting_nothing_is_an_error(tiny_pipe) -> None:
    with pytest.raises(ValueError, match="'xattn' is unknown: choose one of x, strict, u, attention"):
        diffusion.select_parameters(tiny_pipe, "xattn")
    parts = {**tiny_pipe.components, "unet": _unet_without_attention()}
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match="'x' selects no parameter"):
        diffusion.select_parameters(pipe, "x")


def _unet_without_attention() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        mid_block_type=None,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        cross_attention_dim=16,
        layers_per_block=1,
    )


def test_predict_noise_is_the_unet(tiny_pipe) -> None:
    conditioning = diffusion.encode_prompts(tiny_pipe, ["a cat"], device=CPU)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = diffusion.predict_noise(
        tiny_pipe.unet, latents, torch.tensor([21]), conditioning=conditioning.rows(["a cat"])
    )
    assert torch.equal(found, tiny_pipe.unet(latents, 21, conditioning.prompt_embeds).sample)
