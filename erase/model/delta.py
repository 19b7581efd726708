"""One module in two roles, base and student: only the trained tensors are held twice, and roles change by a pointer.

Reference: the authors of ESD, DoCo and UnGuide keep a second, frozen UNet for the base predictions.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Self

import torch
from diffusers import DiffusionPipeline
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


class Delta:
    """The trained tensors of a module: the student inside ``with delta:``, the base inside ``delta.base()``.

    The caller's own tensors are the base and are not written before ``commit``, so whatever happens in the block, an
    uncommitted pipeline comes back as it was. The student is an fp32 master copy: in a half-precision module small
    steps would round away. The parameters must not be replaced inside the block.

    Example:
        >>> linear = torch.nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad(), Delta({"weight": linear.weight.fill_(1.0)}) as delta:
        ...     _ = linear.weight.add_(2.0)
        ...     with delta.base():
        ...         print(linear.weight.item())
        ...     print(linear.weight.item())
        ...     delta.commit()
        1.0
        3.0
        >>> linear.weight.item()
        3.0
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        """Take the parameters to train by name; nothing is changed before ``with``."""
        self.parameters = parameters
        self._base = {name: parameter.data for name, parameter in parameters.items()}
        self._student: dict[str, torch.Tensor] = {}

    def __enter__(self) -> Self:
        """Put the module into the student role; the student starts as the base."""
        # clone, because .to() of an fp32 tensor is the caller's own storage, which training must not write
        self._student = {name: tensor.detach().float().clone() for name, tensor in self._base.items()}
        self._point_to(self._student)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the caller its own tensors back: erased after ``commit``, untouched otherwise."""
        self._point_to(self._base)
        self._student = {}

    @contextmanager
    def base(self) -> Iterator[None]:
        """Run the block with the untouched weights; the role that was active before comes back whatever happens."""
        active = {name: parameter.data for name, parameter in self.parameters.items()}
        self._point_to(self._base)
        try:
            yield
        finally:
            self._point_to(active)

    def student(self) -> dict[str, torch.Tensor]:
        """Return the fp32 student tensors by name, whichever role is active (shared, not copied)."""
        return self._student

    def load_student(self, tensors: dict[str, torch.Tensor]) -> None:
        """Overwrite the student tensors in place."""
        for name, tensor in self._student.items():
            tensor.copy_(tensors[name])

    def commit(self) -> None:
        """Write the student into the caller's tensors, or refuse where that would leave a model that is not erased."""
        rounded = {name: tensor.to(self._base[name].dtype) for name, tensor in self._student.items()}
        if not all(torch.isfinite(tensor).all() for tensor in rounded.values()):
            raise ValueError("Training ended in weights that are not finite; nothing was changed: lower the rate lr.")
        if all(torch.equal(tensor, self._base[name]) for name, tensor in rounded.items()):
            raise ValueError("Training changed no weight, so nothing would be erased: raise steps or lr.")
        for name, tensor in rounded.items():
            self._base[name].copy_(tensor)

    def _point_to(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data = tensors[name]


@contextmanager
def only_trainable(
    pipe: DiffusionPipeline, parameters: dict[str, torch.nn.Parameter], *, gradient_checkpointing: bool = False
) -> Iterator[None]:
    """Freeze every component of ``pipe`` except ``parameters`` and put all of them into ``eval()``; undone on leaving.

    Gradients that the caller had on these parameters are set aside and come back too. With ``gradient_checkpointing``
    a backward computes the blocks of the UNet and of the text encoder again, from what went into them; it has to run
    in the role (``Delta``) of its forward.
    """
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    training = {module: module.training for part in modules for module in part.modules()}
    gradients = {parameter: parameter.grad for part in modules for parameter in part.parameters()}
    required = {parameter: parameter.requires_grad for parameter in gradients}
    try:
        for module in modules:
            module.eval().requires_grad_(False)
        for parameter in parameters.values():
            parameter.grad = None
            parameter.requires_grad_(True)
        with _blocks_recomputed(pipe) if gradient_checkpointing else nullcontext():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
            parameter.grad = gradients[parameter]


@contextmanager
def _blocks_recomputed(pipe: DiffusionPipeline) -> Iterator[None]:
    """Switch gradient checkpointing on where the caller has not, and off again."""
    unets = [] if pipe.unet.is_gradient_checkpointing else [pipe.unet]
    layers = [each for each in pipe.text_encoder.modules() if isinstance(each, GradientCheckpointingLayer)]
    ours = [layer for layer in layers if not layer.gradient_checkpointing]
    try:
        for unet in unets:
            unet.enable_gradient_checkpointing()
        # not by the encoder's own switch, which leaves a hook on the embeddings behind
        for layer in ours:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        for layer in layers:  # without its parts: in train() they would drop out attention
            layer.training = True
        yield
    finally:
        for unet in unets:
            unet.disable_gradient_checkpointing()
        for layer in ours:
            layer.gradient_checkpointing = False
