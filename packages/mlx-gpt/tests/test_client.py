"""The client side of serving, against a server whose answers are written here."""

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.image
import pytest
from click.testing import CliRunner, Result

from mlx_gpt.cli import cli
from mlx_gpt.commands.terminal import ChatTerminal
from mlx_gpt.serve.client import Server, ServerError
from mlx_gpt.serve.load import percentiles, read_bodies
from mlx_gpt.serve.remote_session import RemoteSession

MODELS = {"object": "list", "data": [{"id": "tiny"}, {"id": "tiny:poems"}]}


class Scripted(ThreadingHTTPServer):
    """Answers each POST with the next of `answers`; the last one again and again.

    An answer is a status with a body, or the pieces of a text to stream, in which None ends it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: list = [["Hello", " there"]]
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.reply(200, MODELS) if self.path == "/v1/models" else self.reply(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body | {"path": self.path})
        self.server.keys.append(self.headers["Authorization"])
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, tuple):
            self.reply(*answer)
        else:
            self.stream(answer)

    def reply(self, status: int, body: object, headers: dict | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, pieces: list) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                if piece is None:
                    return
                if isinstance(piece, bytes):
                    self.write(piece)
                else:
                    self.send(piece if isinstance(piece, dict) else chunk({"content": piece}))
            self.send(chunk({}, "stop"))
            usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 9}
            self.send({"choices": [], "usage": usage})
            self.write(b": a comment\n\ndata: [DONE]\n\n")
            self.write(b"")
        except OSError:
            self.server.closed.set()
        self.close_connection = True

    def send(self, event: dict) -> None:
        self.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def chunk(delta: dict, reason: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def say(server: Scripted, *lines: str, interactive: bool = True, **settings) -> tuple[str, str]:
    """Return what a terminal wrote: answers, notes."""
    out, notes, left = io.StringIO(), io.StringIO(), list(lines)

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    sampling = {"temperature": None, "seed": None, "top_k": None} | settings
    session = RemoteSession(Server(server.url), "tiny", sampling, 5, "Be brief.")
    ChatTerminal(session, read, out, notes, interactive).run()
    return out.getvalue(), notes.getvalue()


def test_a_chat_sends_the_whole_conversation_and_what_is_set(server: Scripted):
    answers, notes = say(
        server, "Hi", "/set temperature 0.5", "/set top_k 3", "Again", "/stats", seed=4
    )
    assert answers == "Hello there\nHello there\n"
    first, second = server.asked
    assert first == {
        "path": "/v1/chat/completions", "model": "tiny", "stream": True, "max_tokens": 5,
        "seed": 4, "stream_options": {"include_usage": True}, "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }  # fmt: skip
    assert [each["content"] for each in second["messages"]] == [
        "Be brief.", "Hi", "Hello there", "Again"
    ]  # fmt: skip
    assert (second["temperature"], second["top_k"], second["seed"]) == (0.5, 3, 5)
    assert "temperature 0.5  seed 4  top_k 3  max_tokens 5" in notes
    assert f"2 turns, 9 tokens, tiny at {server.url}" in notes
    assert "last answer: 2 tokens, the first after " in notes


def test_turns_are_taken_back_answered_again_saved_and_loaded(server: Scripted, tmp_path: Path):
    server.answers = [["One"], ["Two"], ["Three"], ["Four"]]
    file = tmp_path / "chat.jsonl"
    answers, notes = say(
        server,
        "A",
        "B",
        "/undo",
        "/retry",
        f"/save {file}",
        "/clear",
        "/undo",
        f"/load {file}",
        "C",
    )
    assert answers.split() == ["One", "Two", "Three", "Four"]
    assert "Removed: B" in notes
    assert "/undo: nothing has been said yet" in notes
    assert "1 turns." in notes
    assert [each["content"] for each in server.asked[-1]["messages"]] == [
        "Be brief.", "A", "Three", "C"
    ]  # fmt: skip
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "alone"}]}))
    assert "must be turns of user and assistant" in say(server, f"/load {file}")[1]


def test_an_error_in_a_terminal_is_a_note_and_leaves_the_conversation(server: Scripted):
    busy = (429, {"error": {"message": "64 wait"}}, {"Retry-After": "3"})
    server.answers = [["One"], busy, busy, ["Two"]]
    answers, notes = say(server, "A", "B", "/retry", "C")
    assert answers.split() == ["One", "Two"]
    assert notes.count(f"[{server.url} is busy; try again in 3 s: 64 wait]") == 2
    assert [each["content"] for each in server.asked[-1]["messages"]] == [
        "Be brief.",
        "A",
        "One",
        "C",
    ]


def test_a_closed_answer_closes_the_connection_and_is_kept(server: Scripted):
    server.answers = [["word "] * 100_000]
    session = RemoteSession(Server(server.url), "tiny", {})
    pieces = session.ask("Hi")
    begin = next(pieces).text + next(pieces).text
    pieces.close()
    assert server.closed.wait(60)
    assert session.turns[0].answer == begin == "word word "


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ((401, {"error": {"message": "no key"}}), 401,
         "URL wants an API key; name the environment variable that holds it by --api-key-env: "
         "no key"),
        ((404, {"error": {"message": "there is no model 'm' here"}}), 404,
         "URL has no model 'm': there is no model 'm' here"),
        ((429, {"error": "full"}), 429, "URL is busy; try again: full"),
        ((400, {"error": {"message": "two\n lines"}}), 400, "URL refused the request: two lines"),
        ((502, b"<html>"), 502, "URL refused the request: Bad Gateway"),
        ((200, {}), 200, "URL does not stream its answer"),
        (["a", None], 0, "URL ended the answer in the middle"),
        (["a", b"data: {", None], 0, "URL ended the answer in the middle"),
        (["a", b"data: []\n", None], 0, "URL answered what is no JSON object: '[]'"),
        (["a", {"error": {"message": "broken"}}], 500, "the server stopped the answer: broken"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(server: Scripted, answer, status: int, message: str):
    server.answers = [answer]
    with pytest.raises(ServerError) as caught:
        list(Server(server.url).stream("/chat/completions", {"model": "m"}))
    assert caught.value.status == status
    assert str(caught.value).replace(server.url, "URL") == message


def test_a_server_that_does_not_answer_is_an_error(nowhere: str):
    with pytest.raises(ServerError, match=r"no server answers at .* is it running"):
        Server(nowhere).models()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match=f"{url} sent nothing for 0.05 s"):
            Server(url, timeout=0.05).models()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://a", "http://", "http://a:b", "http://a?b"]
)
def test_what_is_no_url_is_refused(url: str):
    with pytest.raises(ValueError, match="expected a URL such as http://127"):
        Server(url)


def test_a_key_is_sent_and_never_shown(server: Scripted):
    found = Server(f"{server.url}/v1/", "secret")
    assert found.models() == ["tiny", "tiny:poems"]
    assert server.keys == ["Bearer secret"]
    assert "secret" not in repr(found)
    with pytest.raises(ValueError, match="characters that no header may have"):
        Server(server.url, "a\r\nb")


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=text)


def test_the_chat_command_talks_with_the_servers_first_model(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("THE_KEY", " secret\n")
    done = invoke("chat", "--url", server.url, "--api-key-env", "THE_KEY", text="Hi\nAgain\n")
    assert (done.exit_code, done.stdout) == (0, "Hello there\nHello there\n")
    assert done.stderr == "model tiny, of tiny, tiny:poems\n"
    assert server.keys == ["Bearer secret"] * 3
    assert server.asked[0]["max_tokens"] == 512
    assert "temperature" not in server.asked[0]


def test_options_that_do_not_go_with_a_server_are_refused(server: Scripted, tmp_path: Path):
    for arguments, message in [
        (["--url", server.url, "--ngram", "3"], "--ngram: not with --url; the server decides"),
        (["--url", server.url, "--api-key-env", "NO_SUCH"], "NO_SUCH is not set"),
        (["--url", "nonsense"], "expected a URL"),
        (["--model", str(tmp_path), "--api-key-env", "A"], "--api-key-env is for --url"),
        (["--model", str(tmp_path / "none")], "does not exist"),
        ([], "Missing option '--model', a folder, or '--url'"),
    ]:
        done = invoke("chat", "--prompt", "Hi", *arguments)
        assert done.exit_code in (1, 2)
        assert message in done.stderr + str(done.exception)


def test_a_load_test_counts_what_was_answered(server: Scripted, tmp_path: Path):
    figure = tmp_path / "load.png"
    arguments = ["bench-serve", "--url", server.url, "--requests", "6", "--prompt-words", "3,5"]
    done = invoke(*arguments, "--clients", "3", "--max-tokens", "4", "--ignore-eos", "--json",
                  "--body", '{"temperature": 0}', "--plot", str(figure))  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["requests"], found["failed"], found["errors"]) == (6, 0, {})
    assert (found["tokens"], found["prompt_tokens"]) == (12, 42)
    assert found["tokens_per_second"] == pytest.approx(12 / found["seconds"])
    times = found["first_token"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
    assert len(server.asked) == 7  # one to warm up
    sent = server.asked[-1]
    assert (sent["temperature"], sent["ignore_eos"], sent["max_tokens"]) == (0, True, 4)
    lengths = {len(each["messages"][0]["content"].split()) for each in server.asked}
    assert lengths <= {3, 5}
    assert matplotlib.image.imread(figure).shape[2] == 4
    texts = {each["messages"][0]["content"] for each in server.asked[1:]}
    assert len(texts) == 6


def test_a_load_test_at_random_times_reads_requests_from_a_file(server: Scripted, tmp_path: Path):
    rows = [{"prompt": "Hi", "max_tokens": 2}, {"messages": [{"role": "user", "content": "You"}]},
            {"words": 4}]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = invoke("bench-serve", "--url", server.url, "--rate", "500", "--prompts", str(file),
                  "--warmup", "0", "--model", "other")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 of 3 requests in " in done.output
    by_size = sorted(server.asked, key=lambda each: len(each["messages"][0]["content"]))
    assert [each["max_tokens"] for each in by_size] == [2, 64, 64]
    assert {each["model"] for each in by_size} == {"other"}
    for line in ("{}", "[1]", '{"words": "x"}', "no"):
        file.write_text("\n" + line)
        with pytest.raises(ValueError, match=r"rows.jsonl:2: expected an object with prompt"):
            read_bodies(file, True, 4, 0)


def test_a_load_test_with_failed_requests_exits_with_1(server: Scripted):
    server.answers = [["a"], (429, {"error": {"message": "full"}}), ["b", None], ["a"]]
    done = invoke("bench-serve", "--url", server.url, "--requests", "4", "--warmup", "0",
                  "--completions", "--model", "m")  # fmt: skip
    assert done.exit_code == 1
    assert "2 of 4 requests in " in done.output
    assert "error 429, 1 times: " in done.output
    assert "error connection, 1 times: http" in done.output
    assert "2 of 4 requests failed; the first: " in done.stderr
    assert server.asked[0]["path"] == "/v1/completions"
    assert isinstance(server.asked[0]["prompt"], str)


def test_options_of_a_load_test_that_exclude_each_other_are_refused(tmp_path: Path):
    common = ("bench-serve", "--url", "http://127.0.0.1:9")
    (tmp_path / "rows").write_text('{"words": 1}')
    for more, message in [
        (("--rate", "1", "--clients", "2"), "--rate and --clients exclude each other"),
        (("--prompts", str(tmp_path / "rows"), "--prompt-words", "2"), "--prompt-words exclude"),
        (("--body", "[]"), "--body must be a JSON object, got '[]'"),
        (("--prompt-words", "0"), "expected numbers of 1 or more"),
    ]:
        done = invoke(*common, *more)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_percentiles_are_values_that_were_measured():
    values = [float(each) for each in range(1, 201)]
    assert percentiles(values) == {"p50": 100, "p95": 190, "p99": 198, "max": 200}
    assert percentiles([3.0]) == {"p50": 3, "p95": 3, "p99": 3, "max": 3}
    assert percentiles([]) == {}


def test_the_client_needs_no_library_of_the_server(run_python: Callable[[str], str]):
    heavy = run_python(
        "import sys, mlx_gpt.serve.remote_session, mlx_gpt.serve.load, mlx_gpt.commands.terminal\n"
        "print(*{each.split('.')[0] for each in sys.modules})"
    ).split()
    assert not set(heavy) & {"mlx", "numpy", "fastapi", "pydantic", "httpx", "llguidance"}


@pytest.fixture
def run_python() -> Callable[[str], str]:
    import subprocess
    import sys

    def run(script: str) -> str:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
