"""How far layers moved: against changes that were made by hand."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

from eval.models.layers import layer_changes


KEYS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def test_only_what_changed_is_above_zero(tiny_pipe: StableDiffusionPipeline, tiny_folder: Path) -> None:
    with torch.no_grad():
        tiny_pipe.unet.get_submodule(KEYS).weight *= 1.25
        tiny_pipe.text_encoder.get_input_embeddings().weight *= 0.9
    found = layer_changes(tiny_pipe, str(tiny_folder))
    assert {name for name, change in found["unet"].items() if change} == {KEYS}
    assert found["unet"][KEYS] == pytest.approx(0.25)
    (moved,) = (name for name, change in found["text_encoder"].items() if change)
    assert moved.endswith("token_embedding")
    assert found["text_encoder"][moved] == pytest.approx(0.1, rel=1e-4)
    assert next(iter(found["unet"])) == "conv_in"  # in the order of the model


def test_an_adapter_counts_with_its_product(tiny_pipe: StableDiffusionPipeline, tiny_folder: Path) -> None:
    before = tiny_pipe.unet.get_submodule(KEYS).weight.detach().clone()
    tiny_pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=[KEYS]), adapter_name="mine")
    layer = tiny_pipe.unet.get_submodule(KEYS)
    with torch.no_grad():
        layer.lora_B["mine"].weight.normal_(generator=torch.Generator().manual_seed(0))
        change = 3 * layer.lora_B["mine"].weight @ layer.lora_A["mine"].weight  # alpha / r
    expected = float(change.norm() / before.norm())
    for base in (str(tiny_folder), StableDiffusionPipeline.from_pretrained(tiny_folder)):
        found = layer_changes(tiny_pipe, base)["unet"]
        assert {name for name, value in found.items() if value} == {KEYS}
        assert found[KEYS] == pytest.approx(expected, rel=1e-5)
    tiny_pipe.unet.disable_adapters()
    assert not any(layer_changes(tiny_pipe, str(tiny_folder))["unet"].values())


def test_a_layer_that_the_base_lacks_is_none(
    tiny_pipe: StableDiffusionPipeline, tiny_pipe_v: StableDiffusionPipeline, tiny_folder: Path
) -> None:
    found = layer_changes(tiny_pipe_v, str(tiny_folder))["unet"]
    assert [name for name, change in found.items() if change is None]  # linear in the place of convolutions
    assert found["conv_in"] is not None
    assert layer_changes(tiny_pipe, tiny_pipe)["unet"]["conv_in"] == 0
