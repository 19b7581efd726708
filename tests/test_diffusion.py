import pytest
import torch
from diffusers import DDIMPipeline, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig

from erase import diffusion


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
    u_xl = diffusion.select_parameters(tiny_pipe_xl, "u")
    assert all(name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for name in u_xl)
    assert not any("emb" in name or "attn2" in name for name in u_xl)


def test_selecting_nothing_is_an_error(tiny_pipe) -> None:
    with pytest.raises(ValueError, match="'xattn' is unknown: choose one of x, strict, u"):
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
