"""A soak of one server: good, malformed and cancelled requests, and what they leave behind."""

import hashlib
import http.client
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.processes import Process

CLIENTS = 8
_IDLE_SECONDS = 1.0
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip

# Path and body of requests that are answered.
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HELLO}),
    "stream": (CHAT, {"messages": HELLO, "stream": True}),
    "usage": (CHAT, {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}),
    "empty options": (CHAT, {"messages": HELLO, "stream": True, "stream_options": {}}),
    "nulls": (CHAT, {"messages": HELLO, "temperature": None, "top_p": None, "stop": None,
                     "stream": None}),
    "two answers": (CHAT, {"messages": HELLO, "n": 2, "temperature": 1}),
    "log-probabilities": (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 3}),
    "stop": (TEXT, {"prompt": "a b", "stop": ["chard", "e"]}),
    "two prompts": (TEXT, {"prompt": ["a", "b"]}),
    "token ids": (TEXT, {"prompt": [5, 6, 7]}),
    "no text": (TEXT, {"prompt": ""}),
    "seed": (TEXT, {"prompt": "a", "seed": 3, "temperature": 1}),
    "penalties": (TEXT, {"prompt": "a", "presence_penalty": 1, "frequency_penalty": 1,
                         "logit_bias": {"5": -100}}),
    "schema": (CHAT, {"messages": HELLO, "response_format": {
        "type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}),
    "long prompt": (TEXT, {"prompt": "word and more " * 60}),
}  # fmt: skip

# Requests that are refused with 4xx: a body that is sent as it is, or an object.
MALFORMED: dict[str, tuple[str, Any]] = {
    "half of JSON": (CHAT, b'{"messages": ['), "no UTF-8": (CHAT, b'{"messages": "\xff"}'),
    "a list": (CHAT, []), "no messages": (CHAT, {}), "messages a text": (CHAT, {"messages": "hi"}),
    "unknown role": (CHAT, {"messages": [{"role": "king", "content": "a"}]}),
    "a number as text": (CHAT, {"messages": HELLO, "max_tokens": "5"}),
    "a bool as number": (CHAT, {"messages": HELLO, "max_tokens": True}),
    "negative": (CHAT, {"messages": HELLO, "temperature": -1}),
    "unknown model": (CHAT, {"messages": HELLO, "model": "/etc/passwd"}),
    "id out of range": (TEXT, {"prompt": "a", "logit_bias": {"99999999": 1}}),
    "stop a number": (TEXT, {"prompt": "a", "stop": 5}),
    "unknown format": (CHAT, {"messages": HELLO, "response_format": {"type": "xml"}}),
    "bad schema": (CHAT, {"messages": HELLO, "response_format": {
        "type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}}),
    "too long": (TEXT, {"prompt": "word " * 20_000}), "too large": (TEXT, {"prompt": "w" * 2**21}),
    "ids too large": (TEXT, {"prompt": [2**40]}), "no route": ("/v1/embeddings", {"input": "a"}),
}  # fmt: skip
CANCELLED = ("first piece", "before the answer", "half a body")


def soak(start: Callable[[], Process], model: Path, count: int) -> dict[str, Any]:
    """Return what `count` requests and 100 disconnects did to a server, and a kill to its files."""
    before = _hashes(model)
    with start() as process:
        _run(process, max(60, count // 4), seed=1)  # what the server keeps, it has now
        counts: Counter[str] = Counter()
        vitals = [_vitals(process)]
        for number in range(4):
            counts += _run(process, count // 4, seed=2 + number)
            vitals.append(_vitals(process))
        for number in range(100):
            _cancel(process, CANCELLED[number % 2], random.Random(number))
        idle = _seconds_until_idle(process)
        vitals.append(_vitals(process))
        active = metrics(process)["mlx_gpt_active"]
        begin = time.perf_counter()
        _expect(process, CHAT, {"messages": HELLO, "max_tokens": 8}, 200, "after all")
        alone = time.perf_counter() - begin
        killed = _kill_under_load(process)
    with start() as process:
        _expect(process, CHAT, {"messages": HELLO, "max_tokens": 8}, 200, "after a restart")
    return {
        "requests": count, "counts": dict(counts), "vitals": vitals, "active_after": active,
        "idle_seconds": idle, "last_answer_seconds": alone, "cut_by_kill": killed,
        "files_kept": _hashes(model) == before,
    }  # fmt: skip


def _vitals(process: Process) -> dict[str, float]:
    kept = metrics(process)["mlx_gpt_prefix_bytes"] / 2**20
    return {**process.vitals(), "prefix cache": kept}


def metrics(process: Process) -> dict[str, float]:
    """Return the numbers without labels of /metrics."""
    with _connect(process) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def _run(process: Process, count: int, seed: int) -> Counter[str]:
    """Send requests of all kinds by several clients; raise if one is not answered as it should."""
    kinds = [*(("good", name) for name in GOOD), *(("malformed", name) for name in MALFORMED),
             *(("cancelled", name) for name in CANCELLED)]  # fmt: skip
    drawn = random.Random(seed)
    left = iter(drawn.choices(kinds, k=count))
    counts: Counter[str] = Counter()
    errors: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        own = random.Random(seed * 100 + number)
        while True:
            with lock:
                kind, name = next(left, ("", ""))
            if not kind or errors:
                return
            try:
                _send(process, kind, name, own)
            except (AssertionError, OSError, http.client.HTTPException) as error:
                errors.append(f"{kind}, {name}: {error or type(error).__name__}")
                return
            with lock:
                counts[kind] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise RuntimeError(errors[0])
    _seconds_until_idle(process)
    return counts


def _send(process: Process, kind: str, name: str, drawn: random.Random) -> None:
    if kind == "cancelled":
        _cancel(process, name, drawn)
        return
    path, body = (GOOD if kind == "good" else MALFORMED)[name]
    if kind == "good":
        body = {"max_tokens": drawn.randint(1, 12), **body}
    _expect(process, path, body, 200 if kind == "good" else 400, name)


def _expect(process: Process, path: str, body: Any, status: int, name: str) -> None:
    """Send a request; any other 4xx is as good as 400, if it has OpenAI's form."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with _connect(process) as connection:
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    if status == 200:
        assert response.status == 200, f"{name}: {response.status} {answer[:200]!r}"
        assert b"error" not in answer[:20], answer[:200]
        if isinstance(body, dict) and body.get("stream"):
            assert answer.endswith(b"data: [DONE]\n\n"), answer[-200:]
        return
    assert 400 <= response.status < 500, f"{name}: {response.status} {answer[:200]!r}"
    assert isinstance(json.loads(answer)["error"]["message"], str), answer[:200]


def _cancel(process: Process, name: str, drawn: random.Random) -> None:
    """Go away: after some pieces of an answer, before the first, or in the middle of the body."""
    body = json.dumps({"messages": HELLO, "stream": True, "max_tokens": 400}).encode()
    parts = urlsplit(process.server.url)
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()  # fmt: skip
    with socket.create_connection((parts.hostname, parts.port), timeout=120) as connection:
        if name == "half a body":
            connection.sendall(head + body[:20])
            return
        connection.sendall(head + body)
        if name == "first piece":
            for _ in range(drawn.randint(1, 4)):
                connection.recv(4096)


def _kill_under_load(process: Process) -> int:
    """Kill the server while it answers; return how many answers were cut."""
    cut = []

    def ask() -> None:
        try:
            body = {"messages": HELLO, "max_tokens": 400, "stream": True}
            _expect(process, CHAT, body, 200, "killed")
        except (AssertionError, OSError, http.client.HTTPException):
            cut.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    while metrics(process)["mlx_gpt_active"] < len(threads):
        time.sleep(0.02)
    process.process.kill()
    for each in threads:
        each.join()
    return len(cut)


def _seconds_until_idle(process: Process) -> float:
    """Return when the last request ended; a request may come after its client has gone."""
    begin = busy = time.perf_counter()
    while (now := time.perf_counter()) - busy < _IDLE_SECONDS:
        found = metrics(process)
        if found["mlx_gpt_active"] or found["mlx_gpt_queued"]:
            busy = now
        if now - begin > 120:
            raise RuntimeError(f"still active after 120 s: {found['mlx_gpt_active']}")
        time.sleep(0.02)
    return busy - begin


@contextmanager
def _connect(process: Process) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(process.server.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=300)
    try:
        yield connection
    finally:
        connection.close()


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.iterdir() if path.is_file()}  # fmt: skip
