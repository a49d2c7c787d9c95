"""How requests and servers end: clients that leave, drains, kills, and engines that die."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import mlx.core as mx
import pytest
from click.testing import CliRunner
from serving import (
    MESSAGES,
    PATIENCE,
    loader,
    read_until,
    serving,
    wait_until,
    write_long,
)

from mlx_gpt.cli import cli, main
from mlx_gpt.engine.engine import Engine
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.llama import Llama
from mlx_gpt.serve.server import EngineDied, listen
from mlx_gpt.serve.settings import (
    ServeAnswers,
    ServedModel,
    ServeNetwork,
    ServeSettings,
    parse_size,
)
from mlx_gpt.serve.startup import start_scheduler

CHAT = "/v1/chat/completions"


@pytest.fixture
def long_folder(llama_folder: str, tmp_path: Path) -> str:
    return write_long(llama_folder, tmp_path / "long")


class Faulty(Llama):
    """Raises in so many calls as `_faults` says."""

    _faults = 0

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        if self._faults:
            self._faults -= 1
            raise RuntimeError("a secret of the prompt")
        return super().hidden_states(ids, cache, segments)


@pytest.fixture
def faulty(long_folder: str) -> tuple[list[Faulty], object]:
    """Give the list of the models that a function loads, and that function."""
    models: list[Faulty] = []

    def load() -> Engine:
        engine = loader(long_folder)()
        model = Faulty(engine.model.config)
        model.update(engine.model.parameters())
        models.append(model)
        engine.model = model
        return engine

    return models, load


def test_what_a_client_leaves_is_cancelled(long_folder):
    with serving(loader(long_folder), scheduler={"max_batch": 2}) as server:
        stats = server.scheduler.stats
        for _ in range(3):
            with (
                server.ask() as first,
                server.ask(stream=False, n=2) as second,  # one of them waits
                server.ask() as third,
            ):
                read_until(first, b'"content":')
                wait_until(lambda: stats().active + stats().queued == 4)
                first.close()
                second.close()
                third.close()
            wait_until(lambda: stats().active + stats().queued == 0)
        assert stats().finished == {"cancelled": 12}
        # Each of them would have had 4,000 tokens.
        assert stats().generated_tokens < 12_000
        assert server.is_good()


def test_a_client_that_does_not_read_is_cut(long_folder):
    limits = ServeNetwork(write_seconds=0.1)
    with serving(loader(long_folder), limits, send_buffer=4096) as server:
        host, port = urlsplit(server.url).netloc.split(":")
        body = json.dumps({"messages": MESSAGES, "stream": True, "ignore_eos": True, "n": 8})
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((host, int(port)))
            deaf.sendall((head + body).encode())
            wait_until(lambda: server.scheduler.stats().active == 8)
            wait_until(lambda: server.scheduler.stats().active == 0)
        assert server.scheduler.stats().finished == {"cancelled": 8}
        assert server.is_good()


def test_a_second_signal_ends_a_drain(long_folder):
    limits = ServeNetwork(drain_seconds=10**6)
    with serving(loader(long_folder), limits) as server, server.ask() as stream:
        read_until(stream, b'"content":')
        server.server.handle_exit(signal.SIGINT, None)
        assert server.client.get("/ready").status_code == 503
        server.server.handle_exit(signal.SIGINT, None)
        wait_until(lambda: not server.scheduler.alive)
    assert server.server.cut == 1


def test_a_failure_of_the_engine_ends_its_requests_alone(faulty):
    models, load = faulty
    with serving(load) as server:
        with server.ask() as stream:
            read_until(stream, b'"content":')
            models[0]._faults = 1
            assert b"secret" not in read_until(stream, b'"server_error"')
        assert server.is_good()
        models[0]._faults = 1
        answer = server.chat(max_tokens=2)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
        assert server.is_good()


def test_a_dead_engine_ends_the_server_with_an_error(faulty):
    models, load = faulty
    ended: list[BaseException] = []
    with serving(load, ended=ended) as server:
        models[0]._faults = 10**6
        assert server.chat(max_tokens=2).status_code == 500
        wait_until(lambda: bool(ended))
    assert isinstance(ended[0], EngineDied)
    assert "RuntimeError" in str(ended[0])


def test_a_drain_lets_answers_end_and_refuses_new_ones(long_folder):
    with serving(loader(long_folder)) as server, server.ask(max_tokens=300) as stream:
        read_until(stream, b'"content":')
        server.server.handle_exit(signal.SIGTERM, None)
        refused = server.chat(max_tokens=1)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "unavailable"
        assert server.client.get("/ready").status_code == 503
        assert server.client.get("/health").status_code == 200
        assert b"[DONE]" in read_until(stream, b"[DONE]")
    assert server.server.cut == 0


def test_answers_that_take_longer_than_a_drain_end_with_an_error(long_folder):
    with (
        serving(loader(long_folder), ServeNetwork(drain_seconds=0.1)) as server,
        server.ask() as stream,
        server.ask(stream=False) as whole,
    ):
        read_until(stream, b'"content":')
        wait_until(lambda: server.scheduler.stats().active == 2)
        server.server.handle_exit(signal.SIGTERM, None)
        assert b'"unavailable"' in read_until(stream, b'"error"')
        assert read_until(whole, b'"error"').startswith(b"HTTP/1.1 503")
    assert server.server.cut == 2


def test_an_answer_that_takes_too_long_is_cut(long_folder):
    with serving(loader(long_folder), answers=ServeAnswers(seconds=0.3)) as server:
        answer = server.chat(ignore_eos=True).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] < 3000


def start_server(start, folder: str, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command; return its process and the address that it prints."""
    command = [sys.executable, "-m", "mlx_gpt.cli", "serve", "--model", folder, "--json", *options]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = json.loads(process.stdout.readline())
    assert line["pid"] == process.pid
    return process, line["url"]


def test_a_server_that_was_killed_starts_again_and_stops_on_sigterm(long_folder, start):
    before = {path: path.read_bytes() for path in Path(long_folder).iterdir()}
    first, url = start_server(start, long_folder, "--port", "0")
    body = {"messages": MESSAGES, "stream": True, "ignore_eos": True}
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        with client.stream("POST", CHAT, json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            first.kill()
            with pytest.raises(httpx.HTTPError):
                for _ in lines:
                    pass
        assert first.wait() == -signal.SIGKILL
        second, again = start_server(start, long_folder, "--port", url.rpartition(":")[2])
        assert again == url
        with client.stream("POST", CHAT, json=body | {"max_tokens": 200}) as stream:
            lines = stream.iter_lines()
            next(lines)
            second.send_signal(signal.SIGTERM)
            assert [*lines][-2] == "data: [DONE]"
    _, log = second.communicate()
    assert second.returncode == 0
    assert "stopped; answers that were cut: 0" in log.splitlines()[-1]
    assert {path: path.read_bytes() for path in Path(long_folder).iterdir()} == before


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; return its exit code and what it prints."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        return (ended.value.code, *capfd.readouterr())

    return run


def test_a_dry_run_prints_the_settings(run, llama_folder, tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(f"model:\n  folder: {llama_folder}\nnetwork:\n  max_body: 5000\n")
    code, output, _ = run(
        "--config", str(file), "--prefix-cache", "2GiB", "--alias", "a", "--dry-run"
    )
    assert code == 0, output
    assert "prefix_cache: 2147483648" in output
    assert "max_body: 5000" in output


def test_wrong_usage_is_one_line_that_says_what_to_do(run, llama_folder, tmp_path, monkeypatch):
    model = ("--model", llama_folder)
    for arguments, words in (
        ((), "Missing option '--model'"),
        ((*model, "--host", "0.0.0.0"), "--no-key"),
        ((*model, "--adapter", f"x={tmp_path}/none"), "none is not a folder"),
        ((*model, "--adapter", "x"), "NAME=FOLDER"),
        ((*model, "--max-body", "lots"), "4096, 512KiB or 2GiB"),
        ((*model, "--alias", "a b"), "must be letters"),
        ((*model, "--set", "network.prot=1"), "port"),
        ((*model, "--draft-model", llama_folder, "--ngram", "3"), "exclude each other"),
    ):
        code, output, error = run(*arguments)
        assert (code, output) == (2, "")
        assert words in error.splitlines()[-1]
    monkeypatch.setenv("MLX_GPT_API_KEY", "a-secret")
    code, output, error = run(*model, "--host", "0.0.0.0", "--dry-run")
    assert code == 0
    assert "secret" not in output + error


def test_the_commands_of_clients_talk_with_this_server(long_folder):
    with serving(loader(long_folder)) as server:
        asked = ["chat", "--url", server.url, "--max-tokens", "8", "--temperature", "0"]
        chats = [CliRunner().invoke(cli, asked, input="Hi\nAgain\n") for _ in range(2)]
        assert chats[0].exit_code == 0, chats[0].stderr
        assert chats[0].stdout == chats[1].stdout
        assert chats[0].stderr == "model org/tiny\n"
        load = ["bench-serve", "--url", server.url, "--requests", "6", "--clients", "3",
                "--prompt-words", "5", "--max-tokens", "4", "--json"]  # fmt: skip
        done = CliRunner().invoke(cli, load)
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["requests"], found["failed"]) == (6, 0)
        assert set(found["between_tokens"]) >= {"p50", "p95", "p99"}


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="GPUs keep what they need")
def test_a_server_on_a_cpu_keeps_few_free_buffers(llama_folder):
    before = mx.set_cache_limit(1 << 30)
    try:
        scheduler = start_scheduler(ServeSettings(ServedModel(llama_folder)))
        scheduler.close()
    finally:
        found = mx.set_cache_limit(before)
    assert found == 256 << 20


def test_a_port_in_use_is_said_before_the_model_is_loaded(llama_folder):
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(ValueError, match=r"cannot listen on 127\.0\.0\.1, port .*in use"):
            listen("127.0.0.1", bound.getsockname()[1])


def test_without_the_extra_one_line_says_what_to_install(llama_folder):
    script = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more);"
        f"from mlx_gpt.cli import main; main(['serve', '--model', {llama_folder!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ("Error: mlx-gpt serve needs uvicorn: pip install 'mlx-gpt[serve]'\n")


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("512KiB", 1 << 19), ("1.5 GB", 3 << 29), ("2m", 2 << 20)]
)
def test_sizes_have_units_of_1024(text, size):
    assert parse_size(text) == size
