"""Prompt files: the column names of other projects are read, and a file that is wrong in any line is refused."""

import json
import re
from pathlib import Path

import pytest

from erase.prompts import data_folder, find_data, read_prompts


PINPOINT = {"noun": "claude_monet", "similarity": "0.746"}


def write(folder: Path, content: str | bytes, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("case_number,prompt,evaluation_seed\n007,a cat,12\n", ("007", "a cat", 12, None, {})),
        ("prompt,artist\na cat,AC/DC\n", ("0", "a cat", None, None, {"artist": "AC/DC"})),
        (
            "id,case_number,prompt,evaluation_seed,seed\nx,7,a cat,12,3\n",
            ("7", "a cat", 12, None, {"other_id": "x", "other_seed": "3"}),
        ),
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
        (
            "case_number,type,artist,prompt,evaluation_seed\n1,erased,Monet,a cat,5\n",
            ("1", "a cat", 5, None, {"type": "erased", "artist": "Monet"}),
        ),
        ("noun,similarity\nclaude_monet,0.746\n", ("0", "a photo of claude_monet", None, None, PINPOINT)),
        (
            "Unnamed: 0,prompt,evaluation_seed,evaluation_guidance,sd_image_width,case_number\n21,a cat,93,7,512,21\n",
            ("21", "a cat", 93, 7.0, {"sd_image_width": "512"}),
        ),
        ("case_num,source,prompt\r\n1,coco,a cat\r\n\r\n", ("1", "a cat", None, None, {"source": "coco"})),
    ],
    ids=[
        "esd",
        "a-slash-in-no-name",
        "both-names",
        "index",
        "bom",
        "unlearn-diff",
        "i2p",
        "coco",
        "mace",
        "hub-pinpoint",
        "unlearn-diff-atk",
        "advunlearn",
    ],
)
def test_formats_of_other_projects_are_read(tmp_path, content, expected):
    (row,) = read_prompts(write(tmp_path, content))
    assert (row.id, row.prompt, row.seed, row.guidance_scale, row.columns) == expected


def test_each_language_of_hub_becomes_a_row(tmp_path):
    header = "Original,Spanish,French,German,Italian,Portuguese,Index\n"
    path = write(tmp_path, header + "a cat,un gato,un chat,eine Katze,un gatto,um gato,1824\na dog,b,c,d,e,f,409\n")
    rows = read_prompts(path)
    assert [(row.id, row.prompt, row.columns) for row in rows[:3]] == [
        ("0_English", "a cat", {"Index": "1824", "language": "English"}),
        ("0_Spanish", "un gato", {"Index": "1824", "language": "Spanish"}),
        ("0_French", "un chat", {"Index": "1824", "language": "French"}),
    ]
    assert len(rows) == 12
    with pytest.raises(ValueError, match=r"line 2, French: the prompt is empty"):
        read_prompts(write(tmp_path, "Original,French\na cat,\n"))
    (row,) = read_prompts(write(tmp_path, "prompt,French\na cat,12\n"))  # another project's column of that name
    assert row.columns == {"French": "12"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hub.json", '[{"prompt": "a cat", "index": 9700}, {"prompt": "a cat", "index": 9700}]'),
        ("hub.csv", "Original,French,Index\na cat,un chat,9700\na cat,un chat,9700\n"),
    ],
)
def test_the_index_of_hub_repeats_and_is_no_id(tmp_path, name, content):
    rows = read_prompts(write(tmp_path, content, name))
    assert {row.columns.get("index") or row.columns["Index"] for row in rows} == {"9700"}
    assert len({row.id for row in rows}) == len(rows) in (2, 4)


@pytest.mark.parametrize(
    ("name", "header"), [("list.txt", True), ("list.csv", False), ("a.csv", True), ("a.json", True)]
)
def test_a_pointer_of_git_lfs_holds_no_prompts(tmp_path, name, header):
    path = write(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:6c73\nsize 99\n", name)
    with pytest.raises(ValueError, match=r"is a pointer of Git LFS .* fetch the file itself"):
        read_prompts(path, header=header)


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_without_a_header_is_taken_line_by_line(tmp_path, name):
    lines = ['lewd, incident "owing', '" women current', '"a cat, sitting"', '"a ""big"" cat"', "tongue.\u2028end"]
    path = write(tmp_path, "\r\n".join(lines) + "\r\n\r\n", name)
    rows = read_prompts(path, header=False)
    expected = [*lines[:2], "a cat, sitting", 'a "big" cat', lines[4]]
    assert [(row.id, row.prompt) for row in rows] == [(str(n), prompt) for n, prompt in enumerate(expected)]
    if name.endswith(".txt"):
        assert read_prompts(path) == rows
    with pytest.raises(ValueError, match="line 2 is empty"):
        read_prompts(write(tmp_path, "a cat\n\na dog\n", name), header=False)
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(write(tmp_path, "\n", name), header=False)


def test_json_of_hub_and_unguide_is_read(tmp_path):
    entries = [{"prompt": "a door", "nouns": ["door ", "garden"], "index": 409}, {"prompt": "a fox", "index": 6}]
    rows = read_prompts(write(tmp_path, json.dumps(entries), "hub.json"))
    assert [(row.id, row.prompt, row.columns) for row in rows] == [
        ("0", "a door", {"nouns": '["door ", "garden"]', "index": "409"}),
        ("1", "a fox", {"index": "6"}),
    ]
    concept = {"target": "a truck", "reference": "a forest", "synonyms": ["a lorry"], "other": ["a cat", ""]}
    rows = read_prompts(write(tmp_path, json.dumps(concept), "truck.json"))
    assert [(row.prompt, row.columns["type"]) for row in rows] == [
        ("a truck", "target"),
        ("a forest", "reference"),
        ("a lorry", "synonyms"),
        ("a cat", "other"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "a"},\n]', "line 2: not valid JSON"),
        ('{"prompt": "a"}', "is neither a list of objects"),
        ('["a cat"]', "is neither a list of objects"),
        ('[{"prompt": "a"}, {"nouns": []}]', "entry 2: the header has no column 'prompt' but nouns"),
        (
            '[{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}]',
            "entry 2: the id '1' is already used in entry 1",
        ),
        ('{"target": "a", "synonyms": 3}', "'synonyms' holds 3, but a prompt or a list of prompts is expected"),
        ('{"target": "", "reference": "b"}', "entry 1: the prompt is empty"),
        ("[]", "holds no prompts"),
    ],
)
def test_malformed_json_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(write(tmp_path, content, "prompts.json"))


def test_a_prompt_may_span_lines_and_the_line_numbers_stay_right(tmp_path):
    path = write(tmp_path, 'prompt,seed\n"a cat\non a mat",1\na dog,x\n')
    with pytest.raises(ValueError, match=r"line 4: 'x' in column 'seed' is not a number"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: a prompt file needs a header"),
        ("\n\n", "is empty: a prompt file needs a header"),
        ("prompt,seed\n", "holds no prompts"),
        ("prompt\n\n\n", "holds no prompts"),
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
