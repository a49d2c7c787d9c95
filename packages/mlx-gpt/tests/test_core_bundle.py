import json
import random
import re

import pytest

from mlx_gpt.evaluate.core_tasks import CoreTask, Example, read_core_tasks

CHOICE = {"query": "Which?", "choices": ["a", "b"], "gold": 1}
SCHEMA = {"context_options": ["x", "y", "z"], "continuation": "end", "gold": 2}
LAST_WORD = {"context": "it was ", "continuation": "late"}

CORE_YAML = r"""
icl_tasks:
-
  label: sizes
  dataset_uri: world/sizes.jsonl
  num_fewshot: [10]
  icl_task_type: multiple_choice
  continuation_delimiter: "\nAnswer: "
  has_categories: true
-
  label: last words
  dataset_uri: words.jsonl
  num_fewshot: [0, 5]
  icl_task_type: language_modeling
"""
BASELINES = "Eval Task,Task Category,Random baseline\nsizes,world,25\nlast words,language,0.0\n"


def exactly(message):
    return f"^{re.escape(message)}$"


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def bundle(tmp_path):
    """A bundle of two tasks, laid out as DCLM's."""
    (tmp_path / "core.yaml").write_text(CORE_YAML)
    (tmp_path / "eval_meta_data.csv").write_text(BASELINES)
    numbered = [CHOICE | {"query": f"Which of {i}?"} for i in range(20)]
    write(tmp_path / "eval_data/world/sizes.jsonl", *numbered)
    write(tmp_path / "eval_data/words.jsonl", LAST_WORD, LAST_WORD)
    return tmp_path


def test_a_bundle_says_all_about_its_tasks(bundle):
    sizes, words = read_core_tasks(bundle)
    assert (sizes.name, sizes.kind, sizes.shots) == ("sizes", "multiple_choice", 10)
    assert (sizes.baseline, sizes.delimiter) == (0.25, "\nAnswer: ")
    word = Example((("it was", "late"),))  # the context without the space at its end
    assert words == CoreTask("last words", "language_modeling", (word, word), 0.0, 0, " ")


def test_examples_are_shuffled_as_dclm_shuffles_them_and_then_cut(bundle):
    rows = list(range(20))
    random.Random(1337).shuffle(rows)
    sizes, _ = read_core_tasks(bundle, max_per_task=12)
    assert [each.pairs[0][0] for each in sizes.examples] == [f"Which of {i}?" for i in rows[:12]]
    with pytest.raises(ValueError, match="10 shots need as many examples besides the question"):
        read_core_tasks(bundle, max_per_task=10)


def test_files_without_a_bundle_are_tasks_told_by_their_keys(tmp_path):
    write(tmp_path / "b.jsonl", CHOICE, CHOICE | {"choices": ["a", "b", "c", "d"]})
    write(tmp_path / "c.jsonl", SCHEMA, SCHEMA)
    write(tmp_path / "a.jsonl", LAST_WORD, LAST_WORD)
    write(tmp_path / "d.jsonl", CHOICE | {"query": "Question: which?"}, CHOICE)
    write(tmp_path / "e.jsonl", *[CHOICE | {"query": "Question: which?"}] * 2)
    tasks = read_core_tasks(tmp_path, shots=1)
    assert [task.name for task in tasks] == ["a", "b", "c", "d", "e"]
    assert [task.kind for task in tasks] == [
        "language_modeling", "multiple_choice", "schema", "multiple_choice", "multiple_choice",
    ]  # fmt: skip
    # One over the number of options, the mean of it where numbers differ.
    assert [task.baseline for task in tasks] == [0, (1 / 2 + 1 / 4) / 2, 1 / 3, 1 / 2, 1 / 2]
    assert {task.shots for task in tasks} == {1}
    assert [task.delimiter for task in tasks] == [" ", " ", " ", " ", "\nAnswer: "]
    assert tasks[2].examples[0] == Example((("x", "end"), ("y", "end"), ("z", "end")), 2)


def test_separators_that_are_no_line_ends_in_json_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    row = LAST_WORD | {"context": "one\u2028two\x85three"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    (task,) = read_core_tasks(tmp_path)
    assert task.examples[0].pairs[0][0] == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON (Expecting property name enclosed in double quotes: line 2 "
              "column 1 (char 2))"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ('{"choices": ["a", "b"], "gold": 0}', "line 2: 'query' must be a text, got None"),
        ('{"query": "q", "choices": ["a"], "gold": 0}',
         "line 2: 'choices' must be a list of at least two texts, got ['a']"),
        ('{"query": "q", "choices": ["a", 2], "gold": 0}',
         "line 2: 'choices' must contain texts, got 2"),
        ('{"query": "q", "choices": ["a", "b"], "gold": 2}',
         "line 2: 'gold' must be an index from 0 to 1, got 2"),
        ('{"query": "q", "choices": ["a", "b"], "gold": true}',
         "line 2: 'gold' must be an index from 0 to 1, got True"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", CHOICE)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=exactly(f"{path}, {message}")):
        read_core_tasks(tmp_path)


def test_a_row_that_is_no_utf_8_is_named_by_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", CHOICE)
    path.write_bytes(path.read_bytes() + b'{"query": "\xff"}\n')
    message = f"{path}, line 2: not JSON ('utf-8' codec can't decode byte 0xff in position 11: "
    with pytest.raises(ValueError, match=re.escape(message)):
        read_core_tasks(tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    path = write(tmp_path / "a.jsonl", CHOICE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (task,) = read_core_tasks(tmp_path)
    assert len(task.examples) == 1


def test_malformed_rows_of_the_other_types_are_named_too(tmp_path):
    path = write(tmp_path / "a.jsonl", {"continuation": "x", "context": None})
    message = f"{path}, line 1: 'context' must be a text, got None"
    with pytest.raises(ValueError, match=exactly(message)):
        read_core_tasks(tmp_path)
    write(path, {"context_options": ["x", "y"], "continuation": " ", "gold": 0})
    message = f"{path}, line 1: 'continuation' must be a text, got ' '"
    with pytest.raises(ValueError, match=exactly(message)):
        read_core_tasks(tmp_path)
    write(path, {"text": "x", "label": 1})
    message = (
        f"{path}, line 1: expected one of the keys choices, context_options, context, got text, "
        "label"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        read_core_tasks(tmp_path)
    path.write_text("\n")
    message = f"{path}: no rows; expected one JSON object per line"
    with pytest.raises(ValueError, match=exactly(message)):
        read_core_tasks(tmp_path)


def test_a_folder_without_tasks_is_an_error(tmp_path):
    message = f"{tmp_path}: neither core.yaml nor .jsonl files"
    with pytest.raises(ValueError, match=exactly(message)):
        read_core_tasks(tmp_path)
    with pytest.raises(ValueError, match=exactly(f"{tmp_path / 'none'}: no such folder")):
        read_core_tasks(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("icl_tasks:", "tasks:", "{yaml}: expected a list of tasks under 'icl_tasks'"),
        ("label: sizes", "name: sizes", "{yaml}, task 1: 'label' must be a text, got None"),
        ("multiple_choice", "multiple_choices",
         "{yaml}, task 1 (sizes): icl_task_type 'multiple_choices' is unknown; did you mean "
         "'multiple_choice'?"),
        ("[10]", "10", "{yaml}, task 1: 'num_fewshot' must be a list of numbers, got 10"),
        ('"\\nAnswer: "', "[]",
         "{yaml}, task 1 (sizes): 'continuation_delimiter' must be a text, got []"),
        ("world/sizes", "world/size",
         "{yaml}, task 1 (sizes): 'dataset_uri' names no file in {data}: {data}/world/size.jsonl"),
        ("world/sizes.jsonl", "../core.yaml",
         "{yaml}, task 1 (sizes): 'dataset_uri' names no file in {data}: {data}/../core.yaml"),
        ("label: last words", "label: words", "{yaml}, task 2: 'words' is not in {csv}"),
    ],
)  # fmt: skip
def test_a_malformed_bundle_is_named_by_its_task(bundle, old, new, message):
    path = bundle / "core.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    names = {"yaml": path, "data": bundle / "eval_data", "csv": bundle / "eval_meta_data.csv"}
    with pytest.raises(ValueError, match=exactly(message.format(**names))):
        read_core_tasks(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASELINES.replace("25", "much"),
         "{csv}, line 2: expected a name under 'Eval Task' and a number under 'Random baseline'"),
        (BASELINES.replace("25", "100"),
         "{csv}, line 2: 'Random baseline' must be in [0, 100), got 100.0"),
        (None, "{csv}: no such file; a folder with core.yaml must have it"),
    ],
)  # fmt: skip
def test_malformed_baselines_are_named_by_their_line(bundle, text, message):
    path = bundle / "eval_meta_data.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=exactly(message.format(csv=path))):
        read_core_tasks(bundle)


def test_yaml_that_is_none_is_said_to_be_none(bundle):
    (bundle / "core.yaml").write_text("icl_tasks: [")
    with pytest.raises(ValueError, match=r"core\.yaml: not YAML \(while parsing"):
        read_core_tasks(bundle)
