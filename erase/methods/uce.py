"""UCE, Unified Concept Editing: a closed-form edit of the cross-attention (https://arxiv.org/abs/2308.14761, eq. 7).

Every key and value matrix W0 becomes W = W0 B A^-1 with A = lambda I + s_e sum c c^T + s_p sum p p^T and
B = lambda I + s_e sum c* c^T + s_p sum p p^T, where c is a token of the target in its prompt, c* the token of the
anchor in its place, and p a token of a retain prompt. A and B do not depend on the layer, so one factorisation in
float64 serves all of them; the authors' code inverts A once for each.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model.delta import Delta
from erase.model.diffusion import encode_in_batches, family, select_parameters
from erase.training.run import Run


FAMILIES = ("sd1", "sd2", "sdxl")
PAPER = "Unified Concept Editing in Diffusion Models, arXiv 2308.14761"
TOKENS = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The authors' values.

    Attributes:
        tokens: Which tokens of a target are edited: ``last`` is the last token of its name, as in the authors' current
            code; ``all`` goes on from there to the end of the padding, where the name is heard as well.
        ridge: How strongly every other direction of the text is held in place.
        erase_scale: Weight of the targets.
        preserve_scale: Weight of the retain prompts.
    """

    tokens: str = "last"
    ridge: float = 0.5  # lambda
    erase_scale: float = 1.0  # s_e
    preserve_scale: float = 1.0  # s_p

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        if self.tokens not in TOKENS:
            raise ValueError(f"The tokens {self.tokens!r} are unknown: choose one of {', '.join(TOKENS)}.")
        for name, least in (("ridge", "more than 0"), ("erase_scale", "more than 0"), ("preserve_scale", "0 or more")):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and least == "more than 0"):
                raise ValueError(
                    f"{name} is {value}, but {least} is needed: the authors' value is {Config.__dict__[name]}."
                )


def trains(config: Config) -> str:
    """Return what changes."""
    return "unet"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> DiffusionPipeline:
    """Erase ``concept`` from the cross-attention of ``pipe``, in place, and return the same pipeline.

    All targets are edited at once. ``retain`` may be empty. If anything goes wrong the pipeline keeps its weights.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    parameters = {
        name: parameter for name, parameter in select_parameters(pipe, "strict").items() if name.endswith(".weight")
    }
    with run.measure(pipe.unet), run.stage("solve"), torch.no_grad():
        edit = closed_form(_sums(pipe, concept, retain, config, run), config)
        with Delta(parameters) as delta:
            delta.load_student({name: (base.double() @ edit).float() for name, base in delta.student().items()})
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute: no UNet is called."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(f"UCE supports {', '.join(FAMILIES)}, but this model is {found}: choose another method.")
    return {"updates": 1, "unet_forwards": 0, "unet_backwards": 0, "images": 0}


class Sums:
    """The sums of A and B over tokens, each (D, D) in float64.

    Tokens are added batch by batch, so that the memory does not depend on their number.

    Attributes:
        target: sum c c^T.
        anchor: sum c* c^T.
        retain: sum p p^T.
    """

    def __init__(self, width: int, *, device: torch.device | None = None) -> None:
        """Begin with no tokens of this width D."""
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.target, self.anchor, self.retain = zeros, zeros.clone(), zeros.clone()

    def edit(self, target: torch.Tensor, anchor: torch.Tensor) -> None:
        """Add tokens of targets and the tokens that take their place, (n, D) each."""
        target = target.double()
        self.target += target.T @ target
        self.anchor += anchor.double().T @ target

    def protect(self, tokens: torch.Tensor) -> None:
        """Add tokens of retain prompts, (m, D)."""
        tokens = tokens.double()
        self.retain += tokens.T @ tokens


def closed_form(sums: Sums, config: Config) -> torch.Tensor:
    """Return B A^-1, (D, D) in float64.

    Example:
        >>> eye, sums = torch.eye(2, dtype=torch.float64), Sums(2)
        >>> sums.edit(eye[:1], eye[1:])
        >>> edit = closed_form(sums, Config(ridge=1e-9))
        >>> [[round(value, 6) for value in row] for row in edit.tolist()]  # the first direction becomes the second
        [[0.0, 0.0], [1.0, 1.0]]
    """
    held = config.preserve_scale * sums.retain
    held.diagonal().add_(config.ridge)
    gram = held + config.erase_scale * sums.target
    moved = held + config.erase_scale * sums.anchor
    return torch.cholesky_solve(moved.T, torch.linalg.cholesky(gram)).T


class _Edit(NamedTuple):
    """A forget prompt and its anchor prompt, each with the position of the last token of its name."""

    target: str
    place: int
    anchor: str
    anchor_place: int


def _sums(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> Sums:
    """Encode every prompt once, batch by batch, and add its tokens to the sums.

    Of the forget prompts and their anchors only those are held that a later pair needs.
    """
    edits, protected = _edits(pipe, concept), set(retain)
    last_edit = {text: number for number, edit in enumerate(edits) for text in (edit.target, edit.anchor)}
    texts = [*last_edit, *dict.fromkeys(text for text in retain if text not in last_edit)]
    # by its tokens, the empty anchor is the start token, as in the authors' code; SDXL's zeros would erase into nothing
    batches = encode_in_batches(pipe, texts, device=run.device, is_empty_unconditional=False)
    sums = Sums(pipe.unet.config.cross_attention_dim, device=run.device)
    held: dict[str, torch.Tensor] = {}
    number = 0
    with run.progress("UCE", total=len(texts)) as bar:
        for batch in batches:
            held |= {text: batch.prompt_embeds[row] for text, row in batch.index.items() if text in last_edit}
            while number < len(edits) and {edits[number].target, edits[number].anchor} <= held.keys():
                edit = edits[number]
                sums.edit(*_edited_tokens(held[edit.target], held[edit.anchor], edit, config))
                held = {text: embeds for text, embeds in held.items() if last_edit[text] > number}
                number += 1
            if rows := {text: row for text, row in batch.index.items() if text in protected}:
                sums.protect(_protected_tokens(pipe, batch.prompt_embeds, rows, config))
            bar.update(len(batch.index))
    return sums


def _edits(pipe: DiffusionPipeline, concept: Concept) -> list[_Edit]:
    edits = []
    for template in concept.templates:
        anchor = _place(pipe, template, concept.anchor) if concept.anchor else ("", 0)
        edits += [_Edit(*_place(pipe, template, name), *anchor) for name in concept.target]
    return edits


def _edited_tokens(
    target: torch.Tensor, anchor: torch.Tensor, edit: _Edit, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings of a target's tokens and of those that take their place, row by row."""
    count = 1 if config.tokens == "last" else len(target) - max(edit.place, edit.anchor_place)
    return target[edit.place : edit.place + count], anchor[edit.anchor_place : edit.anchor_place + count]


def _protected_tokens(
    pipe: DiffusionPipeline, prompt_embeds: torch.Tensor, rows: dict[str, int], config: Config
) -> torch.Tensor:
    """Return the embeddings of some prompts' tokens: the last one of each, or all but the one that begins it."""
    if config.tokens == "all":
        return prompt_embeds[list(rows.values()), 1:].flatten(0, 1)
    return torch.stack([prompt_embeds[row, _last(pipe, text)] for text, row in rows.items()])


def _place(pipe: DiffusionPipeline, template: str, name: str) -> tuple[str, int]:
    """Return the prompt and the position of the last token of ``name`` in it, where it stands for the last time."""
    prompt = template.replace("{}", name)
    beginning = template[: template.rindex("{}")].replace("{}", name) + name
    place = _last(pipe, beginning)
    if pipe.tokenizer(prompt).input_ids[: place + 1] != pipe.tokenizer(beginning).input_ids[: place + 1]:
        raise ValueError(f"The template {template!r} joins {{}} to other letters: put it between spaces or signs.")
    return prompt, place


def _last(pipe: DiffusionPipeline, text: str) -> int:
    """Return the position of the last token before the end token; 0, the token that begins it, for the empty prompt."""
    return len(pipe.tokenizer(text).input_ids) - 2
