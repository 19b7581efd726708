"""Encoding in batches against all prompts in one call: the memory that 2,000 prompts take beside the model's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import erase


pytestmark = pytest.mark.slow

COUNT = 2000
EMBEDDINGS = COUNT * 77 * 768 * 4  # bytes, fp32: what encode_prompts has to return
WORKING = 512 * 2**20  # bytes that a batch and the solution of UCE may take, with what torch keeps for the next batch


def grow(what: str, way: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("encoding_run.py")), what, way, str(COUNT)]
    environment = {**os.environ, "PYTHONPATH": str(Path(erase.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("what", "most", "least_ratio"), [("encode", EMBEDDINGS + WORKING, 6), ("uce", WORKING, 15)], ids=["encode", "uce"]
)
def test_2000_prompts_take_the_memory_of_a_batch(what: str, most: int, least_ratio: float, benchmark) -> None:
    plain = grow(what, "plain")
    batches = benchmark.pedantic(grow, (what, "batches"))
    ratio = plain["growth"] / batches["growth"]
    benchmark.extra_info.update({"memory": round(ratio, 1), "seconds": round(plain["seconds"] / batches["seconds"], 2)})
    sys.stdout.write(
        f"{what}: {batches['growth'] / 2**20:,.0f} MiB and {batches['seconds']:.0f} s in batches, "
        f"{plain['growth'] / 2**20:,.0f} MiB and {plain['seconds']:.0f} s at once: {ratio:.1f} x less memory\n"
    )
    assert batches["norm"] == pytest.approx(plain["norm"], rel=1e-6)
    assert batches["growth"] <= most
    assert ratio >= least_ratio
