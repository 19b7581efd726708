import pytest

from erase.concept import Concept
from erase.config import read_config
from erase.methods import negative_prompt
from erase.training.run import Run, hash_tensors


CONCEPT = Concept(target=("a cat", "a cow"), templates=("{}", "a photo of {}"))


def erase(pipe, concept: Concept = CONCEPT, retain: tuple[str, ...] = ()):
    run = Run(quiet=True)
    return negative_prompt.erase(pipe, concept, list(retain), negative_prompt.Config(), run), run


def test_the_forget_prompts_become_the_negative_prompt_and_the_pipeline_stays(tiny_pipe) -> None:
    before = [hash_tensors(tiny_pipe.components[name].state_dict()) for name in ("unet", "text_encoder", "vae")]
    settings = dict(tiny_pipe.config)
    pipe, run = erase(tiny_pipe)
    assert pipe.config.avoided == "a cat, a cow, a photo of a cat, a photo of a cow"
    assert pipe.unet is tiny_pipe.unet
    assert [hash_tensors(pipe.components[name].state_dict()) for name in ("unet", "text_encoder", "vae")] == before
    assert dict(tiny_pipe.config) == settings
    assert (run.summary()["unet_forwards"], run.summary()["unet_backwards"]) == (0, 0)


def test_what_would_have_no_effect_is_refused(tiny_pipe, tiny_pipe_xl) -> None:
    with pytest.raises(ValueError, match="has no anchor, but 'a dog' was given"):
        erase(tiny_pipe, Concept(target="a cat", anchor="a dog"))
    with pytest.raises(ValueError, match="but 1 retain prompts were given"):
        erase(tiny_pipe, retain=("a dog",))
    with pytest.raises(ValueError, match="supports sd1, sd2, but this model is sdxl"):
        erase(tiny_pipe_xl)
    with pytest.raises(ValueError, match="but the model reads 77"):
        erase(tiny_pipe, Concept(target="x" * 80))  # the end of the words would be cut
    with pytest.raises(ValueError, match=r"'params\.scale' of the method 'negative_prompt': it has none"):
        read_config(settings={"method": "negative_prompt", "concept": {"target": ["a"]}, "params": {"scale": 1}})
