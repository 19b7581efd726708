"""The canvas CLIP: a text tower trained contrastively against an image tower (Radford et al. 2021, arXiv 2103.00020).

The text tower becomes the pipeline's ``CLIPTextModel``; both towers are kept as an open_clip model, so that CLIP scores
come from the ordinary open_clip code.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erase.canvas import captions
from erase.canvas.autoencoder import to_pixels
from erase.canvas.dataset import Pictures
from erase.canvas.tokens import LENGTH, add_noise_tokens, noise_tokens, token_ids
from erase.canvas.training import fit


WIDTH = 128
BATCH = 128
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {
        "context_length": LENGTH,
        "vocab_size": 1024,
        "hf_tokenizer_name": "canvas",  # any name: open_clip reads the tokenizer from its `local-dir:` folder
        "tokenizer_kwargs": {"clean": "whitespace"},
        "width": WIDTH,
        "heads": 4,
        "layers": 4,
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


def clip_folder() -> Path:
    """The open_clip folder of the canvas, for ``open_clip.create_model("local-dir:...")``."""
    return Path(__file__).parent / "weights" / "clip"


class Towers(torch.nn.Module):
    """A ``CLIPTextModel`` with projection beside the image tower of open_clip."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Build both towers at random."""
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                projection_dim=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                hidden_act="gelu",  # open_clip's default
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        )
        self.text_projection = torch.nn.Parameter(torch.randn(WIDTH, WIDTH) * WIDTH**-0.5)
        self.logit_scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        vision = CLIP_CONFIG["vision_cfg"]
        self.visual = open_clip.CLIP(
            WIDTH, vision, {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
        ).visual

    def logits(self, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Similarities of pixels (B, 3, S, S) in [-1, 1] and token ids (C, L), scaled, (B, C)."""
        size = CLIP_CONFIG["vision_cfg"]["image_size"]
        image = self.visual(F.interpolate(pixels, (size, size), mode="bicubic", antialias=True))
        text = self.text(ids).pooler_output @ self.text_projection
        return self.logit_scale.exp().clamp(max=100) * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


def train(pictures: Pictures, tokenizer: CLIPTokenizer, work: Path, *, steps: int = 900, seed: int = 0) -> Towers:
    """Train with every compatible caption of the batch as a positive, since many pictures share one meaning."""
    torch.manual_seed(seed)
    towers = Towers(tokenizer)
    pool = noise_tokens(tokenizer)

    def loss(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pictures.images), (BATCH,), generator=generator).numpy()
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        labels = np.stack([pictures.style[rows], pictures.first[rows], pictures.second[rows]], 1)
        texts = [captions.sample(style, first, second, rng) for style, first, second in labels]
        ids = add_noise_tokens(token_ids(tokenizer, [c.text for c in texts], pad=False), pool, 0.2, generator)
        match = compatible(torch.from_numpy(labels), torch.tensor([c[1:] for c in texts])).float()
        logits = towers.logits(_jitter(to_pixels(torch.from_numpy(pictures.images[rows])), generator), ids)
        return 0.5 * (
            F.cross_entropy(logits, match / match.sum(1, keepdim=True))
            + F.cross_entropy(logits.T, match.T / match.T.sum(1, keepdim=True))
        )

    return fit(
        towers, loss, steps=steps, learning_rate=1e-3, weight_decay=0.02, seed=seed, path=work / "towers.safetensors"
    )


def compatible(pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which pictures: labels (B, 3) and (C, 3), -1 where unstated, to (B, C) booleans."""
    style = (pictures[:, None, 0] == texts[None, :, 0]) | (texts[None, :, 0] < 0)
    shown, said = pictures[:, 1:].sort(1).values, texts[:, 1:].sort(1).values
    objects = (shown[:, None] == said[None]).all(-1) | (texts[None, :, 1] < 0)
    return style & objects


def save_clip(towers: Towers, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write both towers as an open_clip `local-dir:` folder, in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    state = {f"visual.{name}": tensor for name, tensor in towers.visual.state_dict().items()}
    state |= _open_clip_text(towers.text.state_dict(), layers=CLIP_CONFIG["text_cfg"]["layers"])
    state |= {"text_projection": towers.text_projection, "logit_scale": towers.logit_scale}
    save_file(
        {k: (v.half() if v.is_floating_point() else v).detach().contiguous() for k, v in state.items()},
        out / "open_clip_model.safetensors",
    )
    config = {
        "model_cfg": CLIP_CONFIG,
        "preprocess_cfg": {"size": [64, 64], "mode": "RGB", "fill_color": 0} | PREPROCESS,
    }
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(out)


def _open_clip_text(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Rename the tensors of ``CLIPTextModel`` (flat layout) to those of open_clip's text tower."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for index in range(layers):
        source, target = f"encoder.layers.{index}.", f"transformer.resblocks.{index}."
        for kind in ("weight", "bias"):
            parts = [state[f"{source}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            result[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
            result |= {f"{target}{new}.{kind}": state[f"{source}{old}.{kind}"] for old, new in names.items()}
    return result


def _jitter(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to three pixels and add a little noise."""
    dy, dx = torch.randint(-3, 4, (2,), generator=generator).tolist()
    padded = F.pad(pixels, (3, 3, 3, 3), mode="replicate")
    shifted = padded[..., 3 + dy : 3 + dy + pixels.shape[2], 3 + dx : 3 + dx + pixels.shape[3]]
    return shifted + 0.05 * torch.rand((), generator=generator) * torch.randn(pixels.shape, generator=generator)
