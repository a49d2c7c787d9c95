import threading

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.engine import Completion, Engine, Request, Sampling, calculate, content_parts
from mlx_gpt.models.cache import Cache
from mlx_gpt.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(12*7)+3", "87"),
        ("'strawberry'.count('r')", "3"),
        ('"it\'s".count("s")', "1"),
        ("'a,b,c'.count(',')", "2"),
        ("('aa'.count('a') + 1) * 2", "6"),
        ("1,000 * 3", "3000"),
        ("48/2", "24.0"),
        ("7 // 2 % 2", "1"),
        ("-(-5) - +2", "3"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("2**0.5", "1.4142135623730951"),
        ("(-1)**12345678901", "-1"),
        (".1 + .2", "0.30000000000000004"),
        (" 5 ", "5"),
        ("9" * 77, "9" * 77),
    ],
)
def test_the_calculator_says_what_python_would_print(expression: str, result: str):
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "()",
        "1 2",
        "1, 2",
        "1/0",
        "0 % 0",
        "0**-1",
        "007",
        "...",
        "1e5",
        "1_000",
        "0x10",
        "1j",
        "(-8)**(1/3)",
        "1/3*10.**308*100",
        "True",
        "None",
        "nan",
        "x",
        "x = 1",
        "1; 2",
        "1 if 1 else 2",
        "1 < 2",
        "1 or 2",
        "not 1",
        "~1",
        "1 << 3",
        "1 @ 2",
        "9**9**9",
        "9**9**9**9",
        "(2**200)**2",
        "2.0**99999",
        "9" * 78,
        "9" * 50 + "*" + "9" * 50,
        "1" * 501,
        "1" * 10**7,
        "'a'",
        "'a' + 'b'",
        "'a' * 10**9",
        "'a'.count",
        "'a'.count()",
        "'a'.count('a', 0)",
        "'a'.count(1)",
        "1 .count('a')",
        "'a'.upper()",
        "'a'.count('a').real",
        "'a'.count('a').count('a')",
        "'a'.__class__",
        "'a'.count.__self__",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "exec('1')",
        "eval('1')",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "{1: 2}",
        "f'{1}'.count('1')",
        "b'a'.count(b'a')",
        "r'a'.count('a')",
        "'\\x61'.count('a')",
        "'a\n'.count('a')",
        "'a\0'.count('a')",
        "'a'.count('a' if 1 else 'b')",
        "'a'.count(*'a')",
        "'a'.count(sub='a')",
        "'\ud800'.count('a')",
        "٣ + ١",
        "2²",
        "１+１",
        "(1",
        "1)",
        "'a",
        "# 1",
        "1\n+1",
        "(" * 250 + "1" + ")" * 249,
        "-" * 499 + "1",
        "1" + "**1" * 166,
        "1" + "+1" * 240,
        "10.**" * 99 + "10",
    ],
    ids=lambda expression: ascii(expression[:20]),
)
def test_everything_else_is_refused(expression: str):
    assert calculate(expression) is None


@given(st.text("0123456789+-*/%(). ,'\"count", max_size=60))
@settings(deadline=None)
def test_nothing_raises_and_what_is_answered_is_short(expression: str):
    result = calculate(expression)
    assert result is None or len(result) < 80


numbers = st.integers(0, 999).map(str) | st.floats(0, 999, width=16).map(lambda x: f"{x:f}")
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        inner.map(lambda x: f"({x})"),
        inner.map(lambda x: f"-{x}"),
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(" ".join),
    ),
    max_leaves=8,
)


@given(expressions)
@settings(deadline=None)
def test_arithmetic_is_pythons(expression: str):
    try:
        expected = str(eval(expression))
    except ArithmeticError:
        expected = None
    assert calculate(expression) == expected


@pytest.mark.parametrize(
    ("expression", "result"),
    [("(" * 95 + "1" + ")" * 95, "1"), ("-" * 99 + "1", "-1"), ("1" + "**1" * 99, "1")],
    ids=["parentheses", "signs", "powers"],
)
def test_the_deepest_expression_fits_in_the_stack_of_a_small_thread(expression: str, result: str):
    found = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: found.append(calculate(expression)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert found == [result]


class Scripted:
    """A model that says what a script says, whatever the weather.

    Scripts belong to prompts. A token that was forced takes the place of the script's own there.
    """

    def __init__(self, scripts: dict[tuple[int, ...], list[int]], vocab_size: int):
        self.scripts, self.vocab_size = scripts, vocab_size
        self.read: list[list[int]] = []  # per row, after the last call

    def make_cache(self, left_padding: list[int] | None = None) -> Cache:
        return Cache([10_000], left_padding)

    def hidden_states(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        assert cache is not None
        keys, _ = cache.layers[0].append([ids[:, None, :, None].astype(mx.float32)] * 2)
        rows = np.array(keys)[:, 0, : cache.offset, 0].astype(int).tolist()
        # Padding is 0, which no prompt here begins with.
        self.read = [row[next(i for i, token in enumerate(row) if token) :] for row in rows]
        logits = np.zeros((len(rows), 1, self.vocab_size), np.float32)
        for i, row in enumerate(self.read):
            prompt = next(p for p in self.scripts if tuple(row[: len(p)]) == p)
            logits[i, 0, (*self.scripts[prompt], 1)[len(row) - len(prompt)]] = 100.0
        return mx.array(logits)

    def logits(self, hidden_states: mx.array) -> mx.array:
        return hidden_states


def call(tokenizer: Tokenizer, expression: str) -> list[int]:
    start, end = tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>")
    return [start, *tokenizer.encode(expression), end]


def answer(tokenizer: Tokenizer, result: str) -> list[int]:
    start, end = tokenizer.special("<|output_start|>"), tokenizer.special("<|output_end|>")
    return [start, *tokenizer.encode(result), end]


def run(
    tokenizer: Tokenizer,
    *scripts: list[int],
    tools: bool = True,
    max_tokens: int = 100,
    end_ids: list[int] | None = None,
) -> tuple[list[Completion], Scripted]:
    prompts = [(tokenizer.bos_id, *range(40, 45 + i)) for i in range(len(scripts))]
    end = tokenizer.special("<|assistant_end|>")
    model = Scripted(
        {p: [*s, end] for p, s in reversed(list(zip(prompts, scripts, strict=True)))},
        tokenizer.vocab_size,
    )
    greedy = Sampling(temperature=0)
    requests = [Request(prompt, max_tokens, greedy) for prompt in prompts]
    return Engine(model, tokenizer, tools, end_ids).generate(requests), model


@pytest.mark.parametrize(
    ("expression", "result"), [("(12*7)+3", "87"), ("'strawberry'.count('r')", "3")]
)
def test_a_call_is_answered_with_forced_tokens(tokenizer: Tokenizer, expression: str, result: str):
    called, forced = call(tokenizer, expression), answer(tokenizer, result)
    before, after = tokenizer.encode("That is "), tokenizer.encode(" indeed.")
    script = [*before, *called, *[7] * len(forced), *after]  # 7: what it would have said
    [completion], model = run(tokenizer, script)
    assert completion.ids == [*before, *called, *forced, *after]
    drawn = [1] * len(before + called)
    assert completion.mask == [*drawn, *[0] * len(forced), *[1] * len(after)]
    assert completion.finish_reason == "stop"
    assert completion.text == (
        f"That is <|python_start|>{expression}<|python_end|>"
        f"<|output_start|>{result}<|output_end|> indeed."
    )
    # The model has read what was forced, not what it would have said.
    assert model.read[0][6 : 6 + len(completion.ids)] == completion.ids


def test_a_forced_token_does_not_end_the_answer(tokenizer: Tokenizer):
    called, forced = call(tokenizer, "3+4"), answer(tokenizer, "7")
    script = [*called, *[7] * len(forced), *forced]  # and then says the same by itself
    [completion], _ = run(tokenizer, script, end_ids=tokenizer.encode("7"))
    assert completion.ids == [*called, *forced, forced[0]]
    assert completion.finish_reason == "stop"


def test_a_call_that_cannot_be_answered_is_left_alone(tokenizer: Tokenizer):
    script = [*call(tokenizer, "import os"), *tokenizer.encode("Hm.")]
    [completion], _ = run(tokenizer, script)
    assert completion.ids == script
    assert completion.mask == [1] * len(script)


@pytest.mark.parametrize("expression", ["", "12*7"])
def test_an_empty_call_or_an_end_without_a_beginning_forces_nothing(
    tokenizer: Tokenizer, expression: str
):
    called = call(tokenizer, expression)
    script = called if not expression else called[1:]
    [completion], _ = run(tokenizer, script)
    assert (completion.ids, completion.mask) == (script, [1] * len(script))


def test_rows_use_their_own_tools_at_their_own_time(tokenizer: Tokenizer):
    expressions = {"12*7": "84", "1/4": "0.25", "no": "", "2**8": "256"}
    scripts, expected = [], []
    for i, (expression, result) in enumerate(expressions.items()):
        words, called = tokenizer.encode("so " * i), call(tokenizer, expression)
        forced = answer(tokenizer, result) if result else []
        scripts.append([*words, *called, *[9] * len(forced), *words])
        expected.append([*words, *called, *forced, *words])
    completions, _ = run(tokenizer, *scripts)
    assert [each.ids for each in completions] == expected
    assert [each.mask.count(0) for each in completions] == [
        len(answer(tokenizer, result)) if result else 0 for result in expressions.values()
    ]


def test_a_second_call_may_follow(tokenizer: Tokenizer):
    first, second = answer(tokenizer, "4"), answer(tokenizer, "8")
    script = [*call(tokenizer, "2+2"), *[7] * len(first), *call(tokenizer, "4+4"), *[7] * 20]
    expected = [*call(tokenizer, "2+2"), *first, *call(tokenizer, "4+4"), *second]
    [completion], _ = run(tokenizer, script, max_tokens=len(expected))
    assert completion.ids == expected
    assert completion.finish_reason == "length"


def test_forced_tokens_count_and_may_be_cut(tokenizer: Tokenizer):
    called = call(tokenizer, "2**100")
    [completion], _ = run(tokenizer, [*called, *[7] * 50], max_tokens=len(called) + 2)
    assert completion.mask == [*[1] * len(called), 0, 0]
    assert completion.finish_reason == "length"


def test_without_tools_nothing_is_forced(tokenizer: Tokenizer):
    script = [*call(tokenizer, "2+2"), 7, 7]
    [completion], _ = run(tokenizer, script, tools=False)
    assert completion.ids == script


def test_an_answer_becomes_the_parts_of_a_message(tokenizer: Tokenizer):
    ids = [*tokenizer.encode("So "), *call(tokenizer, "2+2"), *answer(tokenizer, "4")]
    assert content_parts(tokenizer, [*ids, *tokenizer.encode(".")]) == [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
        {"type": "text", "text": "."},
    ]
    cut = call(tokenizer, "2+2")[:-1]
    assert content_parts(tokenizer, cut) == [{"type": "python", "text": "2+2"}]
    assert content_parts(tokenizer, []) == []
