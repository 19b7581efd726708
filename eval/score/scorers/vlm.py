"""Whether an image shows something, as a vision-language model answers "yes" or "no" to a question about it.

HUB (arXiv 2410.05664) asks InternVL with three reference images and a chain of thought; here it is one question, and
the surer of the two answers counts, so that these shares stand beside each other but not beside HUB's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from eval.files import hash_weights
from eval.score.scorer import Batch, Picture, Scorer
from eval.score.weights import ABSENT
from eval.suite.prompt_files import asked_of
from eval.suite.rows import Row
from eval.suite.suite import Suite


if TYPE_CHECKING:
    from torch import nn

    from eval.draw.drawn import Drawn


COLUMNS = ("shown",)  # one answer per thing that is asked of the row
ARRAYS: tuple[str, ...] = ()
QUESTION = "Does this image show {}? Answer yes or no."
ANSWERS = {True: ("yes", "Yes"), False: ("no", "No")}  # the first token of each spelling counts


@dataclass(frozen=True, kw_only=True)
class Config:
    """``model``: a folder of transformers that ``AutoModelForImageTextToText`` opens, with its processor; or empty."""

    model: str = ""


class Vlm(Scorer):
    """Answers questions about images, once it is opened."""

    batch_size = 4

    def __init__(self, folder: Path, *, device: str) -> None:
        """Open the processor only: a model of 8B takes 16 GB that drawing needs; see ``load``."""
        self.folder, self.device = folder, device
        self.processor = open_processor(folder)
        self.processor.tokenizer.padding_side = "left"  # the answer follows the last token
        self.model: Any = None
        self.tokens = {answer: self._first_tokens(words) for answer, words in ANSWERS.items()}
        if set(self.tokens[True]) & set(self.tokens[False]):
            raise ValueError(f"The model in {folder} has one token for yes and no: use another.")

    def networks(self) -> list["nn.Module"]:
        """The model, once it is opened."""
        return [] if self.model is None else [self.model]

    def open(self) -> None:
        """Load the model."""
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype="auto").to(self.device)
        self.model.eval()
        self.card = {"judge": type(self.model).__name__, "weights_sha256": hash_weights(self.folder)}
        self.identity = {**self.card, "question": QUESTION}

    def begin(self, rows: Sequence[Row], base: "Drawn") -> Batch:
        """Start with no answers: a row may ask nothing."""
        return Batch({"shown": [[] for _ in rows]})

    def question(self, row: Row) -> str | None:
        """The things that are asked of a row; None without any."""
        things = asked_of(row)
        return json.dumps(things, ensure_ascii=False) if things else None

    def prepare(self, picture: Picture) -> Image.Image:
        """The image; the processor resizes it."""
        return picture.image

    def score(self, images: Sequence[Image.Image], rows: Sequence[Row]) -> Batch:
        """Whether each image shows each of the things that are asked of its row.

        Raises:
            ValueError: The model overflows, so that it gives no answer.
        """
        questions = [(place, thing) for place, row in enumerate(rows) for thing in asked_of(row)]
        answers: list[list[bool]] = [[] for _ in rows]
        for first in range(0, len(questions), self.batch_size):
            chunk = questions[first : first + self.batch_size]
            said = self._answer([images[place] for place, _ in chunk], [thing for _, thing in chunk])
            for (place, _), answer in zip(chunk, said, strict=True):
                answers[place].append(answer)
        return Batch({"shown": answers})

    def _answer(self, images: Sequence[Image.Image], things: Sequence[str]) -> list[bool]:
        import torch

        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION.format(thing)}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for thing in things
        ]
        each = [[image] for image in images]
        inputs = self.processor(images=each, text=texts, padding=True, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with torch.no_grad():
            logits = self.model(**inputs).logits[:, -1].float()
        yes, no = (logits[:, self.tokens[answer]].amax(1) for answer in (True, False))
        if not (yes.isfinite() & no.isfinite()).all():  # NaN > NaN is False, which would read as "not shown"
            raise ValueError(
                f"The vision-language model answers with numbers that are not finite in {self.model.dtype}: use "
                "weights saved in float32 or bfloat16."
            )
        return (yes > no).tolist()

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        encode = self.processor.tokenizer.encode
        return sorted({encode(word, add_special_tokens=False)[0] for word in words})


def open_processor(folder: Path) -> Any:  # noqa: ANN401 - of any class
    """Open what prepares images and questions, which shows without the weights whether the model can be asked.

    Raises:
        FileNotFoundError: There is no such folder, or it has no weights.
        ValueError: There is no processor, or the model takes no question.
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
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The model in {folder} has no processor that opens ({reason}): complete it.") from error
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(f"The model in {folder} has no chat template, so it takes no question: use another.")
    return processor


def missing(config: Config) -> str:
    """Its weights are the user's."""
    return "" if config.model else ABSENT


def load(config: Config, *, suite: Suite, device: str) -> Vlm:
    """Check that the model can be asked; ``open`` loads it.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The model takes no question, or cannot say yes and no.
    """
    return Vlm(Path(config.model), device=device)
