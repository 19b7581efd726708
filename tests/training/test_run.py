import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import erase
from erase.training.run import Run


def test_generators_derive_from_seed_stage_and_index_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    runs = [Run(seed=0), Run(seed=0), Run(seed=1)]
    draws = [torch.randn(4, generator=run.generator("noise", 3)).tolist() for run in runs]
    draws += [torch.randn(4, generator=runs[0].generator(*place)).tolist() for place in (("noise", 4), ("order", 3))]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_every_forward_and_backward_is_counted_in_samples_whoever_calls(tiny_pipe) -> None:
    run, unet = Run(quiet=True), tiny_pipe.unet
    embeds = torch.zeros(3, 77, 16)
    latents = torch.zeros(3, 4, 8, 8)
    with run.measure(unet):
        with run.stage("sampling"):
            tiny_pipe("a cat", num_inference_steps=2, guidance_scale=5.0, output_type="latent")
        with run.stage("training"):
            loss = unet(latents, 1, embeds).sample.sum() + unet(latents, 1, embeds, return_dict=False)[0].sum()
            loss.backward(retain_graph=True)
            with torch.no_grad(), run.stage("sampling"):
                unet(sample=latents, timestep=1, encoder_hidden_states=embeds)
            loss.backward()
    unet(latents, 1, embeds)  # outside: not counted
    cost = run.summary()
    assert (cost["unet_forwards"], cost["unet_backwards"]) == (4 + 6 + 3, 12)
    stages = {name: (stage["unet_forwards"], stage["unet_backwards"]) for name, stage in cost["by_stage"].items()}
    assert stages == {"setup": (0, 0), "sampling": (7, 0), "training": (6, 12)}
    assert cost["seconds"] == pytest.approx(sum(stage["seconds"] for stage in cost["by_stage"].values()))
    assert cost["peak_memory_bytes"] > 2**20
    assert not unet._forward_hooks
    assert cost["unet_recomputed"] == 0
    json.dumps(cost)
    with pytest.raises(RuntimeError, match="stop"), run.measure(unet), run.stage("training"):
        raise RuntimeError("stop")
    assert not unet._forward_hooks


def test_a_pipeline_on_another_device_or_dtype_is_refused(tiny_pipe) -> None:
    Run().check(tiny_pipe)
    with pytest.raises(ValueError, match=r"the run is on cpu in torch\.float16"):
        Run(dtype=torch.float16).check(tiny_pipe)
    with pytest.raises(ValueError, match="the run is on cuda:0"):
        Run(device="cuda:0").check(tiny_pipe)


def test_the_log_is_json_lines_and_quiet_is_quiet(tmp_path, capsys) -> None:
    run = Run(folder=tmp_path / "new", quiet=True)
    run.log({"event": "update", "loss": 0.5})
    run.log({"event": "end"})
    lines = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["update", "end"]
    with run.progress("x", total=3) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
    with Run().progress("ESD", total=3) as bar:
        bar.update(3)
    assert "ESD: 100%" in capsys.readouterr().err
    Run().log({"event": "nowhere"})


def test_a_checkpoint_is_only_loaded_into_the_run_it_belongs_to(tmp_path) -> None:
    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    run, tensors, settings = Run(folder=tmp_path), {"a": torch.ones(2)}, {"seed": 0, "t": (1,)}
    run.save_checkpoint(tensors, optimizer=optimizer(), settings=settings, done=3)
    assert not run.checkpoint_path.exists()  # less than a minute has passed
    run.save_checkpoint(tensors, optimizer=optimizer(), settings=settings, done=3, force=True)
    saved = Run(folder=tmp_path).load_checkpoint(optimizer=optimizer(), settings=settings)
    assert (saved.meta["done"], saved.tensors["a"].tolist()) == (3, [1.0, 1.0])
    with pytest.raises(ValueError, match="belongs to a run with another seed"):
        run.load_checkpoint(optimizer=optimizer(), settings={**settings, "seed": 1})
    run.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read .*delete it to start again"):
        run.load_checkpoint(optimizer=optimizer(), settings=settings)
    assert Run().load_checkpoint(optimizer=optimizer(), settings={}) is None
    assert Run(folder=tmp_path / "empty").load_checkpoint(optimizer=optimizer(), settings={}) is None


def test_a_pool_is_written_once_and_read_with_the_checkpoint_that_counts_on_it(tmp_path) -> None:
    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def save(rows: int, **changes: object) -> None:
        pool = {"states.x": torch.arange(float(rows))}
        run.save_checkpoint({}, optimizer=optimizer(), settings=settings | changes, done=0, force=True, pool=pool)

    def load() -> list[float]:
        saved = Run(folder=tmp_path).load_checkpoint(optimizer=optimizer(), settings=settings)
        return saved.tensors["states.x"].tolist()

    run, settings, file = Run(folder=tmp_path), {"seed": 0}, tmp_path / "pool.safetensors"
    save(2)
    first = file.stat().st_ino
    checkpoint = run.checkpoint_path.read_bytes()
    save(2)
    assert file.stat().st_ino == first
    save(3)
    assert file.stat().st_ino != first
    assert load() == [0.0, 1.0, 2.0]
    run.checkpoint_path.write_bytes(checkpoint)  # killed between the pool and its checkpoint
    assert load() == [0.0, 1.0]
    run, second = Run(folder=tmp_path), file.stat().st_ino
    run.load_checkpoint(optimizer=optimizer(), settings=settings)
    save(2)  # a resumed run has nothing to add either
    assert file.stat().st_ino == second
    save(1)
    run.checkpoint_path.write_bytes(checkpoint)
    with pytest.raises(ValueError, match="is not that of the checkpoint beside it"):
        load()
    save(4, seed=1)
    run.checkpoint_path.write_bytes(checkpoint)
    with pytest.raises(ValueError, match="is not that of the checkpoint beside it"):
        load()
    file.unlink()
    with pytest.raises(ValueError, match=r"cannot be read .* to start again"):
        load()


@pytest.fixture(scope="module")
def killed_runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, str(script), str(tiny_folder), str(tmp_path_factory.mktemp("runs"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(erase.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("policy", ["frozen", "stale", "doco", "advunlearn"])
def test_a_run_killed_at_any_point_and_resumed_ends_in_the_same_bytes(killed_runs: dict, policy: str) -> None:
    rows = killed_runs[policy]
    assert len(rows["unbroken"]) == 64
    assert {name for name, found in rows.items() if found != rows["unbroken"]} == set()


def test_the_comparison_can_fail(killed_runs: dict) -> None:
    unbroken = {killed_runs[policy]["unbroken"] for policy in ("frozen", "stale", "doco", "advunlearn")}
    results = unbroken | set(killed_runs["controls"].values())
    assert len(results) == 8
    assert all(len(found) == 64 for found in results)
