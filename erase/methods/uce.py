"""UCE, Unified Concept Editing: a closed-form edit of the cross-attention (https://arxiv.org/abs/2308.14761, eq. 7).

Every key and value matrix W0 becomes W = W0 B A^-1 with A = lambda I + s_e sum c c^T + s_p sum p p^T and
B = lambda I + s_e sum c* c^T + s_p sum p p^T, where c is a token of the target in its prompt, c* the token of the
anchor in its place, and p a token of a retain prompt. A and B do not depend on the layer, so one factorisation in
float64 serves all of them; the authors' code inverts A once for each.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model.delta import Delta
from erase.model.diffusion import encode_prompts, family, select_parameters
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
        edit = closed_form(*_edited_tokens(pipe, concept, config, run), _retained(pipe, retain, config, run), config)
        with Delta(parameters) as delta:
            delta.load_student({name: (base.double() @ edit).float() for name, base in delta.student().items()})
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute: no UNet is called."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(f"UCE supports {', '.join(FAMILIES)}, but this model is {found}: choose another method.")
    return {"updates": 1, "unet_forwards": 0, "unet_backwards": 0, "images": 0}


def closed_form(target: torch.Tensor, anchor: torch.Tensor, retain: torch.Tensor, config: Config) -> torch.Tensor:
    """Return B A^-1, (D, D) in float64, for the rows of targets (n, D), their anchors (n, D) and retain tokens (m, D).

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> edit = closed_form(eye[:1], eye[1:], eye[:0], Config(ridge=1e-9))
        >>> [[round(value, 6) for value in row] for row in edit.tolist()]  # the first direction becomes the second
        [[0.0, 0.0], [1.0, 1.0]]
    """
    target, anchor, retain = target.double(), anchor.double(), retain.double()
    held = config.ridge * torch.eye(target.shape[1], dtype=torch.float64, device=target.device)
    held = held + config.preserve_scale * retain.T @ retain
    gram = held + config.erase_scale * target.T @ target
    moved = held + config.erase_scale * anchor.T @ target
    return torch.cholesky_solve(moved.T, torch.linalg.cholesky(gram)).T


def _edited_tokens(
    pipe: DiffusionPipeline, concept: Concept, config: Config, run: Run
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings of the targets' tokens and those that take their place, row by row."""
    rows: list[tuple[str, int, str, int]] = []
    for template in concept.templates:
        for name in concept.target:
            target, place = _place(pipe, template, name)
            anchor, anchor_place = _place(pipe, template, concept.anchor) if concept.anchor else ("", 0)
            rows.append((target, place, anchor, anchor_place))
    prompts = [text for target, _, anchor, _ in rows for text in (target, anchor)]
    # by its tokens, the empty anchor is the start token, as in the authors' code; SDXL's zeros would erase into nothing
    conditioning = encode_prompts(pipe, prompts, device=run.device, is_empty_unconditional=False)
    targets, anchors = [], []
    for target, place, anchor, anchor_place in rows:
        ours, theirs = (conditioning.prompt_embeds[conditioning.index[text]] for text in (target, anchor))
        count = 1 if config.tokens == "last" else len(ours) - max(place, anchor_place)
        targets.append(ours[place : place + count])
        anchors.append(theirs[anchor_place : anchor_place + count])
    return torch.cat(targets), torch.cat(anchors)


def _retained(pipe: DiffusionPipeline, retain: list[str], config: Config, run: Run) -> torch.Tensor:
    """Return the embeddings of the retain prompts' tokens: the last one of each, or all but the one that begins it."""
    if not retain:
        return torch.zeros(0, pipe.unet.config.cross_attention_dim, device=run.device)
    conditioning = encode_prompts(pipe, retain, device=run.device, is_empty_unconditional=False)
    if config.tokens == "all":
        return conditioning.prompt_embeds[:, 1:].flatten(0, 1)
    return torch.stack([conditioning.prompt_embeds[row, _last(pipe, text)] for text, row in conditioning.index.items()])


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
