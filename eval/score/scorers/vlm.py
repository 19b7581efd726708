"""Whether an image shows something, as a vision-language model answers "yes" or "no" to a question about it.

HUB (arXiv 2410.05664) asks InternVL with three reference images and a chain of thought; here it is one question, and
the surer of the two answers counts, so that these shares stand beside each other but not beside HUB's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.draw.manifest import hash_weights


QUESTION = "Does this image show {}? Answer yes or no."
ANSWERS = {True: ("yes", "Yes"), False: ("no", "No")}  # the first token of each spelling counts


@dataclass(frozen=True, kw_only=True)
class Config:
    """``model``: a folder of transformers that ``AutoModelForImageTextToText`` opens, with its processor."""

    model: Path
    batch_size: int = 4
    device: str = "cpu"


class Vlm:
    """Answer questions about images."""

    def __init__(self, config: Config) -> None:
        """Load the model; see ``load``."""
        self.processor = open_processor(config.model)
        self.processor.tokenizer.padding_side = "left"  # the answer follows the last token
        self.model: Any = AutoModelForImageTextToText.from_pretrained(config.model, dtype="auto").to(config.device)
        self.model.eval()
        self.batch_size = config.batch_size
        self.tokens = {answer: self._first_tokens(words) for answer, words in ANSWERS.items()}
        if set(self.tokens[True]) & set(self.tokens[False]):
            raise ValueError(f"The model in {config.model} has one token for yes and no: use another.")
        self.card = {"judge": type(self.model).__name__, "weights_sha256": hash_weights(str(config.model))}

    def __call__(self, images: Sequence[Image.Image], asked: Sequence[Sequence[str]]) -> list[list[bool]]:
        """Whether each image shows each of the things that are asked of it.

        Raises:
            ValueError: the model overflows, so that it gives no answer.
        """
        questions = [(place, what) for place, things in enumerate(asked) for what in things]
        answers: list[list[bool]] = [[] for _ in asked]
        for first in range(0, len(questions), self.batch_size):
            chunk = questions[first : first + self.batch_size]
            found = self._answer([images[place] for place, _ in chunk], [what for _, what in chunk])
            for (place, _), answer in zip(chunk, found, strict=True):
                answers[place].append(answer)
        return answers

    @torch.no_grad()
    def _answer(self, images: Sequence[Image.Image], things: Sequence[str]) -> list[bool]:
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION.format(what)}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for what in things
        ]
        pictures = [[image.convert("RGB")] for image in images]
        inputs = self.processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        logits = self.model(**inputs).logits[:, -1].float()
        sure, unsure = (logits[:, self.tokens[answer]].amax(1) for answer in (True, False))
        if not (sure.isfinite() & unsure.isfinite()).all():  # NaN > NaN is False, which would read as "not shown"
            raise ValueError(
                f"The vision-language model answers with numbers that are not finite in {self.model.dtype}: use "
                "weights saved in float32 or bfloat16."
            )
        return (sure > unsure).tolist()

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        encode = self.processor.tokenizer.encode
        return sorted({encode(word, add_special_tokens=False)[0] for word in words})


def open_processor(folder: Path) -> Any:  # noqa: ANN401 - of any class
    """Open what prepares images and questions, which shows without the weights whether the model can be asked.

    Raises:
        FileNotFoundError: no such folder, or one without weights.
        ValueError: no processor, or a model that takes no question.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"The vision-language model {folder} is no folder of transformers with a config.json: give the path of "
            "one, or leave it empty."
        )
    if not any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir()):
        raise FileNotFoundError(
            f"The vision-language model {folder} has no weights, neither *.safetensors nor *.bin: complete it."
        )
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise ValueError(f"The model in {folder} has no processor that opens ({told}): complete it.") from error
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(f"The model in {folder} has no chat template, so it takes no question: use another.")
    return processor


def load(config: Config) -> Vlm:
    """Load the model.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a model that takes no question, or cannot say yes and no.
    """
    return Vlm(config)
