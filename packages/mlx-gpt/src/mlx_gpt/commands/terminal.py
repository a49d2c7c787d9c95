"""The chat in a terminal: lines in, answers streamed out, commands that begin with a slash."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from mlx_gpt.printable import printable
from mlx_gpt.serve.client import ServerError
from mlx_trainer import did_you_mean, write_atomic

if TYPE_CHECKING:  # a chat with a server needs no model
    from mlx_gpt.engine.session import ChatSession
    from mlx_gpt.serve.remote_session import RemoteSession

    Session = ChatSession | RemoteSession

GREETING = "Write a message, or /help. Ctrl-C stops an answer, Ctrl-D quits."
_HISTORY_LINES = 1000
_SHOWN = {
    "<|python_start|>": "[python: ",
    "<|python_end|>": "]",
    "<|output_start|>": "[result: ",
    "<|output_end|>": "]",
}
_MARKER = re.compile("|".join(map(re.escape, _SHOWN)))


class Shown(Protocol):
    """A piece of an answer."""

    @property
    def text(self) -> str:
        """What it adds to the answer."""
        ...


class ChatTerminal:
    """Reads with `read(prompt)`, which raises `EOFError` at the end, and writes answers to `out`.

    If `interactive`, prompts and notes are shown between the answers. Otherwise `out` gets one
    answer per line and nothing else.
    """

    def __init__(
        self,
        session: Session,
        read: Callable[[str], str],
        out: TextIO,
        notes: TextIO,
        interactive: bool,
    ):
        self.session = session
        self._read = read
        self._out = out
        self._notes = notes
        self._interactive = interactive
        self._warned = False
        self._left = False

    def run(self) -> None:
        """Read lines until the end of input or /quit."""
        if self._interactive:
            self.note(GREETING)
        while not self._left:
            try:
                line = self._read("\n> " if self._interactive else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self.note("\nCtrl-D or /quit quits.")
                continue
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self.say(line.removeprefix("/") if line.startswith("//") else line)

    def say(self, text: str) -> None:
        """Send a message to the model and show its answer."""
        self._show(self.session.ask(text))

    def note(self, text: str) -> None:
        """Write a line that is not part of an answer."""
        print(text, file=self._notes, flush=True)

    def _show(self, pieces: Generator[Shown, Any, Any]) -> None:
        with _interrupts(self._interactive) as interrupted:
            try:
                for piece in pieces:
                    self._out.write(self._shown(piece.text))
                    self._out.flush()
                    if interrupted():
                        break
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
            except ServerError as error:
                if not self._interactive:
                    raise
                self.note(f"[{error}]")
                return
            finally:
                pieces.close()
        self._out.write("\n")
        self._out.flush()
        if self._interactive and self.session.finish_reason == "length":
            self.note(f"[cut at {self.session.max_tokens} tokens: /set max_tokens NUMBER]")
        self._warn_about_length()

    def _shown(self, text: str) -> str:
        text = _MARKER.sub(lambda found: _SHOWN[found[0]], text)
        return printable(text) if self._interactive else text

    def _warn_about_length(self) -> None:
        if not self._warned and (warning := self.session.warning):
            self._warned = True
            self.note(f"[{warning}]")

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            self.note(f"unknown command /{name}{did_you_mean(name, COMMANDS)}")
            return
        try:
            command(self, rest.strip())
        except (ValueError, OSError) as error:
            self.note(f"/{name}: {error}")

    def help(self, rest: str) -> None:
        """/help: show this."""
        self.note("\n".join(str(command.__doc__) for command in COMMANDS.values()))
        self.note("A message that begins with / is written with //.")

    def clear(self, rest: str) -> None:
        """/clear: start a new conversation."""
        self.session.clear()
        self._warned = False
        self.note("A new conversation.")

    def undo(self, rest: str) -> None:
        """/undo: remove your last message and its answer."""
        self.note(f"Removed: {self.session.undo()}")

    def retry(self, rest: str) -> None:
        """/retry: answer your last message again."""
        self._show(self.session.retry())

    def save(self, rest: str) -> None:
        """/save FILE: write the conversation as a line of JSON, as `mlx-gpt sft` reads it."""
        line = json.dumps(self.session.conversation(), ensure_ascii=False) + "\n"
        write_atomic(_path(rest), lambda path: path.write_text(line, encoding="utf-8"))
        self.note(f"Saved {len(self.session.turns)} turns to {_path(rest)}.")

    def load(self, rest: str) -> None:
        """/load FILE: continue a saved conversation."""
        try:
            self.session.load(json.loads(_path(rest).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{rest} is not one conversation in JSON: {error}") from None
        self.note(f"{self.session.size}.")

    def set(self, rest: str) -> None:
        """/set NAME VALUE: change a setting; /set alone shows all."""
        settings = self.session.settings
        name, _, value = rest.partition(" ")
        if name and name not in settings:
            raise ValueError(f"no setting {name!r}{did_you_mean(name, settings)}")
        if name:
            self.session.change(name, _number(name, value.strip()))
        self.note("  ".join(f"{name} {value}" for name, value in self.session.settings.items()))

    def stats(self, rest: str) -> None:
        """/stats: show the length of the conversation and the speed of the last answer."""
        self.note(self.session.status)

    def quit(self, rest: str) -> None:
        """/quit: leave."""
        self._left = True


COMMANDS: dict[str, Callable[[ChatTerminal, str], None]] = {
    "help": ChatTerminal.help,
    "clear": ChatTerminal.clear,
    "undo": ChatTerminal.undo,
    "retry": ChatTerminal.retry,
    "save": ChatTerminal.save,
    "load": ChatTerminal.load,
    "set": ChatTerminal.set,
    "stats": ChatTerminal.stats,
    "quit": ChatTerminal.quit,
}


@contextmanager
def line_history(path: Path) -> Iterator[None]:
    """Let `input` edit lines, and keep them in a file that only its owner can read."""
    try:
        import readline
    except ImportError:  # on Windows
        yield
        return
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LINES)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


@contextmanager
def _interrupts(is_wanted: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; a second one interrupts at once.

    The caller stops between two tokens, where the cache is complete for the next turn.
    """
    asked = threading.Event()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _path(text: str) -> Path:
    if not text:
        raise ValueError("give the name of a file")
    return Path(text).expanduser()


def _number(name: str, text: str) -> float | int | None:
    whole = name in ("top_k", "max_tokens", "seed")
    if name == "seed" and text == "none":
        return None
    try:
        return int(text) if whole else float(text)
    except ValueError:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} must be a {kind}, got {text!r}") from None
