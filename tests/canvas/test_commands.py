import pytest
import torch
from PIL import Image

from erase import shipped
from erase.canvas import dataset, show, verify, weights
from erase.canvas.world import IMAGE_SIZE, OBJECT_NAMES, STYLE_NAMES
from erase.cli.main import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["canvas", *arguments])
    return stopped.value.code, capsys.readouterr()


@pytest.mark.parametrize(("command", "names"), [("styles", STYLE_NAMES), ("objects", OBJECT_NAMES)])
def test_names_are_listed(capsys, command, names):
    code, printed = run(capsys, command)
    assert code == 0
    assert printed.out.split() == list(names)


def test_training_without_pictures_says_what_to_do(capsys, tmp_path):
    code, printed = run(capsys, "train", "vae", "--data", str(tmp_path / "no"), "--work", str(tmp_path / "work"))
    assert code == 2
    assert "erase canvas build" in printed.err


def test_an_unknown_stage_names_the_known_ones(capsys, tmp_path):
    code, printed = run(capsys, "train", "vea", "--work", str(tmp_path))
    assert code == 2
    assert "gold-Van_Gogh" in printed.err


def test_an_unknown_gold_model_names_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="no gold model for 'Dali'"):
        weights.load_gold("Dali")
    with pytest.raises(FileNotFoundError, match="erase canvas train"):
        weights.base_folder()


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no split 'test'"):
        dataset.build("test", tmp_path, tmp_path)


def test_the_contact_sheet_puts_every_cell_in_its_place(tmp_path):
    pictures = torch.zeros(len(STYLE_NAMES) * len(OBJECT_NAMES), IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    pictures[len(OBJECT_NAMES) + 2] = 200  # second style, third object
    sheet = Image.open(show.contact_sheet(pictures, tmp_path / "deep" / "sheet.png"))
    side = IMAGE_SIZE * show.ZOOM + 4
    assert sheet.getpixel((show.MARGIN[0] + 2 * side + 10, show.MARGIN[1] + side + 10)) == (200, 200, 200)
    assert sheet.getpixel((show.MARGIN[0] + side + 10, show.MARGIN[1] + side + 10)) == (0, 0, 0)


def test_a_bar_can_fail():
    assert verify.Line("x", 91.0, 10, 90).met
    assert not verify.Line("x", 89.9, 10, 90).met
    assert verify.Line("x", 2.0, 10, 3, at_most=True).met
    assert not verify.Line("x", 4.0, 10, 3, at_most=True).met
    assert "NOT MET" in str(verify.Line("x", 4.0, 10, 3, at_most=True))


def test_gold_comparison_measures_the_missing_concept_and_the_rest():
    shape = (len(STYLE_NAMES), len(OBJECT_NAMES), 5)
    base = verify.Grid(torch.ones(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool), 1.0)
    style_hit = torch.ones(shape, dtype=torch.bool)
    style_hit[STYLE_NAMES.index("Van_Gogh")] = False
    style_hit[0, 0, 0] = False
    missing, style, objects = verify.compare_gold(base, base._replace(style_hit=style_hit), "Van_Gogh")
    assert (missing.value, missing.n) == (0.0, len(OBJECT_NAMES) * 5)
    assert style.value == pytest.approx(100 / (9 * len(OBJECT_NAMES) * 5), rel=1e-3)
    assert objects.value == 0
