import io
import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gpt.commands.chat import chat
from mlx_gpt.commands.generate import generate
from mlx_gpt.commands.terminal import COMMANDS, ChatTerminal
from mlx_gpt.data.conversation import render_conversation, render_for_completion
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.engine.session import ChatSession
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.files import save_model
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)


class Watched(Nanochat):
    """Counts the tokens it reads; at a call that is asked for, Ctrl-C is pressed."""

    def __init__(self, config: NanochatConfig):
        super().__init__(config)
        self._read: list[int] = []
        self._interrupt_at = -1

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        self._read.append(ids.shape[1])
        if len(self._read) == self._interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return super().hidden_states(ids, cache)


class Scripted:
    """A model that answers each prompt with the next of its texts and ends there."""

    def __init__(self, tokenizer: Tokenizer, *answers: list[int]):
        self.config = NanochatConfig(vocab_size=tokenizer.vocab_size)
        self.end = tokenizer.special("<|assistant_end|>")
        self.start = tokenizer.special("<|assistant_start|>")
        self.answers, self.left = list(answers), []

    def make_cache(self, left_padding: list[int] | None = None) -> Cache:
        return Cache([10_000], left_padding)

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        assert cache is not None
        cache.layers[0].append([ids[:, None, :, None].astype(mx.float32)] * 2)
        if ids[0, -1] == self.start:
            self.left = [*self.answers.pop(0), self.end, self.end]
        logits = np.zeros((1, 1, self.config.vocab_size), np.float32)
        logits[0, 0, self.left.pop(0)] = 100.0
        return mx.array(logits)

    def logits(self, hidden_states: mx.array) -> mx.array:
        return hidden_states


@pytest.fixture
def model(tiny_model: Nanochat) -> Watched:
    model = Watched(tiny_model.config)
    model.update(tiny_model.parameters())
    return model


@pytest.fixture
def session(model: Watched, tokenizer: Tokenizer) -> ChatSession:
    return ChatSession(Engine(model, tokenizer, end_ids=()), GREEDY, max_tokens=6)


def say(session: ChatSession, text: str) -> str:
    return "".join(piece.text for piece in session.ask(text))


def test_a_turn_is_answered_as_by_the_whole_conversation(
    session: ChatSession, model: Watched, tokenizer: Tokenizer
):
    ids: list[int] = []
    for text in ["What is it?", "The dog", "12 times 7"]:
        messages = {"messages": [{"role": "user", "content": text}]}
        ids += render_for_completion(tokenizer, messages)[1 if ids else 0 :]
        [alone] = Engine(model, tokenizer, end_ids=()).generate([Request(ids, 6, GREEDY)])
        assert say(session, text) == alone.text
        ids += [*alone.ids, tokenizer.special("<|assistant_end|>")]
        assert session.ids == ids


def test_a_turn_reads_only_its_own_tokens(session: ChatSession, model: Watched):
    say(session, "What is it?")
    before = len(session.ids)
    model._read.clear()
    say(session, "The dog")
    # Also the last token of the answer and its end: nothing had come after them.
    assert model._read[0] == len(session.ids) - before - 7 + 2
    assert model._read[1:] == [1] * 5


def test_the_system_message_is_part_of_the_first_turn(session: ChatSession, tokenizer: Tokenizer):
    session.system = "Be brief."
    say(session, "What?")
    say(session, "Why?")
    conversation = session.conversation()
    assert [each["role"] for each in conversation["messages"]] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    expected = render_for_completion(
        tokenizer,
        {"messages": [*conversation["messages"][:2], {"role": "assistant", "content": ""}]},
    )
    assert session.ids[: len(expected)] == expected


def test_undo_and_retry_leave_no_trace(session: ChatSession):
    first = say(session, "What is it?")
    ids = session.ids
    say(session, "The dog")
    assert session.undo() == "The dog"
    assert session.ids == ids
    assert "".join(piece.text for piece in session.retry()) == first
    assert session.ids == ids
    assert say(session, "Why?") == say_again(session, "Why?")
    session.clear()
    assert session.ids == []
    with pytest.raises(ValueError, match=r"^nothing has been said yet$"):
        session.undo()


def say_again(session: ChatSession, text: str) -> str:
    """Return the answer to the last message, asked in a session that remembers nothing."""
    other = ChatSession(session.engine, session.sampling, session.max_tokens)
    other.turns = session.turns[:-1]
    return say(other, text)


def test_a_seed_makes_a_session_again_in_which_answers_differ(model: Watched, tokenizer: Tokenizer):
    def answers() -> list[str]:
        session = ChatSession(Engine(model, tokenizer, end_ids=()), Sampling(seed=3), max_tokens=20)
        return [say(session, "What?"), "".join(piece.text for piece in session.retry())]

    first, second = answers()
    assert first != second
    assert answers() == [first, second]


def test_an_answer_closed_in_the_middle_stays_as_far_as_it_got(session: ChatSession):
    session.max_tokens = 50
    pieces = session.ask("What is it?")
    begun = [next(pieces).token for _ in range(3)]
    pieces.close()
    assert session.turns[-1].answer_ids == begun
    session.max_tokens = 6
    assert say(session, "Why?") == say_again(session, "Why?")


def tool_answer(tokenizer: Tokenizer) -> list[int]:
    special, encode = tokenizer.special, tokenizer.encode
    call = [special("<|python_start|>"), *encode("12*7"), special("<|python_end|>")]
    junk = [7] * (2 + len(encode("84")))
    return [*encode("It is "), *call, *junk, *encode("84, she said.")]


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> ChatSession:
    texts = ["Good morning!", "It rains."]
    answers = [tokenizer.encode(texts[0]), tool_answer(tokenizer), tokenizer.encode(texts[1])]
    return ChatSession(Engine(Scripted(tokenizer, *answers), tokenizer), GREEDY)


def test_a_conversation_survives_saving_and_loading(
    scripted: ChatSession, tokenizer: Tokenizer, tmp_path: Path
):
    for text in ("Hello", "12 times 7?", "Weather?"):
        say(scripted, text)
    conversation = scripted.conversation()
    assert conversation["messages"][3]["content"] == [
        {"type": "text", "text": "It is "},
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "84, she said."},
    ]
    assert conversation["messages"][5]["content"] == "It rains."
    # The tokens of a session are those that fine-tuning would make of it.
    assert scripted.ids == render_conversation(tokenizer, conversation)[0]
    other = ChatSession(scripted.engine, GREEDY)
    other.load(json.loads(json.dumps(conversation)))
    assert (other.ids, other.conversation()) == (scripted.ids, conversation)


def test_a_conversation_that_ends_with_a_question_is_not_loaded(session: ChatSession):
    with pytest.raises(ValueError, match=r"^the conversation must end with an answer of the"):
        session.load({"messages": [{"role": "user", "content": "What?"}]})


def test_a_tokenizer_without_the_tokens_of_a_chat_is_refused(texts: list[str], model: Watched):
    plain = Tokenizer.train(texts, vocab_size=300, specials=["<|bos|>"])
    with pytest.raises(ValueError, match=r"this tokenizer has no <\|user_start\|>"):
        ChatSession(Engine(model, plain), GREEDY)


def reader(lines: list[str]) -> Callable[[str], str]:
    """Return a function that reads as `input` does; "^C" is Ctrl-C."""
    left = iter(lines)

    def read(prompt: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    return read


def run(session: ChatSession, *lines: str, interactive: bool = True) -> tuple[str, str]:
    """Return what a terminal wrote: answers, notes."""
    out, notes = io.StringIO(), io.StringIO()
    ChatTerminal(session, reader(list(lines)), out, notes, interactive).run()
    return out.getvalue(), notes.getvalue()


def test_without_a_terminal_there_are_only_answers(scripted: ChatSession):
    answers, notes = run(scripted, "Hello", "", "12 times 7?", interactive=False)
    assert answers == "Good morning!\nIt is [python: 12*7][result: 84]84, she said.\n"
    assert notes == ""


def test_commands_take_back_and_answer_again(scripted: ChatSession):
    answers, notes = run(
        scripted, "Hello", "/undo", "Hi", "/retry", "/clear", "/undo", "/quit", "?"
    )
    assert answers.splitlines() == [
        "Good morning!", "It is [python: 12*7][result: 84]84, she said.", "It rains.",
    ]  # fmt: skip
    assert notes.splitlines()[1:] == [
        "Removed: Hello", "A new conversation.", "/undo: nothing has been said yet",
    ]  # fmt: skip


def test_settings_are_shown_and_changed(session: ChatSession):
    _, notes = run(
        session, "/set", "/set temperature 0.5", "/set top_k 7", "/set seed 3", "/set seed none",
        "/set max_tokens 9", "/set top_p 2", "/set temperatur 1", "/set top_k 1.5",
        "/set max_tokens 0",
    )  # fmt: skip
    lines = notes.splitlines()[1:]
    assert lines[0] == (
        "temperature 0  top_k 0  top_p 1.0  min_p 0.0  seed None  repetition_penalty 1.0  "
        "presence_penalty 0.0  frequency_penalty 0.0  max_tokens 6"
    )
    assert lines[5].startswith("temperature 0.5  top_k 7  top_p 1.0  min_p 0.0  seed None  rep")
    assert lines[5].endswith("  max_tokens 9")
    assert lines[6:] == [
        "/set: top_p must be above 0 and at most 1, got 2.0",
        "/set: no setting 'temperatur'; did you mean 'temperature'?",
        "/set: top_k must be a whole number, got '1.5'",
        "/set: max_tokens must be 1 or more, got 0",
    ]
    assert session.sampling == Sampling(temperature=0.5, top_k=7)
    assert session.max_tokens == 9


def test_a_conversation_is_saved_and_gone_on_from(scripted: ChatSession, tmp_path: Path):
    file = tmp_path / "my chat.jsonl"
    answers, notes = run(
        scripted, "Hello", f"/save {file}", "/clear", f"/load {file}", "12 times 7?", "/save",
        f"/load {tmp_path / 'none'}",
    )  # fmt: skip
    assert len(answers.splitlines()) == 2
    assert notes.splitlines()[1].startswith("Saved 1 turns to ")
    assert f"1 turns, {len(scripted.ids[: scripted.ids.index(scripted._end) + 1])} tokens." in notes
    assert "/save: give the name of a file" in notes
    assert "/load: [Errno 2] No such file or directory" in notes
    [line] = file.read_text("utf-8").splitlines()
    assert json.loads(line)["messages"][1] == {"role": "assistant", "content": "Good morning!"}
    file.write_text("nonsense")
    assert "is not one conversation in JSON" in run(scripted, f"/load {file}")[1]


def test_help_knows_every_command_and_other_names_are_refused(session: ChatSession):
    _, notes = run(session, "/help", "/rety")
    assert all(f"\n/{name}" in notes for name in COMMANDS)
    assert "unknown command /rety; did you mean 'retry'?" in notes
    assert session.turns == []


def test_two_slashes_say_one(scripted: ChatSession):
    run(scripted, "//help")
    assert scripted.turns[0].text == "/help"


def test_stats_count_turns_and_tokens(session: ChatSession):
    _, notes = run(session, "What is it?", "/stats")
    assert f"1 turns, {len(session.ids)} tokens of 64, 0." in notes
    assert "last answer: 6 tokens, the first after " in notes


def test_an_answer_that_was_cut_and_a_conversation_that_is_long_are_said_so(session: ChatSession):
    _, notes = run(session, "What is it? " * 10, "And now? " * 5)
    assert notes.count("[cut at 6 tokens: /set max_tokens NUMBER]") == 2
    assert notes.count("the model was trained on 64:") == 1


def test_what_would_move_the_cursor_is_not_shown_in_a_terminal(tokenizer: Tokenizer):
    def answer(interactive: bool) -> str:
        model = Scripted(tokenizer, tokenizer.encode("a\x1b[2Jb\r\n\tc"))
        return run(ChatSession(Engine(model, tokenizer), GREEDY), "?", interactive=interactive)[0]

    assert answer(True) == "a\ufffd[2Jb\ufffd\n\tc\n"
    assert answer(False) == "a\x1b[2Jb\r\n\tc\n"


def test_ctrl_c_stops_the_answer_and_not_the_program(session: ChatSession, model: Watched):
    session.max_tokens, model._interrupt_at = 30, 5
    answers, notes = run(session, "What is it?", "^C", "/set max_tokens 4", "Why?", "/undo")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "Ctrl-D or /quit quits." in notes
    assert len(session.turns[0].answer_ids) == 4
    assert "Removed: Why?" in notes
    # The model went on from where it was: only new tokens were read.
    assert model._read[0] not in model._read[1:]
    assert max(model._read[1:]) < model._read[0]
    assert answers.count("\n") >= 2


def test_ctrl_c_ends_a_program_without_a_terminal(session: ChatSession, model: Watched):
    model._interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(session, "What is it?", interactive=False)


@pytest.fixture
def folder(tiny_model: Nanochat, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(tiny_model, tmp_path / "run" / "model")
    tokenizer.save(tmp_path / "run" / "model")
    return tmp_path / "run"


def invoke(command, *arguments: str, text: str | None = None) -> str:
    result = CliRunner().invoke(command, arguments, input=text, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_generate_command_continues_prompts(
    folder: Path, tmp_path: Path, tiny_model: Nanochat, tokenizer: Tokenizer
):
    engine = Engine(tiny_model, tokenizer, tools=False)
    [expected] = engine.generate(
        [Request([tokenizer.bos_id, *tokenizer.encode("The dog")], 8, GREEDY)]
    )
    common = ("--model", str(folder), "--max-tokens", "8")
    greedy = invoke(generate, *common, "--prompt", "The dog", "--temperature", "0")
    assert greedy == f"The dog{expected.text}\n"
    assert (
        invoke(generate, *common, "--prompt", "-", "--temperature", "0", text="The dog") == greedy
    )
    (tmp_path / "prompts.txt").write_text("The dog\n\nWhat is\n")
    several = (*common, "--prompts-file", str(tmp_path / "prompts.txt"), "-n", "2", "--seed", "3")
    rows = [json.loads(line) for line in invoke(generate, *several, "--json").splitlines()]
    assert [row["prompt"] for row in rows] == ["The dog", "The dog", "What is", "What is"]
    assert rows[0]["text"] != rows[1]["text"]
    assert set(rows[0]) == {"prompt", "text", "tokens", "finish_reason"}
    plain = invoke(generate, *several)
    assert plain.startswith(f"--- 1 of 4\nThe dog{rows[0]['text']}\n--- 2 of 4\n")


def test_the_chat_command_answers_lines_and_a_single_prompt(folder: Path):
    common = ("--model", str(folder), "--max-tokens", "3", "--temperature", "0")
    two = invoke(chat, *common, text="The dog\nWhy?\n")
    assert invoke(chat, *common, "--prompt", "The dog") == two[: two.index("\n") + 1]


def test_the_chat_command_works_in_a_terminal(folder: Path, tmp_path: Path, start):
    ours, theirs = pty.openpty()
    program = "from mlx_gpt.commands.chat import chat; chat()"
    options = ["--model", str(folder), "--max-tokens", "3", "--temperature", "0"]
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TERM": "dumb"}
    process = start(
        [sys.executable, "-c", program, *options],
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | home,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    for waited, typed in [(b"> ", b"The dog\n"), (b"]\r\n\r\n> ", b"/stats\n"), (b"> ", b"\x04")]:
        begin = len(seen)
        while waited not in seen[begin:]:
            seen += os.read(ours, 1000)
        os.write(ours, typed)
    assert process.wait() == 0
    os.close(ours)
    assert b"Ctrl-D quits." in seen
    assert b"1 turns," in seen
    [history] = tmp_path.rglob("chat_history")
    assert history.read_text().split("\n")[-3:-1] == ["The dog", "/stats"]
    assert history.stat().st_mode & 0o077 == 0
