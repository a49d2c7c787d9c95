"""Rows of every layout become the right tokens, trained on in the right places."""

import json

import numpy as np
import pytest

from mlx_gpt.data.examples import read_examples, read_pairs
from mlx_gpt.data.layouts import parse_row
from mlx_gpt.tokenizer import PretrainedTokenizer
from mlx_gpt.tokenizer.chat_template import BUILT_IN

UNTAGGED = BUILT_IN["chatml"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
# Removes thoughts of earlier turns, so that earlier turns are unknown.
FORGETFUL = UNTAGGED.replace(
    "message.content + '<|im_end|>'",
    "(message.content if loop.last else message.content.split('>')[-1]) + '<|im_end|>'",
)
TWO_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "2?"},
    {"role": "assistant", "content": "two"},
]
WEATHER = {"name": "weather", "arguments": {"city": "Ulm"}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.fixture
def chatml(write_pretrained, tmp_path):
    """A tokenizer with ChatML's template."""
    return PretrainedTokenizer(write_pretrained(tmp_path / "model", BUILT_IN["chatml"]))


@pytest.fixture
def base(write_pretrained, tmp_path):
    """The same tokenizer without a template."""
    return PretrainedTokenizer(write_pretrained(tmp_path / "base"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trained_text(tokenizer, example):
    """Return the trained tokens as text, with a bar wherever some are left out."""
    runs = np.flatnonzero(example.trained)
    parts = np.split(runs, np.flatnonzero(np.diff(runs) > 1) + 1)
    return "|".join(tokenizer.decode(example.ids[part]) for part in parts)


ANSWER = [message("user", "Q"), message("assistant", "A")]
EQUAL = {
    "chat": {"messages": ANSWER},
    "completion": {"prompt": "Q", "completion": "A"},
    "question and answer": {"question": "Q", "answer": "A"},
    "Alpaca": {"instruction": "Q", "input": "", "output": "A"},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
}


@pytest.mark.parametrize("layout", EQUAL)
def test_layouts_of_one_conversation_give_the_same_tokens(layout, chatml, tmp_path):
    examples = read_examples([write(tmp_path / "rows.jsonl", EQUAL[layout])], chatml)
    assert examples.layouts == {layout: 1}
    [example] = examples.rows
    assert example.where == f"{tmp_path}/rows.jsonl, line 1"
    assert (example.ids.dtype, example.trained.dtype) == (np.int32, bool)
    assert chatml.decode(example.ids) == (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    )
    assert trained_text(chatml, example) == "A<|im_end|>"


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [message("user", [{"type": "text", "text": each} for each in "ab"]),
                       message("assistant", "c")]},
         [message("user", "ab"), message("assistant", "c")]),
        ({"conversations": [{"from": "system", "value": "s"}, {"role": "user", "content": "q"},
                            {"from": "function_call", "value": json.dumps(WEATHER)},
                            {"from": "observation", "value": "rain"},
                            {"from": "chatgpt", "value": "Rain."}], "tools": "[{\"name\": \"w\"}]"},
         [message("system", "s"), message("user", "q"),
          message("assistant", "", tool_calls=[{"type": "function", "function": WEATHER}]),
          message("tool", "rain"), message("assistant", "Rain.")]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
          "system": "s"},
         [message("system", "s"), message("user", "q"), message("assistant", "a")]),
        ({"messages": [message("user", "q"), message("assistant", "a")], "system": "s"},
         [message("system", "s"), message("user", "q"), message("assistant", "a")]),
        ({"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["a", "b"]]},
         [message("system", "s"), message("user", "a"), message("assistant", "b"),
          message("user", "i\n\nx"), message("assistant", "o")]),
        ({"messages": [message("user", "q"), {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "weather", "arguments": "{\"city\": \"Ulm\"}"}}]},
            message("tool", "rain", tool_call_id="1")]},
         [message("user", "q"),
          message("assistant", "", tool_calls=[{"type": "function", "id": "1",
                                                "function": WEATHER}]),
          message("tool", "rain", tool_call_id="1")]),
    ],
)  # fmt: skip
def test_layouts_of_other_programs_become_the_same_messages(row, messages):
    _, sample = parse_row(row)
    assert sample.messages == messages
    assert sample.tools == ([{"name": "w"}] if "tools" in row else None)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [("assistant", "one<|im_end|>|two<|im_end|>"), ("last", "two<|im_end|>"),
     ("completion", "two<|im_end|>")],
)  # fmt: skip
@pytest.mark.parametrize("template", [BUILT_IN["chatml"], UNTAGGED])
def test_masks_supervise_turns_and_their_end_and_nothing_after_it(
    mask, expected, template, write_pretrained, tmp_path
):
    tokenizer = PretrainedTokenizer(write_pretrained(tmp_path / "model", template))
    path = write(tmp_path / "rows.jsonl", {"messages": TWO_TURNS})
    examples = read_examples([path], tokenizer, mask)
    assert trained_text(tokenizer, examples.rows[0]) == expected
    assert not examples.summary()
    silent = read_examples([path], tokenizer, mask, train_on_eos=False)
    assert trained_text(tokenizer, silent.rows[0]) == expected.replace("<|im_end|>", "")


@pytest.mark.parametrize("template", [BUILT_IN["chatml"], UNTAGGED])
def test_the_header_of_a_first_message_of_the_assistant_is_not_trained_on(
    template, write_pretrained, tmp_path
):
    tokenizer = PretrainedTokenizer(write_pretrained(tmp_path / "model", template))
    rows = [{"messages": [message("assistant", "Hi"), *ANSWER]}]
    [example] = read_examples([write(tmp_path / "rows.jsonl", *rows)], tokenizer).rows
    assert trained_text(tokenizer, example) == "Hi<|im_end|>|A<|im_end|>"


def test_the_mask_all_supervises_everything_but_the_first_token(chatml, base, tmp_path):
    path = write(tmp_path / "rows.jsonl", {"messages": TWO_TURNS})
    [example] = read_examples([path], chatml, "all").rows
    assert not example.trained[0]
    assert example.trained[1:].all()
    path = write(tmp_path / "texts.jsonl", {"text": "a text"})
    for tokenizer in (chatml, base):
        [example] = read_examples([path], tokenizer).rows
        assert tokenizer.decode(example.ids) == "a text<|im_end|>"
        assert not example.trained[0]
        assert example.trained[1:].all()


def test_without_a_template_completions_are_two_texts_and_chats_are_refused(base, tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "Once upon", "completion": " a time"})
    [example] = read_examples([path], base).rows
    assert base.decode(example.ids) == "Once upon a time<|im_end|>"
    assert trained_text(base, example) == " a time<|im_end|>"
    prompt = base.prompt_ids("Once upon")
    assert example.ids[: len(prompt)].tolist() == prompt
    chats = write(tmp_path / "chats.jsonl", {"messages": TWO_TURNS})
    for on_bad_row in ("error", "skip"):
        with pytest.raises(ValueError, match="layout needs a chat template") as caught:
            read_examples([chats], base, on_bad_row=on_bad_row)
        assert str(caught.value) == (
            f"{chats}, line 1: the chat layout needs a chat template, and this model has none; "
            "choose one: chatml, plain, or a .jinja file"
        )


def test_a_token_never_covers_the_end_of_a_prompt(base, tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a lis", "completion": "t"})
    [example] = read_examples([path], base).rows
    prompt = base.prompt_ids("a lis")
    assert base.prompt_ids("a list")[: len(prompt)] != prompt
    assert example.ids[: len(prompt)].tolist() == prompt
    assert trained_text(base, example) == "t<|im_end|>"


def test_the_end_token_is_supervised_if_the_tags_leave_it_out(write_pretrained, tmp_path):
    template = BUILT_IN["chatml"].replace(
        "{{ message.content + '<|im_end|>' }}{% endgeneration %}",
        "{{ message.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    tokenizer = PretrainedTokenizer(write_pretrained(tmp_path / "model", template))
    path = write(tmp_path / "rows.jsonl", {"messages": TWO_TURNS})
    [example] = read_examples([path], tokenizer).rows
    assert trained_text(tokenizer, example) == "one<|im_end|>|two<|im_end|>"
    [example] = read_examples([path], tokenizer, train_on_eos=False).rows
    assert trained_text(tokenizer, example) == "one|two"


def test_if_only_the_last_turn_is_known_it_is_counted(write_pretrained, tmp_path):
    tokenizer = PretrainedTokenizer(write_pretrained(tmp_path / "model", FORGETFUL))
    thoughtful = [message("user", "Q"), message("assistant", "<t>one"), *TWO_TURNS[3:]]
    path = write(tmp_path / "rows.jsonl", {"messages": thoughtful}, {"messages": ANSWER})
    examples = read_examples([path], tokenizer)
    assert [trained_text(tokenizer, each) for each in examples.rows] == [
        "two<|im_end|>", "A<|im_end|>",
    ]  # fmt: skip
    assert examples.summary() == [
        "in 1 of 2 rows only the last turn of the assistant is trained on: the chat template does "
        "not tell where earlier ones are"
    ]
    assert not read_examples([path], tokenizer, "last").only_last


def test_truncation_is_counted_and_rows_without_a_target_are_dropped(chatml, tmp_path):
    long = {"messages": [message("user", "long " * 40), message("assistant", "A")]}
    path = write(tmp_path / "rows.jsonl", EQUAL["chat"], long, {"messages": TWO_TURNS})
    lengths = [len(each) for each in read_examples([path], chatml).rows]
    examples = read_examples([path], chatml, max_tokens=40)
    assert [each.where[-6:] for each in examples.rows] == ["line 1", "line 3"]
    assert all(each.trained.any() for each in examples.rows)
    lost = sum(max(0, length - 40) for length in lengths)
    assert examples.summary() == [
        f"truncated 2 of 3 rows, which lost {lost} tokens",
        f"dropped 1 of 3 rows without a token to train on: {path}, line 2",
    ]
    with pytest.raises(ValueError, match="none of the 3 rows can be trained on; truncated 3 of 3"):
        read_examples([path], chatml, max_tokens=3)


def test_nanochats_own_format_has_the_same_masks(tokenizer, tmp_path):
    parts = [{"type": "text", "text": "It is "}, {"type": "python", "text": "1+1"},
             {"type": "python_output", "text": "2"}, {"type": "text", "text": "."}]  # fmt: skip
    messages = [*TWO_TURNS[:-1], message("assistant", parts)]
    path = write(tmp_path / "rows.jsonl", {"messages": messages})
    shown = {
        mask: trained_text(tokenizer, read_examples([path], tokenizer, mask).rows[0])
        for mask in ("assistant", "last")
    }
    last = "It is <|python_start|>1+1<|python_end|>|.<|assistant_end|>"
    assert shown == {"assistant": f"one<|assistant_end|>|{last}", "last": last}
    path = write(tmp_path / "rows.jsonl", {"prompt": "Q", "completion": "A"})
    assert trained_text(tokenizer, read_examples([path], tokenizer).rows[0]) == "A<|assistant_end|>"
    path = write(tmp_path / "rows.jsonl", {"text": "The fox"})
    [example] = read_examples([path], tokenizer).rows
    assert tokenizer.decode(example.ids) == "<|bos|>The fox<|bos|>"
    tools = {"messages": ANSWER, "tools": [{"name": "f"}]}
    with pytest.raises(ValueError, match="nanochat's format has no tools but its calculator"):
        read_examples([write(tmp_path / "rows.jsonl", tools)], tokenizer)


WHOLE = [message("user", "Q"), message("assistant", "A"), message("user", "R")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"prompt": [message("user", "Q")], "chosen": [message("assistant", "good")],
         "rejected": message("assistant", "bad")},
        {"chosen": [message("user", "Q"), message("assistant", "good")],
         "rejected": [message("user", "Q"), message("assistant", "bad")]},
        {"prompt": "Q", "chosen": [message("user", "Q"), message("assistant", "good")],
         "rejected": [message("user", "Q"), message("assistant", "bad")]},
    ],
)  # fmt: skip
def test_layouts_of_preferences_give_the_same_pair(row, chatml, tmp_path):
    pairs = read_pairs([write(tmp_path / "rows.jsonl", row)], chatml)
    [pair] = pairs.rows
    assert trained_text(chatml, pair.chosen) == "good<|im_end|>"
    assert trained_text(chatml, pair.rejected) == "bad<|im_end|>"
    before = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.decode(pair.chosen.ids) == f"{before}good<|im_end|>\n"


def test_turns_that_both_sides_share_are_not_trained_on(chatml, tmp_path):
    row = {side: [*WHOLE, message("assistant", side)] for side in ("chosen", "rejected")}
    path = write(tmp_path / "rows.jsonl", row)
    [pair] = read_pairs([path], chatml).rows
    assert trained_text(chatml, pair.chosen) == "chosen<|im_end|>"
    tokens = len(pair.chosen)
    # 8 tokens less leave the rejected answer nothing.
    with pytest.raises(ValueError, match="none of the 1 rows can be trained on; truncated 1 of 1"):
        read_pairs([path], chatml, max_tokens=tokens // 2)
    with pytest.raises(ValueError, match="a preference; such rows are for the training on pref"):
        read_examples([path], chatml)
