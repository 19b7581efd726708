"""Every shipped config completes an update of a UNet of the size of SD 1.5 in the memory of a desktop machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import erase
from erase.config import available_methods


pytestmark = pytest.mark.slow

INFERENCE_ONLY = ("block_list", "negative_prompt")
MOST = 20 * 2**30  # bytes, fp32, 64 x 64 latents


@pytest.mark.parametrize("method", [name for name in available_methods() if name not in INFERENCE_ONLY])
def test_an_update_at_the_size_of_sd_15_stays_within_20_gib(method: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("full_size_run.py")), f"{method}/sd1-style"]
    environment = {**os.environ, "PYTHONPATH": str(Path(erase.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"]["unet"] > 859e6
    assert found["parameters"]["text_encoder"] == pytest.approx(123e6, rel=0.02)
    assert method == "uce" or found["unet_backwards"] >= 1
    assert found["peak_memory_bytes"] <= MOST
