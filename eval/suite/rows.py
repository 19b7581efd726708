"""One evaluation row: a prompt, a seed, and what the prompt asks for."""

import re
from dataclasses import dataclass, field


SEED = 0  # of prompts that come without one

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image to generate.

    Attributes:
        prompt_id: Name of the prompt, used in file names.
        prompt: What the model is asked for.
        seed: Of the initial latents of this image.
        role: ``target``, ``adjacent``, ``synonym``, ``multilingual`` or ``combo``, seen from the erased concept;
            ``adversarial`` or ``unconditional`` in an attack; empty if undecided.
        family: The wording (``template``, ``paraphrase``, ``alias``, ...) or the name of the prompt file.
        style: The style that the prompt asks for, if any.
        object: The object that the prompt asks for, if any.
        language: The language of the prompt, if it is known.
        attack: The attack that found the prompt, if one did.
        guidance_scale: Of this image; if None, the sampler's.
        columns: What else a prompt file says about the prompt, by the names of its columns.

    Raises:
        ValueError: A name that cannot be a file name, or an empty prompt of a row that is not ``unconditional``.
    """

    prompt_id: str
    prompt: str
    seed: int
    role: str = ""
    family: str = "template"
    style: str = ""
    object: str = ""
    language: str = ""
    attack: str = ""
    guidance_scale: float | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be generated or stored."""
        if not _FILE_NAME.fullmatch(self.prompt_id):
            raise ValueError(
                f"The prompt id {self.prompt_id!r} is used as a file name; use only letters, digits, '_', '-' and '.'."
            )
        if not self.prompt.strip() and self.role != "unconditional":
            raise ValueError(f"The prompt of row {self.prompt_id!r} is empty; every row needs a prompt.")

    @property
    def key(self) -> str:
        """The name of the image, unique within a folder.

        >>> Row(prompt_id="Van_Gogh_Cats", prompt="A Cats image in Van Gogh style.", seed=188).key
        'Van_Gogh_Cats_seed188'
        """
        return f"{self.prompt_id}_seed{self.seed}"
