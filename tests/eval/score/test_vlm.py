"""The vision-language judge on a tiny model of the real classes, whose answers are planted."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from eval.score.scorers import vlm
from eval.suite.rows import Row


WORDS = [
    "<pad>",
    "<unk>",
    "<image>",
    "USER:",
    "ASSISTANT:",
    "Does",
    "this",
    "image",
    "show",
    "a",
    "cat",
    "black",
    "dog",
]
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
RED, BLUE = (Image.new("RGB", (48, 40), color) for color in ("red", "blue"))


def opened(folder: Path, *, batch_size: int = 4) -> vlm.Vlm:
    judge = vlm.Vlm(folder, device="cpu")
    judge.batch_size = batch_size
    judge.open()
    return judge


def answers(judge: vlm.Vlm, images: Sequence[Image.Image], asked: Sequence[Sequence[str]]) -> list[list[bool]]:
    rows = [Row(prompt_id="a", prompt="a", seed=1, columns={"shows": json.dumps(things)}) for things in asked]
    return list(judge.score(images, rows).columns["shown"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that says yes of a red image and no of a blue one, when it is asked about a cat."""
    words = [*WORDS, "?", ".", "Answer", "yes", "or", "no", "Yes", "No"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=words.index("<image>"))
    ).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    judge = opened(tmp_path)
    states = []
    hook = judge.model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0, -1]))
    for image in (RED, BLUE):
        answers(judge, [image], [["a cat"]])
    hook.remove()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        gap = states[0] - states[1]
        model.lm_head.weight[words.index("yes")] = gap
        model.lm_head.weight[words.index("No")] = gap * (gap @ (states[0] + states[1]) / 2) / (gap @ gap)
        middle = (states[0] + states[1]) / 2
        model.lm_head.weight[words.index("No")] = middle * (gap @ middle) / (middle @ middle)
    model.save_pretrained(tmp_path)
    return tmp_path


def test_the_planted_answers_come_back_in_any_batch(folder: Path) -> None:
    one_by_one = opened(folder, batch_size=1)
    assert answers(one_by_one, [RED, BLUE], [["a cat"], ["a cat"]]) == [[True], [False]]
    together = opened(folder, batch_size=5)
    images, asked = [RED, BLUE, RED], [["a cat", "a cat or a black dog"], [], ["a cat"]]
    assert answers(together, images, asked) == answers(one_by_one, images, asked)  # questions of other lengths
    assert [len(each) for each in answers(together, images, asked)] == [2, 0, 1]
    assert len(together.card["weights_sha256"]) == 64
    assert together.networks() == [together.model]


def test_the_question_of_a_row() -> None:
    asked = [Row(prompt_id="a", prompt="a", seed=1, columns=columns) for columns in ({}, {"shows": '["a cat"]'})]
    assert [vlm.Vlm.question(None, row) for row in asked] == [None, '["a cat"]']


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_overflow_is_no_answer(folder: Path, value: float) -> None:
    judge = opened(folder)
    with torch.no_grad():
        judge.model.lm_head.weight.fill_(value)
    with pytest.raises(ValueError, match=r"numbers that are not finite in torch\.float32: use weights"):
        answers(judge, [RED], [["a cat"]])


def test_what_takes_no_question_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder of transformers with a config\.json"):
        vlm.Vlm(tmp_path / "nothing", device="cpu")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        vlm.Vlm(folder, device="cpu")
