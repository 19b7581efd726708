"""A Stable Diffusion pipeline whose UNet carries an erasing adapter that a guider uses where a sample shows the target.

This file is copied into the artefact and imports nothing but diffusers.
"""

import inspect
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline


_UNSUPPORTED = ("ip_adapter_image", "ip_adapter_image_embeds", "cross_attention_kwargs")


class UnGuidePipeline(StableDiffusionPipeline):
    """``StableDiffusionPipeline`` with UnGuidance; it is called like the stock one.

    After a call, ``pipe.guider.statistic`` and ``pipe.guider.weight`` say what was found and decided for each sample.
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
        guider: Any,  # noqa: ANN401
        image_encoder: Any = None,  # noqa: ANN401
        requires_safety_checker: bool = True,
    ) -> None:
        """Attach the guider's adapter to the UNet."""
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            requires_safety_checker=requires_safety_checker,
        )
        self.register_modules(guider=guider)
        guider.attach(unet)

    def __call__(self, *args: Any, weight: float | Sequence[float] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        """Generate; the arguments are those of the stock pipeline.

        Args:
            *args: As in the stock pipeline.
            weight: w for every sample or for each one, in the place of the guider's decision, from the first step on:
                1 is the base, 0 the adapter alone.
            **kwargs: As in the stock pipeline.

        Returns:
            What the stock pipeline returns.
        """
        call = inspect.signature(StableDiffusionPipeline.__call__).bind(self, *args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        for name in _UNSUPPORTED:
            if given[name]:
                raise ValueError(
                    f"UnGuide does not support {name}, with which the target could come back: leave it out."
                )
        schedule = given["timesteps"] or given["sigmas"]
        steps = len(schedule) if schedule else given["num_inference_steps"]
        is_guided = given["guidance_scale"] > 1 and self.unet.config.time_cond_proj_dim is None
        # only the decision needs it, and the base's answer to it is in the batch unless there is a negative prompt
        empty = None if weight is not None else self._encode_empty(given["clip_skip"])
        with self.guider.guide(self.unet, is_guided=is_guided, steps=steps, weight=weight, empty_prompt=empty):
            return super().__call__(*args, **kwargs)

    def _encode_empty(self, clip_skip: int | None) -> Any:  # noqa: ANN401 - a tensor; torch is not imported here
        return self.encode_prompt("", self._execution_device, 1, False, clip_skip=clip_skip)[0]

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Save a folder that loads with ``trust_remote_code=True``, and not at all without.

        diffusers would write a folder whose UNet cannot be read and that lacks the code of this class.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub would lose this pipeline's code: save the folder and upload it as it is.")
        folder = Path(save_directory)
        with self.guider.detached(self.unet):
            super().save_pretrained(folder, *args, **kwargs)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["_class_name"] = [Path(__file__).stem, type(self).__name__]
        index["guider"] = ["unguidance", type(self.guider).__name__]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(__file__, folder / "pipeline.py")
