import pytest

from erase.concept import Concept
from erase.methods import block_list
from erase.training.run import Run, hash_tensors


CONCEPT = Concept(target=("a cat", "a cow"), synonyms=("kitten",))


def erase(pipe, concept: Concept = CONCEPT, retain: tuple[str, ...] = (), **settings: str):
    run = Run(quiet=True)
    return block_list.erase(pipe, concept, list(retain), block_list.Config(**settings), run), run


def test_targets_and_synonyms_are_listed_and_the_pipeline_stays(tiny_pipe) -> None:
    before = [hash_tensors(tiny_pipe.components[name].state_dict()) for name in ("unet", "text_encoder", "vae")]
    settings = dict(tiny_pipe.config)
    pipe, run = erase(tiny_pipe, response="error")
    assert (pipe.config.names, pipe.config.response) == ("a cat\na cow\nkitten", "error")
    assert [pipe.find(prompt) for prompt in ("two Kittens", "A COW", "the kitten")] == [None, "a cow", "kitten"]
    assert [hash_tensors(pipe.components[name].state_dict()) for name in ("unet", "text_encoder", "vae")] == before
    assert dict(tiny_pipe.config) == settings
    assert (run.summary()["unet_forwards"], run.summary()["unet_backwards"]) == (0, 0)


def test_what_would_have_no_effect_is_refused(tiny_pipe, tiny_pipe_xl) -> None:
    for concept, message in [
        (Concept(target="a cat", anchor="a dog"), "the anchor 'a dog' was given"),
        (Concept(target="a cat", templates=("a photo of {}",)), "templates were given"),
        (Concept(target="a cat", synonyms=("=^.^=",)), r"'=\^\.\^=' has no letter or digit"),
        (Concept(target="Van\nGogh"), "has several lines"),
    ]:
        with pytest.raises(ValueError, match=message):
            erase(tiny_pipe, concept)
    with pytest.raises(ValueError, match="but 1 retain prompts were given"):
        erase(tiny_pipe, retain=("a dog",))
    with pytest.raises(ValueError, match="supports sd1, sd2, but this model is sdxl"):
        erase(tiny_pipe_xl)
    with pytest.raises(ValueError, match="choose one of blank, error"):
        block_list.Config(response="white")
