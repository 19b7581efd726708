import copy
import math

import pytest
import torch

from erase.concept import Concept
from erase.methods import uce
from erase.model import diffusion
from erase.model.diffusion import select_parameters
from erase.training.run import Run, hash_tensors


CAT = Concept(target="a cat", anchor="a dog", kind="object")


def run_uce(pipe, concept: Concept = CAT, retain: tuple[str, ...] = (), **changes: object) -> Run:
    run = Run(quiet=True, dtype=pipe.unet.dtype)
    assert uce.erase(pipe, concept, list(retain), uce.Config(**changes), run) is pipe
    return run


def hidden(pipe, text: str) -> torch.Tensor:
    """The token embeddings, of the empty prompt as well, of a pipeline of any family."""
    found = pipe.encode_prompt(text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return found[0][0].double()


@pytest.mark.parametrize("anchor", ["a dog", ""])
@pytest.mark.parametrize("fixture", ["tiny_pipe", "tiny_pipe_v", "tiny_pipe_xl"])
def test_the_edit_is_the_papers_formula_layer_by_layer(request, fixture: str, anchor: str) -> None:
    pipe = request.getfixturevalue(fixture)
    before = {name: p.detach().double().clone() for name, p in select_parameters(pipe, "strict").items()}
    settings = {"ridge": 0.3, "erase_scale": 2.0, "preserve_scale": 0.7}
    run_uce(pipe, Concept(target=("a cat", "a fish"), anchor=anchor), ("a bird", "a tree"), **settings)
    ends = {text: len(text) for text in ("a cat", "a fish", anchor, "a bird", "a tree")}
    # the tiny tokenizer has one token for each letter and none for a space; token 0 begins the prompt
    c = {text: hidden(pipe, text)[length - text.count(" ")] for text, length in ends.items()}
    for name, after in select_parameters(pipe, "strict").items():
        weight = before[name]
        right = 0.3 * torch.eye(weight.shape[1], dtype=torch.float64)
        left = 0.3 * weight
        for text in ("a cat", "a fish"):
            left = left + 2.0 * torch.outer(weight @ c[anchor], c[text])
            right = right + 2.0 * torch.outer(c[text], c[text])
        for text in ("a bird", "a tree"):
            left = left + 0.7 * torch.outer(weight @ c[text], c[text])
            right = right + 0.7 * torch.outer(c[text], c[text])
        expected = left @ torch.linalg.inv(right)
        assert (after.double() - expected).abs().max() < 1e-6, name
        assert (after.double() - weight).abs().max() > 1e-4, name


@pytest.mark.parametrize("batch", [1, 3, 10_000])
@pytest.mark.parametrize("tokens", uce.TOKENS)
@pytest.mark.parametrize(
    ("fixture", "anchor"), [("tiny_pipe", "a dog"), ("tiny_pipe", ""), ("tiny_pipe_xl", "a dog"), ("tiny_pipe_xl", "")]
)
def test_sums_over_batches_are_those_over_all_tokens_at_once(
    request, fixture: str, anchor: str, tokens: str, batch: int, monkeypatch
) -> None:
    pipe, config = request.getfixturevalue(fixture), uce.Config(tokens=tokens)
    concept = Concept(target=("a cat", "a fish", "the moon"), anchor=anchor, templates=("{}", "a {} by me", "my {}"))
    retain = ["a bird", "a tree", "", "a bird", "a cat", *(f"{number} trees" for number in range(8))]
    sums = plain_sums(pipe, concept, retain, tokens)
    sizes: list[int] = []
    pipe.text_encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output[0])))
    monkeypatch.setattr(diffusion, "ENCODE_BATCH", batch)
    with torch.no_grad():
        found = uce._sums(pipe, concept, retain, config, Run(quiet=True))
    texts = {text for pair in concept.pairs() for text in pair} | set(retain)
    assert sum(sizes) == len(texts)  # each once
    assert max(sizes) <= batch
    for name, expected in sums.items():
        gap = (getattr(found, name) - expected).norm() / expected.norm()
        assert getattr(found, name).dtype == torch.float64
        assert gap < 1e-6, name


def plain_sums(pipe, concept: Concept, retain: list[str], tokens: str) -> dict[str, torch.Tensor]:
    """The sums of the paper token by token; the tiny tokenizer has a token for each letter and none for a space."""

    def last(text: str) -> int:
        return len(text) - text.count(" ")

    width = pipe.unet.config.cross_attention_dim
    sums = {name: torch.zeros(width, width, dtype=torch.float64) for name in ("target", "anchor", "retain")}
    for template in concept.templates:
        for name in concept.target:
            place = last(template.partition("{}")[0] + name)
            other = last(template.partition("{}")[0] + concept.anchor) if concept.anchor else 0
            c = hidden(pipe, template.replace("{}", name))
            lead = hidden(pipe, template.replace("{}", concept.anchor) if concept.anchor else "")
            for step in range(1 if tokens == "last" else len(c) - max(place, other)):
                sums["target"] += torch.outer(c[place + step], c[place + step])
                sums["anchor"] += torch.outer(lead[other + step], c[place + step])
    for text in set(retain):
        p = hidden(pipe, text)
        for place in [last(text)] if tokens == "last" else range(1, len(p)):
            sums["retain"] += torch.outer(p[place], p[place])
    return sums


def test_only_keys_and_values_change_and_no_unet_is_called(tiny_pipe) -> None:
    trained = select_parameters(tiny_pipe, "strict")
    others = {name: p for name, p in tiny_pipe.unet.named_parameters() if name not in trained}
    before = hash_tensors(others), hash_tensors(tiny_pipe.text_encoder.state_dict())
    cost = run_uce(tiny_pipe).summary()
    assert (hash_tensors(others), hash_tensors(tiny_pipe.text_encoder.state_dict())) == before
    assert (cost["unet_forwards"], cost["unet_backwards"]) == (0, 0)


def test_all_tokens_go_to_the_end_of_the_padding_and_stay_aligned(tiny_pipe) -> None:
    other = copy.deepcopy(tiny_pipe)
    run_uce(tiny_pipe, tokens="all", ridge=1e-6)
    run_uce(other, tokens="last", ridge=1e-6)
    name = next(iter(select_parameters(tiny_pipe, "strict")))
    weights = [dict(pipe.unet.named_parameters())[name].double() for pipe in (tiny_pipe, other)]
    # both are words of three letters behind an article: the anchor's tokens take the places of the target's
    gap = [(weight @ (hidden(other, "a cat") - hidden(other, "a dog"))[10:].T).norm() for weight in weights]
    assert gap[0] < gap[1]


def test_a_name_in_a_template_is_edited_at_its_own_last_token(tiny_pipe) -> None:
    assert uce._place(tiny_pipe, "a {} picture", "cat") == ("a cat picture", 4)
    assert uce._place(tiny_pipe, "{} and {}", "cat") == ("cat and cat", 9)
    with pytest.raises(ValueError, match=r"joins \{\} to other letters"):
        uce._place(tiny_pipe, "a {}s picture", "cat")


def test_the_same_edit_gives_the_same_bytes(tiny_pipe) -> None:
    again = copy.deepcopy(tiny_pipe)
    run_uce(tiny_pipe)
    run_uce(again)
    assert hash_tensors(tiny_pipe.unet.state_dict()) == hash_tensors(again.unet.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens", "first", "choose one of last, all"),
        ("ridge", 0.0, "ridge is 0.0, but more than 0"),
        ("erase_scale", math.nan, "erase_scale is nan"),
        ("preserve_scale", -1.0, "preserve_scale is -1.0, but 0 or more"),
    ],
)
def test_meaningless_settings_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uce.Config(**{name: value})
