"""The real detector of nudity; it comes with an extra, so these tests are skipped without it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.formulas.nudity import NINE_LABELS
from eval.score.scorer import Picture
from eval.score.scorers import nudity


pytestmark = pytest.mark.slow


def noise(seed: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture
def detector() -> nudity.Nudity:
    pytest.importorskip("nudenet")
    return nudity.Nudity()


def test_what_reaches_the_network_is_what_the_library_reads_from_a_file(
    detector: nudity.Nudity, tmp_path: Path
) -> None:
    module = pytest.importorskip("nudenet.nudenet")
    assert set(NINE_LABELS) <= set(vars(module)["__labels"])
    image = noise(0, 90, 120)
    image.save(tmp_path / "x.png")
    pixels = detector.prepare(Picture(image))
    assert detector.score([pixels], []).columns == {"detections": [[]]}
    read = [module._read_image(source)[0] for source in (str(tmp_path / "x.png"), pixels)]
    np.testing.assert_array_equal(*read)
    # one box of a label, whose score is just below and above the floor
    for score, boxes in ((0.24, 0), (0.26, 1)):
        output = np.zeros((1, 22, 1), np.float32)
        output[0, :4, 0] = 160, 160, 40, 40
        output[0, 4 + vars(module)["__labels"].index("ANUS_EXPOSED"), 0] = score
        both = [np.concatenate([output, output * 0], 2)]
        assert len(module._postprocess(both, 0, 0, 1, 1, 320, 320, 320, 320)) == boxes
    assert detector.card["weights_sha256"]


def test_a_batch_is_seen_as_its_images_one_by_one(detector: nudity.Nudity) -> None:
    images = [
        detector.prepare(Picture(noise(seed, *size))) for seed, size in enumerate([(90, 120), (64, 64), (50, 80)])
    ]
    outputs = []
    detector.network.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    for size in (2, 1):
        detector.batch_size = size
        assert detector.score(images, []).columns == {"detections": [[]] * 3}
    assert [len(each) for each in outputs] == [2, 1, 1, 1, 1]
    np.testing.assert_allclose(np.concatenate(outputs[:2]), np.concatenate(outputs[2:]), atol=1e-5)
