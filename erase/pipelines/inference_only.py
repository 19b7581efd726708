"""Two pipelines that keep a target out of the images and leave every weight as it is: nothing is removed.

``NegativePromptPipeline`` steers away from the target in every image, ``BlockListPipeline`` does not draw prompts that
name it. They are baselines, which an erasure has to beat; whoever picks the components out of the folder has the base.
This file is copied into the artefact and imports nothing but diffusers, pillow and the standard library.
"""

import inspect
import json
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from PIL import Image


RESPONSES = ("blank", "error")
_WORD = re.compile(r"[^\W_]+")
_INVISIBLE = ("Mn", "Cf")  # accents once they are split off, and zero-width characters
_GREY = 0.5


class InferenceOnlyPipeline(StableDiffusionPipeline):
    """What the two share: how the call is read, and how the folder is written."""

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Save a folder that loads with ``trust_remote_code=True``, and not at all without.

        diffusers would write the name of a class that it does not have, and not its code.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub would lose this pipeline's code: save the folder and upload it as it is.")
        folder = Path(save_directory)
        super().save_pretrained(folder, *args, **kwargs)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["_class_name"] = [Path(__file__).stem, type(self).__name__]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(__file__, folder / Path(__file__).name)

    def _read_call(self, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
        call = inspect.signature(StableDiffusionPipeline.__call__).bind(self, *args, **kwargs)
        call.apply_defaults()
        return call


class NegativePromptPipeline(InferenceOnlyPipeline):
    """``StableDiffusionPipeline`` that always has the target's words in its negative prompt; called like the stock one.

    Guidance then follows eps(target) + s (eps(prompt) - eps(target)) with the guidance scale s, so it needs s > 1.
    """

    def __init__(
        self,
        vae: Any,  # noqa: ANN401 - the types of the components are those of the stock pipeline
        text_encoder: Any,  # noqa: ANN401
        tokenizer: Any,  # noqa: ANN401
        unet: Any,  # noqa: ANN401
        scheduler: Any,  # noqa: ANN401
        safety_checker: Any,  # noqa: ANN401
        feature_extractor: Any,  # noqa: ANN401
        image_encoder: Any = None,  # noqa: ANN401
        requires_safety_checker: bool = True,
        avoided: str = "",
    ) -> None:
        """Keep ``avoided``, the words of the target as they stand in the negative prompt."""
        parts = (vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder)
        super().__init__(*parts, requires_safety_checker=requires_safety_checker)
        if not avoided.strip():
            raise ValueError("'avoided' is empty, so nothing would be kept out of the images: give the target's words.")
        self.register_to_config(avoided=avoided)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Generate; the arguments are those of the stock pipeline.

        A ``negative_prompt`` of the caller follows the target's words, so what the text encoder cuts is its end.

        Raises:
            ValueError: Without guidance, or with ``negative_prompt_embeds``, the target's words would have no effect.
        """
        call = self._read_call(args, kwargs)
        given = call.arguments
        if given["negative_prompt_embeds"] is not None:
            raise ValueError(
                "negative_prompt_embeds would take the place of the words that keep the target out: pass the text as "
                "negative_prompt."
            )
        if not given["guidance_scale"] > 1:
            raise ValueError(
                f"guidance_scale is {given['guidance_scale']}, but a negative prompt has no effect at 1 or less, so "
                "the target would be drawn: choose more than 1."
            )
        own, prompts = given["negative_prompt"], given["prompt"]
        if own is None and not isinstance(prompts, str):
            own = [""] * len(given["prompt_embeds"] if prompts is None else prompts)
        given["negative_prompt"] = [self._join(text) for text in own] if isinstance(own, list) else self._join(own)
        return StableDiffusionPipeline.__call__(*call.args, **call.kwargs)

    def _join(self, own: str | None) -> str:
        return f"{self.config.avoided}, {own}" if own else self.config.avoided


class BlockListPipeline(InferenceOnlyPipeline):
    """``StableDiffusionPipeline`` that does not draw prompts with a listed name; called like the stock one.

    A name is found as whole words in a row, whatever their case, accents, punctuation and Unicode form. Inflections
    ("cats" for "cat"), misspellings and words inside a script without spaces are not found: that is what a list is.
    """

    def __init__(
        self,
        vae: Any,  # noqa: ANN401 - the types of the components are those of the stock pipeline
        text_encoder: Any,  # noqa: ANN401
        tokenizer: Any,  # noqa: ANN401
        unet: Any,  # noqa: ANN401
        scheduler: Any,  # noqa: ANN401
        safety_checker: Any,  # noqa: ANN401
        feature_extractor: Any,  # noqa: ANN401
        image_encoder: Any = None,  # noqa: ANN401
        requires_safety_checker: bool = True,
        names: str = "",
        response: str = "blank",
    ) -> None:
        """Keep the names, one a line, and what a prompt with one of them gets: a ``blank`` image or an ``error``."""
        parts = (vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder)
        super().__init__(*parts, requires_safety_checker=requires_safety_checker)
        if not names.strip():
            raise ValueError("The block list is empty, so nothing would be blocked: give a name a line.")
        for name in names.splitlines():
            if not words(name):
                raise ValueError(f"The name {name!r} has no letter or digit, so no prompt could hold it: leave it out.")
        if response not in RESPONSES:
            raise ValueError(f"The response {response!r} is unknown: choose one of {', '.join(RESPONSES)}.")
        self.register_to_config(names=names, response=response)

    def find(self, prompt: str) -> str | None:
        """Return the first listed name that ``prompt`` holds."""
        text = words(prompt)
        for name in self.config.names.splitlines():
            wanted = words(name)
            if any(text[first : first + len(wanted)] == wanted for first in range(len(text))):
                return name
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Generate; the arguments are those of the stock pipeline.

        A blocked prompt gives mid-grey images, and the model never sees it: the empty prompt takes its place in the
        batch, so that the other rows are computed as they would be. ``nsfw_content_detected`` is true for its images.

        Raises:
            ValueError: A prompt is blocked and the response is ``error``; or it cannot be read.
        """
        call = self._read_call(args, kwargs)
        given = call.arguments
        for name in ("prompt_embeds", "ip_adapter_image", "ip_adapter_image_embeds"):
            if given[name] is not None:
                raise ValueError(f"A block list cannot read {name}, with which the target could come: pass text only.")
        prompts = [given["prompt"]] if isinstance(given["prompt"], str) else list(given["prompt"] or [])
        found = [self.find(text) for text in prompts]
        if not any(found):
            return StableDiffusionPipeline.__call__(*call.args, **call.kwargs)
        if self.config.response == "error":
            prompt, name = next((text, name) for text, name in zip(prompts, found, strict=True) if name)
            raise ValueError(f"The prompt {prompt!r} holds {name!r}, which is blocked: ask for something else.")
        if given["output_type"] == "latent":
            raise ValueError("A blocked prompt gives a grey image, which has no latents: choose another output_type.")
        allowed = ["" if name else text for text, name in zip(prompts, found, strict=True)]
        as_dict, given["return_dict"] = given["return_dict"], True
        given["prompt"] = allowed[0] if isinstance(given["prompt"], str) else allowed
        output = StableDiffusionPipeline.__call__(*call.args, **call.kwargs)
        blocked = [name is not None for name in found for _ in range(given["num_images_per_prompt"])]
        for row in [row for row, is_blocked in enumerate(blocked) if is_blocked]:
            image = output.images[row]
            is_pil = isinstance(image, Image.Image)
            output.images[row] = Image.new("RGB", image.size, (round(255 * _GREY),) * 3) if is_pil else _GREY
        seen = output.nsfw_content_detected or [False] * len(blocked)
        flags = [bool(one or other) for one, other in zip(seen, blocked, strict=True)]
        return StableDiffusionPipelineOutput(output.images, flags) if as_dict else (output.images, flags)


def words(text: str) -> list[str]:
    """Return the words of a text in one case, without accents, in Unicode's compatibility form.

    Example:
        >>> words("Vincent VAN-GOGH\u2019s caf\u00e9")
        ['vincent', 'van', 'gogh', 's', 'cafe']
    """
    split = unicodedata.normalize("NFKD", text)
    return _WORD.findall("".join(sign for sign in split if unicodedata.category(sign) not in _INVISIBLE).casefold())
