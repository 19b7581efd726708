"""Rows -> the text arguments of a pipeline's call; Stable Diffusion encodes each recent prompt once."""

import inspect
from collections.abc import Mapping, Sequence

import torch
from diffusers import DiffusionPipeline

from erase.model.diffusion import encode_with_gradient
from eval.models import text_to_image
from eval.suite.rows import Row


CACHED_PROMPTS = 256  # one encoded prompt takes 0.2 MB in SD 1.x and 0.6 MB in SDXL

Arguments = dict[str, torch.Tensor] | dict[str, list[str]]


class Encoder:
    """Makes the text arguments of a call.

    Stock Stable Diffusion gets embeddings. Any other pipeline class gets the text itself: what it does with a prompt (a
    block list, a guider, another encoder) is part of the system under test, and embeddings would bypass it.
    """

    def __init__(self, pipe: DiffusionPipeline, negative_prompt: str, prefixes: Mapping[str, torch.Tensor]) -> None:
        """Encode nothing yet.

        Args:
            pipe: The pipeline.
            negative_prompt: For all rows; empty asks for the pipeline's own unconditional prompt.
            prefixes: Token embeddings (1, k, D) in front of the prompts of some rows, by the key of the row.
        """
        self.pipe = pipe
        self.prefixes = prefixes
        self.negative_prompt = negative_prompt
        is_stock = type(pipe).__module__.startswith("diffusers.pipelines.")
        self.takes_text = not prefixes and not (is_stock and text_to_image.is_stable_diffusion(type(pipe)))
        is_pooled = "pooled_prompt_embeds" in inspect.signature(type(pipe).__call__).parameters
        self.names = ("prompt_embeds", "pooled_prompt_embeds") if is_pooled else ("prompt_embeds",)
        self.cache: dict[str, tuple[torch.Tensor, ...]] = {}
        self.negative: tuple[torch.Tensor, ...] = ()

    def __call__(self, rows: Sequence[Row], *, is_guided: bool) -> Arguments:
        """The arguments for one batch; with guidance they include the unconditional prompt."""
        prompts = [row.prompt for row in rows]
        if self.takes_text:
            negative = self._negative_texts(len(prompts))
            return {"prompt": prompts} if negative is None else {"prompt": prompts, "negative_prompt": negative}
        while len(self.cache) > CACHED_PROMPTS:
            del self.cache[next(iter(self.cache))]
        if is_guided and not self.negative:
            self._encode(prompts[:1], with_negative=True)  # by itself, so that the unconditional prompt is encoded once
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]:
            self._encode(missing)
        encoded = [self._with_prefix(row) for row in rows]
        arguments = {name: torch.cat([each[index] for each in encoded]) for index, name in enumerate(self.names)}
        if is_guided:
            for name, tensor in zip(self.names, self.negative, strict=True):
                arguments[f"negative_{name}"] = tensor.expand(len(rows), *tensor.shape[1:])
        return arguments

    def _negative_texts(self, count: int) -> list[str] | None:
        """One for each prompt, as diffusers wants them beside a list of prompts."""
        return [self.negative_prompt] * count if self.negative_prompt else None

    def _with_prefix(self, row: Row) -> tuple[torch.Tensor, ...]:
        if row.key not in self.prefixes:
            return self.cache[row.prompt]
        prefix = self.prefixes[row.key].to(self.pipe.device)
        with torch.no_grad():
            return (encode_with_gradient(self.pipe, [row.prompt], prefix=prefix),)

    def _encode(self, prompts: list[str], *, with_negative: bool = False) -> None:
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(
                prompt=prompts,
                device=self.pipe.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=with_negative,
                negative_prompt=self._negative_texts(len(prompts)),
            )
        if with_negative:
            self.negative = encoded[1::2]
        for index, prompt in enumerate(prompts):
            self.cache[prompt] = tuple(tensor[index : index + 1] for tensor in encoded[0::2])
