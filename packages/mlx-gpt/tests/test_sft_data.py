"""Rows become conversations, conversations fill rows, and nothing is lost or mixed up."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.data.conversation import render_conversation
from mlx_gpt.data.formats import Source, read_conversations, read_mixture
from mlx_gpt.data.packing import PackedBatches, epoch_order
from mlx_gpt.training.losses import IGNORE

PADDING = 0


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def exchange(question: str, answer) -> dict:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages}


def test_three_layouts_give_the_same_conversation(tmp_path):
    expected = [exchange("Add 1 and 2.", "3")]
    for row in (
        expected[0] | {"id": 7},
        {"prompt": "Add 1 and 2.", "completion": "3"},
        {"instruction": "Add 1 and 2.", "input": "", "output": "3", "source": "seed"},
        {"instruction": "Add 1 and 2.", "output": "3"},
    ):
        assert read_conversations(write(tmp_path / "rows.jsonl", row)) == expected


def test_a_file_without_conversations_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"text": "a"})
    with pytest.raises(
        ValueError, match=r"rows\.jsonl, line 1: the text layout is no conversation"
    ):
        read_conversations(path)


def test_an_input_of_alpaca_follows_the_instruction(tmp_path):
    row = {"instruction": "Translate.", "input": "Hund", "output": "dog"}
    [conversation] = read_conversations(write(tmp_path / "rows.jsonl", row))
    assert conversation == exchange("Translate.\n\nHund", "dog")


def test_empty_lines_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "a", "completion": "b"})
    path.write_text(f"{row}\n\n{row}\n \n", encoding="utf-8")
    assert len(read_conversations(path)) == 2


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"prompt": "a", "completion": "b"},
         ", line 2: this row has the completion layout, but the file's first row the chat "
         "layout; put them into two files"),
        ({"text": "a"},
         ", line 2: this row has the text layout, but the file's first row the chat layout; put "
         "them into two files"),
        ([1], ", line 2: expected a JSON object, got list"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]},
         ", line 2: message 1 of 1: expected role 'user', got 'assistant'; user and assistant take "
         "turns, the user first"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_by_file_and_line(tmp_path, second, message):
    path = write(tmp_path / "rows.jsonl", exchange("a", "b"), second)
    with pytest.raises(ValueError, match="rows") as error:
        read_conversations(path)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"', ", line 1: not JSON ("),
        (b'"\xff"\n', ", line 1: not JSON ("),
        (b"\n", ": no rows; expected one JSON object per line"),
        (b'\xef\xbb\xbf{"prompt": 3, "completion": "b"}', ", line 1: prompt must be text, got 3"),
        (b'{"prompt": 3, "completion": "b"}', ", line 1: prompt must be text, got 3"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="rows") as error:
        read_conversations(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_calculator_marks_become_calls_and_their_answers(tmp_path, tokenizer):
    path = write(
        tmp_path / "rows.jsonl", {"prompt": "48/2?", "completion": "<<48/2=24>>24\n#### 24"}
    )
    [conversation] = read_conversations(path, calculator=True)
    assert conversation["messages"][1]["content"] == [
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24\n#### 24"},
    ]
    ids, mask = render_conversation(tokenizer, conversation)
    forced = ids.index(tokenizer.special("<|output_start|>"))
    assert mask[forced] == 0
    assert mask[ids.index(tokenizer.special("<|python_start|>"))] == 1
    assert mask[ids.index(tokenizer.special("<|assistant_end|>"))] == 1
    assert read_conversations(path)[0]["messages"][1]["content"].startswith("<<48/2=24>>")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("chat.jsonl", Source(Path("chat.jsonl"))),
        ("a:b/chat.jsonl:3", Source(Path("a:b/chat.jsonl"), 3)),
        ("gsm8k:train.jsonl:4", Source(Path("train.jsonl"), 4, calculator=True)),
    ],
)
def test_a_source_names_a_file_and_its_repeats(text, source):
    assert Source.parse(text) == source


def test_a_file_whose_name_ends_like_a_repeat_is_that_file(tmp_path):
    path = write(tmp_path / "rows:2", {"prompt": "a", "completion": "b"})
    assert Source.parse(str(path)) == Source(path)
    assert Source.parse(f"{path}:3") == Source(path, 3)


def test_a_repeat_of_zero_is_refused():
    with pytest.raises(ValueError, match="expected") as error:
        Source.parse("chat.jsonl:0")
    assert str(error.value) == (
        "'chat.jsonl:0': expected [gsm8k:]path[:repeat] with a repeat of at least 1, as in "
        "chat.jsonl, chat.jsonl:2 or gsm8k:train.jsonl:4"
    )


def test_a_mixture_has_each_source_as_often_as_it_says(tmp_path):
    one = write(tmp_path / "one.jsonl", {"prompt": "1", "completion": "a"})
    two = write(tmp_path / "two.jsonl", exchange("2", "b"), exchange("3", "c"))
    mixture = read_mixture([f"{one}:3", str(two)])
    questions = [each["messages"][0]["content"] for each in mixture]
    assert Counter(questions) == {"1": 3, "2": 1, "3": 1}


def test_the_order_depends_on_seed_and_epoch_only():
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[1] == tuple(epoch_order(50, 0, 1))
    assert all(sorted(order) == list(range(50)) for order in orders)


class Conversation(dict):
    """A conversation that already is tokens, none of which occurs in another one."""

    def __init__(self, number: int, mask: list[int]):
        super().__init__()
        self.ids = [1000 * (number + 1) + i for i in range(len(mask))]
        self.mask = mask


masks = st.lists(st.integers(0, 1), min_size=1, max_size=40)
corpora = st.lists(masks, min_size=1, max_size=60).map(
    lambda all: [Conversation(i, mask) for i, mask in enumerate(all)]
)


def pack(conversations, sequence_len=16, rows=3, **options):
    def render(conversation):
        return conversation.ids, conversation.mask

    return PackedBatches(conversations, render, sequence_len, rows, PADDING, **options)


def batches_of(packed):
    found = []
    while (batch := packed.next_batch()) is not None:
        found.append(batch)
    return found


def learnable(conversation, capacity):
    return any(conversation.mask[1:capacity])


def read_row(inputs, targets, by_number):
    """Check one row; return the numbers of the conversations in it."""
    begin, found = 0, []
    T = len(inputs)
    wanted = np.full(T, IGNORE)
    while begin < T and inputs[begin] != PADDING:
        number, place = divmod(int(inputs[begin]), 1000)
        assert place == 0, "a row holds the beginning of each conversation"
        conversation = by_number[number - 1]
        length = min(len(conversation.ids), T + 1)
        shown = min(length, T - begin)
        assert inputs[begin : begin + shown].tolist() == conversation.ids[:shown]
        for i in range(1, length):  # the first token is no target of the conversation before
            if conversation.mask[i]:
                wanted[begin + i - 1] = conversation.ids[i]
        found.append(number - 1)
        begin += length
    assert (inputs[begin:] == PADDING).all()
    assert targets.tolist() == wanted.tolist()
    return found


@settings(deadline=None, max_examples=150)
@given(corpora, st.integers(2, 24), st.integers(1, 4), st.integers(1, 3), st.integers(1, 8))
def test_every_conversation_is_used_once_an_epoch_and_masks_are_exact(
    corpus, sequence_len, rows, epochs, buffer_size
):
    packed = pack(corpus, sequence_len, rows, epochs=epochs, buffer_size=buffer_size)
    capacity = sequence_len + 1
    seen = Counter()
    for inputs, targets in batches_of(packed):
        assert inputs.shape == targets.shape == (rows, sequence_len)
        assert inputs.dtype == targets.dtype == np.int32
        assert (targets != IGNORE).any()
        for row, target in zip(inputs, targets, strict=True):
            found = read_row(row, target, corpus)
            assert not found or (target != IGNORE).any()
            seen.update(found)
    expected = [i for i, each in enumerate(corpus) if learnable(each, capacity)]
    assert seen == Counter(dict.fromkeys(expected, epochs))
    assert packed.progress == 1.0
    assert packed.used == packed.total == epochs * len(corpus)
    counts = packed.counts
    assert counts.without_target == epochs * (len(corpus) - len(expected))
    assert counts.truncated == epochs * sum(len(corpus[i].ids) > capacity for i in expected)
    assert counts.dropped == 0


@settings(deadline=None, max_examples=100)
@given(corpora, st.integers(0, 30), st.integers(1, 2))
def test_a_saved_state_goes_on_with_the_same_batches(corpus, cut, epochs):
    whole = batches_of(pack(corpus, epochs=epochs, seed=3, buffer_size=5))
    packed = pack(corpus, epochs=epochs, seed=3, buffer_size=5)
    for _ in range(min(cut, len(whole))):
        packed.next_batch()
    state = json.loads(json.dumps(packed.state()))
    resumed = pack(corpus, epochs=epochs, seed=3, buffer_size=5)
    resumed.load_state(state)
    assert resumed.progress == packed.progress
    left = batches_of(resumed)
    assert len(left) == len(whole) - min(cut, len(whole))
    for ours, theirs in zip(left, whole[min(cut, len(whole)) :], strict=True):
        assert np.array_equal(ours.inputs, theirs.inputs)
        assert np.array_equal(ours.targets, theirs.targets)
    batches_of(packed)
    assert resumed.counts == packed.counts


def test_a_state_of_other_data_is_refused():
    state = pack([Conversation(i, [0, 1]) for i in range(3)]).state()
    with pytest.raises(ValueError, match="3 conversations when the run was stopped, now it has 2"):
        pack([Conversation(i, [0, 1]) for i in range(2)]).load_state(state)


def test_a_state_of_an_epoch_that_is_not_to_be_is_refused():
    corpus = [Conversation(i, [0, 1]) for i in range(3)]
    packed = pack(corpus, epochs=3)
    while packed.epoch < 2:
        packed.next_batch()
    message = "the run was stopped in epoch 3, but epochs is 2"
    with pytest.raises(ValueError, match=f"^{message}$"):
        pack(corpus, epochs=2).load_state(packed.state())


def test_the_longest_that_fits_comes_next():
    lengths = [5, 9, 3, 9, 4, 7]
    corpus = [Conversation(i, [0] + [1] * (length - 1)) for i, length in enumerate(lengths)]
    [batch] = batches_of(pack(corpus, 16, 4, shuffle=False))
    rows = [read_row(*row, corpus) for row in zip(batch.inputs, batch.targets, strict=True)]
    assert rows == [[1, 5], [3, 0, 2], [4], []]  # 9 + 7, 9 + 5 + 3, 4, and nothing


def test_an_epoch_differs_from_the_one_before_and_equals_itself():
    corpus = [Conversation(i, [0, 1, 1]) for i in range(40)]
    first, again = (batches_of(pack(corpus, 15, 4, epochs=2)) for _ in range(2))
    assert [each.inputs.tolist() for each in first] == [each.inputs.tolist() for each in again]
    assert first[0].inputs.tolist() != first[len(first) // 2].inputs.tolist()


@pytest.mark.parametrize("oversize", ["truncate", "drop"])
def test_many_conversations_longer_than_a_row_do_not_clog_the_buffer(oversize):
    """nanochat keeps them in the buffer of 100 for ever, until nothing else is in it."""
    random = np.random.default_rng(0)
    lengths = np.where(random.random(400) < 0.4, 200, random.integers(5, 60, 400))
    corpus = [Conversation(i, [0] + [1] * (n - 1)) for i, n in enumerate(lengths)]
    packed = pack(corpus, 64, 8, oversize=oversize)
    found = batches_of(packed)
    assert packed.progress == 1.0
    assert all((targets != IGNORE).any() for _, targets in found)
    long, kept = int((lengths == 200).sum()), lengths.clip(max=65).sum()
    if oversize == "drop":
        kept -= 65 * long
    assert packed.counts.truncated == (long if oversize == "truncate" else 0)
    assert packed.counts.dropped == (long if oversize == "drop" else 0)
    rows = sum((batch.inputs != PADDING).any(axis=1).sum() for batch in found)
    assert packed.counts.padding == rows * 65 - kept
    assert kept / (rows * 65) > 0.95


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sequence_len": 0}, "PackedBatches: sequence_len must be at least 1, got 0"),
        ({"rows": 0}, "PackedBatches: rows must be at least 1, got 0"),
        ({"epochs": 0}, "PackedBatches: epochs must be at least 1, got 0"),
        ({"conversations": []}, "PackedBatches: conversations must be at least 1, got 0"),
    ],
)
def test_sizes_below_one_are_refused(option, message):
    with pytest.raises(ValueError, match="PackedBatches") as error:
        pack(**{"conversations": [Conversation(0, [0, 1])], **option})
    assert str(error.value) == message
