"""One run: seed, device, dtype, what it costs, its log, and the checkpoint from which a killed run goes on."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from tqdm import tqdm

from erase.concept import Concept
from erase.model.diffusion import Conditioning
from erase.training import checkpoint


SCHEMA_VERSION = 3
POOL = "pool.safetensors"


@dataclass
class Cost:
    """What one stage of a run took; forwards and backwards of the UNet are counted in samples, not in calls."""

    seconds: float = 0.0
    unet_forwards: int = 0
    unet_backwards: int = 0
    unet_recomputed: int = 0  # by backwards, block by block, under gradient checkpointing: not among the forwards


class Run:
    """The circumstances of one erasure, and the record of what it took.

    Args:
        seed: All randomness derives from it through ``generator``; no global generator is used.
        device: Where the pipeline is; a run moves nothing that the caller gave it.
        dtype: The pipeline's precision; trained tensors are fp32 while they are trained.
        gradient_checkpointing: Whether blocks are computed again in a backward, see
            ``erase.model.delta.only_trainable``.
        folder: Where ``log.jsonl``, ``checkpoint.safetensors`` and ``pool.safetensors`` live; ``None`` writes none.
        quiet: No progress bars.
        checkpoint_seconds: The least time between two checkpoints.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        folder: Path | None = None,
        quiet: bool = False,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        """Remember the circumstances; nothing is written yet."""
        self.seed = seed
        self.device = torch.device(device)
        self.dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.folder = folder
        self.quiet = quiet
        self.checkpoint_seconds = checkpoint_seconds
        self._costs: dict[str, Cost] = {}
        self._stage = "setup"
        self._since: float | None = None  # when the current stage began or was last accounted for
        self._saved_at = time.monotonic()
        self._pool_rows = 0  # in the file, as far as the checkpoint counts on them

    @property
    def checkpoint_path(self) -> Path | None:
        """Where the checkpoint is, if this run has a folder."""
        return self.folder / "checkpoint.safetensors" if self.folder else None

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse a pipeline that is not on this run's device and in its dtype; a run casts and moves nothing."""
        if pipe.unet.device.type != self.device.type or pipe.unet.dtype != self.dtype:
            raise ValueError(
                f"The UNet is on {pipe.unet.device} in {pipe.unet.dtype}, but the run is on {self.device} in "
                f"{self.dtype}: load the pipeline with that device and dtype."
            )

    def generator(self, stage: str, index: int) -> torch.Generator:
        """Return the generator of one draw; on the CPU, so that every device sees the same numbers."""
        digest = hashlib.sha256(f"{self.seed}/{stage}/{index}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    @contextmanager
    def measure(self, unet: torch.nn.Module) -> Iterator[None]:
        """Count what the UNet computes in this block, whoever calls it, and the time; then remove the hook."""
        hook = unet.register_forward_hook(self._count)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._enter(self._stage)
            self._since = None
            hook.remove()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book costs to ``name`` in this block; an inner stage's costs are not counted twice."""
        before = self._stage
        self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def summary(self) -> dict[str, Any]:
        """Return what the run took, as ``erasure.json`` records it.

        A resumed run includes what was spent up to its checkpoint, but not the work that was lost after it.
        """
        costs = {name: asdict(cost) for name, cost in self._costs.items()}
        totals = {key: sum(cost[key] for cost in costs.values()) for key in asdict(Cost())}
        return {
            **totals,
            "peak_memory_bytes": self._peak_memory(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "by_stage": costs,
        }

    def progress(self, description: str, *, total: int, initial: int = 0) -> tqdm:
        """Return a progress bar with remaining time, shown on the main process only."""
        hidden = self.quiet or not PartialState().is_main_process
        return tqdm(desc=description, total=total, initial=initial, disable=hidden, mininterval=1.0)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``log.jsonl``; a resumed run appends too, after a record with the event ``resumed``."""
        if self.folder and PartialState().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def record(self, done: int, losses: dict[str, float], bar: tqdm, *, more: dict[str, float] | None = None) -> None:
        """Log update number ``done`` and show it on its bar.

        Args:
            done: Updates that are done, from 1.
            losses: The losses of this update by name, shown on the bar.
            bar: What ``progress`` returned.
            more: What is logged beside them and not shown.

        Raises:
            ValueError: A loss is not finite.
        """
        if not all(math.isfinite(loss) for loss in losses.values()):
            shown = ", ".join(f"{name} {loss}" for name, loss in losses.items())
            raise ValueError(f"Update {done} has a loss that is not finite ({shown}): lower lr, or use another dtype.")
        self.log({"event": "update", "done": done, **losses, **(more or {})})
        bar.set_postfix({name: f"{loss:.5f}" for name, loss in losses.items()}, refresh=False)
        bar.update()

    def settings(
        self,
        method: str,
        pipe: DiffusionPipeline,
        concept: Concept,
        config: Any,  # noqa: ANN401 - each method has its own Config
        *,
        conditioning: Conditioning,
    ) -> dict[str, Any]:
        """Return what a checkpoint must agree with; the model enters by the bytes that the result depends on.

        The encoded prompts stand for the text encoders and for the prompts themselves. Call it before anything is
        trained.
        """
        if self.folder is None:  # nothing will be saved, and hashing a large UNet takes seconds
            return {}
        model = {**pipe.unet.state_dict(), "prompt_embeds": conditioning.prompt_embeds}
        if conditioning.pooled_prompt_embeds is not None:
            model["pooled_prompt_embeds"] = conditioning.pooled_prompt_embeds
        return {
            "method": method,
            "concept": asdict(concept),
            "config": asdict(config),
            "seed": self.seed,
            "dtype": str(self.dtype),
            "model": hash_tensors(model),
            "scheduler": dict(pipe.scheduler.config),
        }

    def save_checkpoint(
        self,
        tensors: dict[str, torch.Tensor],
        *,
        optimizer: checkpoint.Optimizers,
        settings: dict[str, Any],
        done: int,
        force: bool = False,
        pool: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Save after ``done`` updates when ``checkpoint_seconds`` have passed, or at once with ``force``.

        ``pool`` is for what would be too large to write again each time: rows that are computed once and in a fixed
        order. It goes into ``pool.safetensors``, which is written only when there are more of them.
        """
        if not self.checkpoint_path or not PartialState().is_main_process:
            return
        if not force and time.monotonic() - self._saved_at < self.checkpoint_seconds:
            return
        self._enter(self._stage)
        rows = len(next(iter(pool.values()))) if pool else 0
        meta = {
            "schema_version": SCHEMA_VERSION,
            "settings": settings,
            "done": done,
            "costs": {name: asdict(cost) for name, cost in self._costs.items()},
            "pool_rows": rows,
        }
        if pool and rows != self._pool_rows:
            # before the checkpoint that counts on it; rows that the checkpoint does not know are not read
            checkpoint.save_pool(self.checkpoint_path.with_name(POOL), pool, settings)
            self._pool_rows = rows
        checkpoint.save(self.checkpoint_path, tensors, optimizer, meta)
        self._saved_at = time.monotonic()

    def load_checkpoint(
        self, *, optimizer: checkpoint.Optimizers, settings: dict[str, Any]
    ) -> checkpoint.Checkpoint | None:
        """Return the checkpoint in this run's folder, if any, with the optimiser and the costs set to it.

        The tensors of its pool are among its tensors.
        A checkpoint of another run (other settings, other weights) raises ``ValueError``.
        """
        path = self.checkpoint_path
        if path is None or not path.exists():
            return None
        try:
            saved = checkpoint.load(path, optimizer)
        except SafetensorError as error:
            raise ValueError(f"The checkpoint {path} cannot be read ({error}): delete it to start again.") from error
        given = json.loads(json.dumps(settings))
        differing = [key for key in given if saved.meta["settings"].get(key) != given[key]]
        if differing or saved.meta["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"The checkpoint {path} belongs to a run with another {differing[0] if differing else 'version'}: "
                "repeat that run's settings to resume it, delete the file to start again, or choose another folder."
            )
        if rows := saved.meta["pool_rows"]:
            saved.tensors.update(checkpoint.load_pool(path.with_name(POOL), rows, settings))
            self._pool_rows = rows
        self._costs = {name: Cost(**cost) for name, cost in saved.meta["costs"].items()}
        self.log({"event": "resumed", "done": saved.meta["done"]})
        return saved

    def _count(self, module: torch.nn.Module, inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        sample = output[0]  # a tuple, or a diffusers output that can be indexed like one
        self._cost().unet_forwards += len(sample)
        if sample.requires_grad:
            # a hook on the tensor fires once for every backward through this forward, and goes with its graph
            is_recomputed = bool(module.is_gradient_checkpointing)  # by the caller's own switch as well
            sample.register_hook(partial(self._count_backward, is_recomputed=is_recomputed))

    def _count_backward(self, gradient: torch.Tensor, *, is_recomputed: bool) -> None:
        self._cost().unet_backwards += len(gradient)
        self._cost().unet_recomputed += len(gradient) * is_recomputed

    def _cost(self) -> Cost:
        return self._costs.setdefault(self._stage, Cost())

    def _enter(self, stage: str) -> None:
        if self._since is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            now = time.perf_counter()
            self._cost().seconds += now - self._since
            self._since = now
        self._stage = stage

    def _peak_memory(self) -> int | None:
        """Peak bytes: of the GPU's allocator in this run, or else of the whole process; unknown on Windows."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return None
        import resource  # POSIX only

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, Linux in KiB


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes.

    Example:
        >>> hash_tensors({"a": torch.zeros(2)}) == hash_tensors({"a": torch.zeros(2)})
        True
        >>> hash_tensors({"a": torch.zeros(2)}) == hash_tensors({"a": torch.zeros(2, 1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
