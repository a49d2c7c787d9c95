"""Servers of a tiny model for tests: in a thread of this process, or in a process of their own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.loading import EngineOptions, load_engine
from mlx_gpt.serve.app import create_app
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.serve.server import EngineDied, Server, address_of, listen
from mlx_gpt.serve.settings import ServedModel, ServeNetwork, ServeSettings

MESSAGES = [{"role": "user", "content": "How many r are in strawberry?"}]
PATIENCE = 300  # seconds, for a machine that is busy


class Running:
    """A server and a client of it."""

    def __init__(self, url: str, scheduler: Scheduler, server: Server, key: str | None = None):
        self.url, self.scheduler, self.server = url, scheduler, server
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, headers=headers)

    def chat(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})

    def complete(self, prompt: Any = "The quick", **body: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"prompt": prompt, **body})

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        """Return the chunks of a chat, after checking that [DONE] ends them."""
        return events(self.chat(stream=True, **body))

    @contextmanager
    def ask(self, **body: Any) -> Iterator[socket.socket]:
        """Send a chat to stream, which may take long; closing the socket is leaving."""
        host, port = urlsplit(self.url).netloc.split(":")
        content = json.dumps({"messages": MESSAGES, "stream": True, "ignore_eos": True, **body})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
            yield connection

    def is_good(self) -> bool:
        """Whether an ordinary request is answered."""
        answer = self.chat(max_tokens=1, temperature=0)
        return answer.status_code == 200 and len(answer.json()["choices"]) == 1


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """Read until some bytes have come; return all."""
    received = b""
    while wanted not in received:
        data = connection.recv(65536)
        assert data, received
        received += data
    return received


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def loader(folder: str | Path) -> Callable[[], Engine]:
    return lambda: load_engine(Path(folder), EngineOptions(), tools=False)


@contextmanager
def serving(
    load: Callable[[], Engine],
    network: ServeNetwork | None = None,
    keys: list[str] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    ended: list[BaseException] | None = None,
    send_buffer: int | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """Serve in a thread until the end of the block; `ended` gets what `Server.run` raises."""
    network = network or ServeNetwork()
    model = settings.pop("model", ServedModel("runs/tiny", "org/tiny", aliases=["small"]))
    chosen = ServeSettings(model, network=network, **settings)
    engine = Scheduler(load, **(scheduler or {}))
    engine.start()
    bound = listen("127.0.0.1", 0)
    if send_buffer:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    url, ready = address_of(bound), threading.Event()
    app = create_app(engine, chosen, keys=keys or ())
    server = Server(app, engine, network, ready.set)

    def run() -> None:
        try:
            server.run([bound])
        except EngineDied as error:
            assert ended is not None
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        running = Running(url, engine, server, keys[0] if keys else None)
        with running.client:
            yield running
    finally:
        server.should_exit = True
        thread.join()


def wait_until(claim: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    end = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def write_long(folder: str | Path, to: Path) -> str:
    """Copy a model folder, with a context in which answers take long."""
    to.mkdir()
    for file in Path(folder).iterdir():
        if file.is_file() and file.name != "manifest.json":
            (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (to / "config.json").write_text(json.dumps(config))
    return str(to)
