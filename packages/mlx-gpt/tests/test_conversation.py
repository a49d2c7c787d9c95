import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gpt.data.conversation import (
    check_conversation,
    render_conversation,
    render_for_completion,
    visualize,
)
from mlx_gpt.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer

# Ids 0 to 255 are bytes, 256 "Hi", then the specials: BOS 257, user 258 and 259, assistant 260 and
# 261, python 262 and 263, output 264 and 265.
HI, BOS, USER, USER_END, ASSISTANT, ASSISTANT_END = 256, 257, 258, 259, 260, 261
PYTHON, PYTHON_END, OUTPUT, OUTPUT_END = 262, 263, 264, 265


@pytest.fixture(scope="module")
def by_hand() -> Tokenizer:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"Hi": 256}
    return Tokenizer.from_ranks(ranks, SPLIT_PATTERN)


def chat(*messages: tuple[str, object]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def b(text: str) -> list[int]:
    return list(text.encode())


WITH_TOOL = chat(
    ("system", "Be"),
    ("user", "Hi"),
    (
        "assistant",
        [
            {"type": "text", "text": "so "},
            {"type": "python", "text": "1+1"},
            {"type": "python_output", "text": "2"},
            {"type": "text", "text": "2!"},
        ],
    ),
    ("user", "?"),
    ("assistant", "Hi"),
)


def test_ids_and_mask_by_hand(by_hand):
    ids, mask = render_conversation(by_hand, WITH_TOOL)
    expected = [
        ([BOS, USER, *b("Be\n\n"), HI, USER_END, ASSISTANT], 0),
        ([*b("so "), PYTHON, *b("1+1"), PYTHON_END], 1),
        ([OUTPUT, *b("2"), OUTPUT_END], 0),
        ([*b("2!"), ASSISTANT_END], 1),
        ([USER, *b("?"), USER_END, ASSISTANT], 0),
        ([HI, ASSISTANT_END], 1),
    ]
    assert ids == [number for run, _ in expected for number in run]
    assert mask == [learned for run, learned in expected for _ in run]


def test_rendering_leaves_the_conversation_as_it_was(by_hand):
    before = copy.deepcopy(WITH_TOOL)
    render_conversation(by_hand, WITH_TOOL)
    render_for_completion(by_hand, WITH_TOOL)
    assert before == WITH_TOOL


@pytest.mark.parametrize("length", [0, 1, 7, 1000])
def test_max_tokens_cuts_ids_and_mask_alike(by_hand, length):
    whole = render_conversation(by_hand, WITH_TOOL)
    ids, mask = render_conversation(by_hand, WITH_TOOL, max_tokens=length)
    assert (ids, mask) == (whole[0][:length], whole[1][:length])


def test_a_completion_begins_where_the_last_answer_would(by_hand):
    ids = render_for_completion(by_hand, chat(("user", "Hi"), ("assistant", "no")))
    assert ids == [BOS, USER, HI, USER_END, ASSISTANT]
    assert render_for_completion(by_hand, chat(("user", "Hi"))) == ids
    whole, _ = render_conversation(by_hand, WITH_TOOL)
    assert render_for_completion(by_hand, WITH_TOOL) == whole[:-2]


@given(texts=st.lists(st.text(max_size=20) | st.sampled_from(SPECIALS), min_size=2, max_size=2))
def test_what_people_type_is_never_a_special_token(by_hand, texts):
    ids, mask = render_conversation(by_hand, chat(("user", texts[0]), ("assistant", texts[1])))
    found = [number for number in ids if number >= BOS]
    assert found == [BOS, USER, USER_END, ASSISTANT, ASSISTANT_END]
    end = ids.index(USER_END)
    assert by_hand.decode(ids[2:end]) == texts[0]
    assert by_hand.decode(ids[end + 2 : -1]) == texts[1]
    assert mask == [0] * (end + 2) + [1] * (len(ids) - end - 2)


def test_visualize_shows_runs_of_learned_tokens(by_hand):
    rendered = render_conversation(by_hand, chat(("user", "Hi\n"), ("assistant", "é")))
    assert visualize(by_hand, *rendered) == (
        "  <|bos|>|<|user_start|>|Hi|\\n|<|user_end|>|<|assistant_start|>\n"
        "+ \\xc3|\\xa9|<|assistant_end|>"
    )
    coloured = visualize(by_hand, *rendered, colour=True).split("\n")
    assert coloured[0].startswith("\033[31m  <|bos|>")
    assert coloured[1] == "\033[32m+ \\xc3|\\xa9|<|assistant_end|>\033[0m"
    assert visualize(by_hand, [], []) == ""


PARTS = [{"type": "text", "text": "a"}, {"type": "pyhton", "text": "b"}]


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], 'a conversation is {"messages": [...]} with at least one message'),
        (chat(), 'a conversation is {"messages": [...]} with at least one message'),
        (
            {"messages": [{"role": "user"}]},
            "message 1 of 1: expected an object with role and content, got {'role': 'user'}",
        ),
        (
            chat(("assistant", "Hi")),
            "message 1 of 1: expected role 'user', got 'assistant'; user and assistant take turns, "
            "the user first",
        ),
        (
            chat(("user", "a"), ("assistant", "b"), ("assistant", "c")),
            "message 3 of 3: expected role 'user', got 'assistant'; user and assistant take turns, "
            "the user first",
        ),
        (
            chat(("system", "a"), ("assistant", "b")),
            "message 2 of 2: expected role 'user', got 'assistant'; user and assistant take turns, "
            "the user first",
        ),
        (
            chat(("system", "a")),
            "message 1 of 1: a system message needs a user's message after it",
        ),
        (
            chat(("user", "a"), ("system", "b")),
            "message 2 of 2: a system message may only come first",
        ),
        (
            chat(("user", "a"), ("asistant", "b")),
            "message 2 of 2: unknown role 'asistant'; did you mean 'assistant'?",
        ),
        (
            chat(("user", PARTS)),
            "message 1 of 1: the content of 'user' must be text, got list",
        ),
        (
            chat(("user", "a"), ("assistant", None)),
            "message 2 of 2: the content of 'assistant' must be text or a list of parts, got "
            "NoneType",
        ),
        (
            chat(("user", "a"), ("assistant", PARTS)),
            "message 2 of 2, part 2: unknown type 'pyhton'; did you mean 'python'?",
        ),
        (
            chat(("user", "a"), ("assistant", ["b"])),
            "message 2 of 2, part 1: expected an object with type and text, got 'b'",
        ),
    ],
)
def test_errors_name_the_message(by_hand, conversation, message):
    for use in (
        check_conversation,
        lambda wrong: render_conversation(by_hand, wrong),
        lambda wrong: render_for_completion(by_hand, wrong),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            use(conversation)


def test_a_tokenizer_without_chat_tokens_says_so():
    ranks = {bytes([byte]): byte for byte in range(256)}
    plain = Tokenizer.from_ranks(ranks, SPLIT_PATTERN, ["<|bos|>"])
    with pytest.raises(ValueError, match=r"this tokenizer has no <\|user_start\|>; a chat needs"):
        render_conversation(plain, chat(("user", "Hi")))
