"""Files as other projects' code saves them, made from a tiny pipeline whose weights were changed at random."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from erase.model import base_model


Changed = tuple[Path, dict[str, torch.Tensor]]  # the file, and the changed tensors by component and name


class Wrapper(torch.nn.Module):
    """AdvUnlearn's wrapper: the text encoder, and three of its parts under a second name."""

    def __init__(self, text_encoder: torch.nn.Module) -> None:
        super().__init__()
        self.text_encoder = torch.nn.Module()  # as CLIPTextModel was when AdvUnlearn was written
        self.text_encoder.text_model = text_encoder
        self.embedding = text_encoder.embeddings.token_embedding
        self.encoder = text_encoder.encoder
        self.final_layer_norm = text_encoder.final_layer_norm


class Authors:
    """What each project saves; every method returns the file and what it must change."""

    def __init__(self, base: StableDiffusionPipeline, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.generator = torch.Generator().manual_seed(0)

    def unet(self, part: Callable[[str], bool]) -> UNet2DConditionModel:
        """A copy of the base's UNet of which some parameters were trained."""
        return self._train(copy.deepcopy(self.base.unet), part)

    def text_encoder(self) -> torch.nn.Module:
        return self._train(copy.deepcopy(self.base.text_encoder), lambda name: "layers.0" in name)

    def esd(self) -> Changed:
        """ESD of 2025: the trained parameters in bfloat16."""
        unet = self.unet(lambda name: ".attn2." in name).to(torch.bfloat16)
        trained = {name: each.detach() for name, each in unet.named_parameters() if ".attn2." in name}
        path = self.folder / "esd-cat-from-cat-esdx.safetensors"
        save_file(trained, path)
        return path, {f"unet.{name}": each.float() for name, each in trained.items()}

    def esd_full(self) -> Changed:
        """ESD before 2025, also UCE, RECE and SalUn: the whole UNet."""
        unet = self.unet(lambda name: ".attn1." in name)
        path = self.folder / "diffusers-cat-ESDu1-UNET.pt"
        torch.save(unet.state_dict(), path)
        return path, self._of_unet(unet, ".attn1.")

    def esd_modules(self) -> Changed:
        """ESD's FineTunedModel.state_dict(): one dict per module, of a model that has the UNet as ``unet``."""
        unet = self.unet(lambda name: ".attn2." in name)
        modules = {
            f"unet.{path}": module.state_dict()
            for path, module in unet.named_modules()
            if isinstance(module, torch.nn.Linear) and ".attn2." in path
        }
        path = self.folder / "esd-cat_from_cat-xattn_1-epochs_200.pt"
        torch.save(modules, path)
        return path, self._of_unet(unet, ".attn2.")

    def uce(self) -> Changed:
        """UCE of today: new keys and values in float32."""
        unet = self.unet(_is_key_or_value)
        path = self.folder / "uce_test.safetensors"
        save_file({name: each.detach() for name, each in unet.named_parameters() if _is_key_or_value(name)}, path)
        return path, self._of_unet(unet, _is_key_or_value)

    def ldm(self) -> Changed:
        """A LatentDiffusion checkpoint as UnlearnCanvas publishes it, with all that is in it."""
        unet = self.unet(lambda name: "mid_block" in name or "up_blocks" in name or "time_embedding" in name)
        encoder = self.base.text_encoder.state_dict()
        state = {f"model.diffusion_model.{ldm_name(name)}": each for name, each in unet.state_dict().items()}
        state |= {f"cond_stage_model.transformer.text_model.{name}": each for name, each in encoder.items()}
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        state |= {"betas": torch.zeros(3), "sqrt_alphas_cumprod": torch.zeros(3), "scale_factor": torch.tensor(0.18)}
        state |= {"first_stage_model.decoder.conv_in.bias": torch.zeros(3), "model_ema.decay": torch.tensor(0.9)}
        path = self.folder / "sd.ckpt"
        torch.save({"epoch": 3, "state_dict": state}, path)
        return path, {
            f"unet.{name}": each
            for name, each in unet.state_dict().items()
            if not torch.equal(each, self.base.unet.state_dict()[name])
        }

    def concept_ablation(self) -> Changed:
        """The delta.bin of Concept Ablation and DoCo, of keys and values."""
        unet = self.unet(_is_key_or_value)
        path = self.folder / "delta.bin"
        saved = {name: each.detach().clone() for name, each in unet.named_parameters() if _is_key_or_value(name)}
        torch.save({"unet": saved}, path)
        return path, self._of_unet(unet, _is_key_or_value)

    def concept_ablation_embedding(self) -> Changed:
        """The same with parameter_group="embedding": a text encoder, in the layout of transformers 4."""
        encoder = self.text_encoder()
        path = self.folder / "delta.bin"
        state = {f"text_model.{name}": each for name, each in encoder.state_dict().items()}
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save({"unet": {}, "text_encoder": state}, path)
        return path, self._of_text_encoder(encoder)

    def advunlearn(self) -> Changed:
        encoder = self.text_encoder()
        path = self.folder / "TextEncoder-AdvUnlearn-epoch_999.pt"
        torch.save(Wrapper(encoder).state_dict(), path)
        return path, self._of_text_encoder(encoder)

    def text_encoder_folder(self) -> Changed:
        """AdvUnlearn on the hub: a CLIPTextModel folder."""
        encoder = self.text_encoder()
        encoder.save_pretrained(self.folder / "nudity_unlearned")
        return self.folder / "nudity_unlearned", self._of_text_encoder(encoder)

    def unguide(self) -> Changed:
        """The lora.pth of an UnGuide run, in its folder."""
        run = self.folder / "cat_lora_rank_2"
        (run / "models").mkdir(parents=True)
        saved, changed = {}, {}
        weights = self.base.unet.state_dict()
        for name in filter(_is_key_or_value, weights):
            outs, ins = weights[name].shape
            a, b = self._noise(ins, 2), self._noise(2, outs)  # y = W x + alpha (x A) B
            module = ldm_name(name).removesuffix(".weight")
            saved |= {f"{module}.lora.A": a, f"{module}.lora.B": b}
            changed[f"unet.{name}"] = weights[name] + 4 * (a @ b).T
        torch.save(saved, run / "models" / "lora.pth")
        settings = {"lora_rank": 2, "lora_alpha": 4, "lr": 3e-5, "target_prompt": "a cat"}
        (run / "train_config.json").write_text(json.dumps(settings))
        return run, changed

    def unguide_linear(self) -> Changed:
        """The lora.pth of an UnGuide run on explicit content: every Linear but some, and no train_config.json."""
        saved, changed = {}, {}
        weights = self.base.unet.state_dict()
        for path, module in self.base.unet.named_modules():
            if isinstance(module, torch.nn.Linear) and ".attn2" not in path and "time_embedding" not in path:
                a, b = self._noise(module.in_features, 1), self._noise(1, module.out_features)
                name = ldm_name(f"{path}.weight").removesuffix(".weight")
                saved |= {f"{name}.lora.A": a, f"{name}.lora.B": b}
                changed[f"unet.{path}.weight"] = weights[f"{path}.weight"] + 8 * (a @ b).T
        torch.save(saved, self.folder / "lora.pth")
        return self.folder / "lora.pth", changed

    def kohya(self) -> Changed:
        """A LoRA of kohya's trainer, or of SPM: UNet (a convolution among them) and every text encoder."""
        saved = {}
        weights = self.base.unet.state_dict()
        modules = ["down_blocks.1.attentions.0.proj_in", "mid_block.resnets.0.conv1"]
        modules += [name.removesuffix(".weight") for name in weights if _is_key_or_value(name)]
        for path in modules:
            weight = weights[f"{path}.weight"]
            saved |= self._kohya_pair("lora_unet_" + path.replace(".", "_"), weight, tuple(weight.shape[2:]))
        second = self.base.components.get("text_encoder_2")
        encoders = {"te1": self.base.text_encoder, "te2": second} if second else {"te": self.base.text_encoder}
        for key, encoder in encoders.items():
            for path in ("encoder.layers.1.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj"):
                weight = encoder.get_submodule("text_model." * (key == "te2") + path).weight
                saved |= self._kohya_pair(f"lora_{key}_text_model_" + path.replace(".", "_"), weight, ())
        path = self.folder / "spm.safetensors"
        save_file(
            saved, path, metadata={"prompts": "cat", "rank": "2", "alpha": "1.0", "ss_tag_frequency": "all captions"}
        )
        return path, self._fused(path)

    def peft(self) -> Changed:
        """A LoRA that diffusers' own training scripts save, its alpha in the header."""
        unet = copy.deepcopy(self.base.unet)
        config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_k", "to_v"], alpha_pattern={"attn1.to_v": 3})
        unet.add_adapter(config)
        self._train(unet, lambda name: "lora_" in name)
        StableDiffusionPipeline.save_lora_weights(
            self.folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        )
        return self.folder / "pytorch_lora_weights.safetensors", self._fused(self.folder)

    def _fused(self, path: Path) -> dict[str, torch.Tensor]:
        """What diffusers makes of a LoRA."""
        pipe = copy.deepcopy(self.base)
        pipe.load_lora_weights(path)
        pipe.fuse_lora(components=[name for name in pipe._lora_loadable_modules if name in pipe.components])
        pipe.unload_lora_weights()
        before, after = _state(self.base), _state(pipe)
        return {name: each for name, each in after.items() if not torch.equal(each, before[name])}

    def _kohya_pair(self, name: str, weight: torch.Tensor, kernel: tuple[int, ...]) -> dict[str, torch.Tensor]:
        outs, ins = weight.shape[:2]
        ones = (1,) * len(kernel)
        return {
            f"{name}.lora_down.weight": self._noise(2, ins, *kernel),
            f"{name}.lora_up.weight": self._noise(outs, 2, *ones),
            f"{name}.alpha": torch.tensor(1.0),
        }

    def _train(self, module: torch.nn.Module, part: Callable[[str], bool]) -> torch.nn.Module:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if part(name):
                    parameter.add_(self._noise(*parameter.shape))
        return module

    def _noise(self, *shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=self.generator)

    def _of_unet(self, unet: torch.nn.Module, part: str | Callable[[str], bool]) -> dict[str, torch.Tensor]:
        test = part if callable(part) else lambda name: part in name
        return {f"unet.{name}": each for name, each in unet.state_dict().items() if test(name)}

    def _of_text_encoder(self, encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
        state = encoder.state_dict()
        return {f"text_encoder.text_model.{name}": each for name, each in state.items() if "layers.0" in name}


def _state(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """Tensors of the UNet and the text encoders by component and the hub's name."""
    state = {f"unet.{name}": each for name, each in pipe.unet.state_dict().items()}
    state |= {f"text_encoder.text_model.{name}": each for name, each in pipe.text_encoder.state_dict().items()}
    if second := pipe.components.get("text_encoder_2"):
        state |= {f"text_encoder_2.{name}": each for name, each in second.state_dict().items()}
    return state


def _is_key_or_value(name: str) -> bool:
    return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))


def ldm_name(name: str, *, layers: int = 1, blocks: int = 2) -> str:
    """The CompVis name of a UNet tensor, counted from the CompVis side: every block takes a number as it is built."""
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 0
    for block in range(blocks):
        for layer in range(layers):
            number += 1
            fixed[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{number}.0"
            fixed[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{number}.1"
        if block + 1 < blocks:
            number += 1
            fixed[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    number = -1
    for block in range(blocks):
        has_attention = block > 0 if blocks == 4 else block == 0  # of SD 1.x, and of the tiny pipeline
        for layer in range(layers + 1):
            number += 1
            fixed[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{number}.0"
            fixed[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{number}.1"
        if block + 1 < blocks:
            fixed[f"up_blocks.{block}.upsamplers.0"] = f"output_blocks.{number}.{2 if has_attention else 1}"
    path = next(path for path in sorted(fixed, key=len, reverse=True) if name.startswith(f"{path}."))
    rest = name.removeprefix(path)
    if ".resnets." in f".{path}":
        inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
        inner |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
        part = rest.split(".")[1]
        rest = rest.replace(part, inner[part])
    return fixed[path] + rest


@pytest.fixture
def base(tiny_folder: Path) -> StableDiffusionPipeline:
    return base_model.load(str(tiny_folder), device="cpu", dtype=torch.float32)


@pytest.fixture
def authors(base: StableDiffusionPipeline, tmp_path: Path) -> Authors:
    folder = tmp_path / "published"
    folder.mkdir()
    return Authors(base, folder)


@pytest.fixture
def to_ldm() -> Callable[..., str]:
    return ldm_name
