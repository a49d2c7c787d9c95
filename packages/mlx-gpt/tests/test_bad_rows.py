"""Each way in which a row can be malformed is one line with its place and its reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.data.examples import read_examples, read_pairs
from mlx_gpt.data.layouts import parse_row
from mlx_gpt.tokenizer import PretrainedTokenizer
from mlx_gpt.tokenizer.chat_template import BUILT_IN

GOOD = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}


def chat(*messages):
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


BAD = [
    ('{"messages": [}', "not JSON (Expecting value: line 1 column 15 (char 14))"),
    ('{"text": ' + "[" * 100_000, "not JSON (nested too deeply)"),
    ('["a"]', "expected a JSON object, got list"),
    ('{"messages": [{"role": "user", "content": NaN}]}', "NaN is not JSON"),
    ('{"messages": [], "messages": []}', "the key 'messages' is there twice"),
    ({"input": "a", "id": 7}, "a row needs the keys text, or prompt and completion, or messages, "
     "or conversations, or instruction and output, or chosen and rejected; it has input, id"),
    ({"text": "a"}, "this row has the text layout, but the file's first row the chat layout; put "
     "them into two files"),
    ({"text": " \n"}, "text is empty"),
    ({"text": ["a", "b"]}, 'text must be text, got ["a", "b"]'),
    ({"prompt": "a", "completion": ""}, "completion is empty"),
    ({"instruction": "a", "output": "b", "history": 5}, "history must be a list of pairs of texts"),
    ({"a\ud800": 1}, "a row needs the keys text, or prompt and completion, or messages, or "
     "conversations, or instruction and output, or chosen and rejected; it has a\\ud800"),
    ({"instruction": None, "output": "a"}, "instruction must be text, got null"),
    ({"messages": "Hello"}, 'messages must be a list of messages that is not empty, got "Hello"'),
    ({"messages": []}, "messages must be a list of messages that is not empty, got an empty list"),
    ({"messages": ["Q", "A"]}, 'message 1 of 2: expected an object with role and content, got "Q"'),
    (chat(("user", None)), "message 1 of 1: the content of 'user' must be text, got null"),
    ({"messages": [{"role": "assistant", "content": "A", "weight": 0}]}, "message 1 of 1: "
     "weights are not supported; remove them, and choose the turns by --mask"),
    (GOOD | {"messages": [{"role": "system", "content": "a"}, *GOOD["messages"]], "system": "b"},
     "message 2 of 4: a second system message; there may be one, and it comes first"),
    (chat(("user", "Q"), ("assistant", {"a": 1})), "message 2 of 2: the content of 'assistant' "
     "must be text, got dict"),
    (chat(("user", "Q"), ("assistant", "")), "message 2 of 2: the content of 'assistant' is empty"),
    (chat(("user", "Q"), ("asistant", "A")), "message 2 of 2: unknown role 'asistant'; did you "
     "mean 'assistant'?"),
    (chat(("user", "Q")), "no message of the assistant, so there is nothing to learn"),
    (chat(("system", "a"), ("system", "b"), ("assistant", "A")), "message 2 of 3: a second system "
     "message; there may be one, and it comes first"),
    (chat(("user", "Q"), ("system", "b"), ("assistant", "A")), "message 2 of 3: a system message; "
     "there may be one, and it comes first"),
    (chat(("user", [{"type": "image_url"}]), ("assistant", "A")), "message 1 of 2, part 1: the "
     "type 'image_url' is not supported, only text"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
      "arguments": "{"}}]}]}, "message 1 of 1: the arguments of a tool call must be JSON: "
     "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ({"conversations": [{"from": "someone", "value": "a"}]}, "message 1 of 1: unknown role "
     "'someone'; valid: human, user, prompter, gpt, assistant, chatgpt, bing, bard, model, "
     "function_call, system, tool, observation, function_response"),
    (GOOD | {"tools": "f"}, "tools must be JSON: Expecting value: line 1 column 1 (char 0)"),
]  # fmt: skip


@pytest.fixture(scope="module")
def chatml(write_pretrained, tmp_path_factory):
    """A tokenizer with ChatML's template."""
    return PretrainedTokenizer(
        write_pretrained(tmp_path_factory.mktemp("model"), BUILT_IN["chatml"])
    )


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_malformed_row_is_an_error_with_its_line(row, message, chatml, tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD, "", row)
    with pytest.raises(ValueError, match="rows") as caught:
        read_examples([path], chatml)
    assert str(caught.value) == f"{path}, line 3: {message}"


def test_invalid_utf8_is_an_error_with_its_line(chatml, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"text": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"line 2: not JSON \('utf-8' codec can't decode byte"):
        read_examples([path], chatml)


def test_malformed_rows_can_be_skipped_and_are_counted_with_their_reasons(chatml, tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD, *(row for row, _ in BAD), GOOD)
    examples = read_examples([path], chatml, on_bad_row="skip")
    assert [each.where for each in examples.rows] == [
        f"{path}, line 1",
        f"{path}, line {len(BAD) + 2}",
    ]
    assert examples.skipped == [
        (f"{path}, line {number}", message) for number, (_, message) in enumerate(BAD, 2)
    ]
    shown = "; ".join(f"{path}, line {number}: {BAD[number - 2][1]}" for number in (2, 3, 4))
    assert examples.summary() == [
        f"skipped {len(BAD)} of {len(BAD) + 2} rows as malformed: {shown}; ..."
    ]


def test_a_file_of_malformed_rows_only_is_an_error(chatml, tmp_path):
    path = write(tmp_path / "rows.jsonl", {"text": ""})
    with pytest.raises(ValueError, match="rows") as caught:
        read_examples([path], chatml, on_bad_row="skip")
    assert str(caught.value) == (
        f"{path}: none of the 1 rows can be trained on; skipped 1 of 1 rows as malformed: {path}, "
        "line 1: text is empty"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected do not differ"),
        ({"chosen": "b", "rejected": "c"}, "chosen is text, so the row needs a prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected must be a list of messages "
         "that is not empty, got null"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "message 1 of 1: the content of "
         "'assistant' is empty"),
        ({"prompt": "a", **{side: chat(("user", "x"), ("assistant", side))["messages"]
          for side in ("chosen", "rejected")}}, "chosen is a whole conversation, but its question "
         "is not the prompt"),
        (GOOD, "no preference: expected chosen and rejected"),
    ],
)  # fmt: skip
def test_a_malformed_preference_is_an_error_with_its_line(row, message, chatml, tmp_path):
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match="rows") as caught:
        read_pairs([path], chatml)
    assert str(caught.value) == f"{path}, line 1: {message}"


KEYS = ["text", "prompt", "completion", "messages", "conversations", "instruction", "input",
        "output", "chosen", "rejected", "system", "history", "tools", "role", "content", "from",
        "value", "tool_calls", "name", "arguments", "function", "type"]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(
    ["", "a", "user", "assistant", "system", "tool", "human", "gpt", "text", "{}", "function_call"]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_row_is_parsed_or_refused_with_a_reason(row):
    reason = "parsed"
    try:
        parse_row(row)
    except ValueError as error:
        reason = str(error)
    assert reason
    assert "\n" not in reason
