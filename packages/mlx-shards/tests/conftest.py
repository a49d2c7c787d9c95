import hashlib
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlx_shards import Cache, Http, Shard
from mlx_shards.sync import Stop


def _pieces(data: bytes, size: int = 1000) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


class FaultServer:
    """Serves bytes by path on the loopback, and misbehaves as told, once a fault."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.bytes_sent = 0
        self.ranges = True
        self.etags = True
        self.lengths = True
        self.chunked = False
        self.gate = None  # called before each body
        self._faults: dict[str, list[tuple]] = {}
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass  # a client that hung up, as some tests do

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def add(self, path: str, data: bytes, **known) -> Shard:
        """Serve `data`; return its shard, with what is to be known of it."""
        self.files["/" + path] = data
        return Shard(path, f"{self.url}/{path}", **known)

    def fault(self, path: str, *faults: tuple) -> None:
        """Misbehave so in the next requests of `path`, one fault a request."""
        self._faults.setdefault("/" + path, []).extend(faults)

    def requests_of(self, path: str) -> list[str | None]:
        return [byte_range for asked, byte_range in self.requests if asked == "/" + path]

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((path, handler.headers.get("Range")))
        faults = self._faults.get(path)
        kind, *values = faults.pop(0) if faults else ("none",)
        if kind == "status" or path not in self.files:
            handler.send_response(values[0] if values else 404)
            for name, value in (values[1] if len(values) > 1 else {}).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        data = self.files[path]
        if kind == "wrong":
            data = bytes(len(data))
        start = self._start(handler, data)
        if start is not None and start >= len(data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(data)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200 if start is None else 206)
        if start is not None:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.send_header("Content-Range", span)
        if self.etags:
            handler.send_header("ETag", self._etag(self.files[path]))
        for name, value in self.headers.get(path, {}).items():
            handler.send_header(name, value)
        body = data[start or 0 :]
        if self.chunked:
            handler.protocol_version = "HTTP/1.1"
            handler.send_header("Transfer-Encoding", "chunked")
            handler.send_header("Connection", "close")
            handler.close_connection = True
            body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in _pieces(body))
            body += b"0\r\n\r\n"
        elif self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.gate:
            self.gate(path)
        if kind in ("truncate", "reset", "stall"):
            body = body[: values[0]]
        handler.wfile.write(body)
        self.bytes_sent += len(body)
        if kind == "stall":
            handler.wfile.flush()
            self._end.wait()
        if kind == "reset":
            handler.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # closing then sends RST
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            handler.connection.close()

    def _start(self, handler, data: bytes) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        condition = handler.headers.get("If-Range")
        if not match or not self.ranges:
            return None
        if condition is not None and condition != self._etag(data):
            return None
        return int(match[1])

    def _etag(self, data: bytes) -> str:
        return f'"{hashlib.md5(data).hexdigest()}"'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    running = FaultServer()
    yield running
    running.close()


@pytest.fixture
def waits():
    """The seconds that requests were to wait, which `quick` records instead of waiting."""
    return []


@pytest.fixture
def quick(waits):
    """Http that never waits between requests, and draws the longest jitter."""

    def wait(seconds, stop):
        stop.check()
        waits.append(seconds)

    return Http(timeout=600, sleep=wait, jitter=lambda: 1.0)


@pytest.fixture
def cache(tmp_path, quick):
    """Return a cache that never waits between requests."""
    return Cache(tmp_path / "cache", "1MB", http=quick)


@pytest.fixture
def fetch_ahead():
    """Return a function that downloads a shard ahead; None where there is no room."""

    def fetch(cache, shard):
        download = cache.claim_ahead(shard)
        return download(Stop()) if download else None

    return fetch


@pytest.fixture
def exactly():
    """Return a function that makes the pattern which matches one whole message."""
    return lambda message: f"^{re.escape(message)}$"


@pytest.fixture
def documents():
    """Return a function that makes texts, each beginning with its number, of mixed lengths."""

    def make(count: int, seed: int = 0, longest: int = 90) -> list[str]:
        random = np.random.default_rng(seed)
        lengths = random.integers(0, longest, count)
        letters = np.array(list("abcdefgh "))
        return [f"{i}:{''.join(letters[random.integers(0, 9, n)])}" for i, n in enumerate(lengths)]

    return make


@pytest.fixture
def parquet():
    """Return a function that writes texts to a parquet file in row groups."""

    def write(path, texts, group=16, column="text"):
        pq.write_table(pa.table({column: texts}), path, row_group_size=group)
        return path

    return write


@pytest.fixture
def folder_of(tmp_path, documents, parquet):
    """Return a function that makes a folder of parquet shards; and the texts of each shard."""

    def make(*counts: int, group: int = 16, name: str = "data", longest: int = 90):
        folder = tmp_path / name
        folder.mkdir()
        texts = [
            [f"{i}/{text}" for text in documents(count, seed=i, longest=longest)]
            for i, count in enumerate(counts)
        ]
        for i, some in enumerate(texts):
            parquet(folder / f"shard_{i:05d}.parquet", some, group)
        return folder, texts

    return make


@pytest.fixture
def tokenize():
    """One token per byte, from 1 on, so that 0 is free for BOS."""
    return lambda texts: [[1 + byte for byte in text.encode()] for text in texts]


@pytest.fixture
def texts_in():
    """Return a function that gives back the texts in rows of tokens made by `tokenize`."""

    def split(rows) -> list[str]:
        tokens = [int(token) for row in rows for token in row]
        joined = "".join("\n" if token == 0 else chr(token - 1) for token in tokens)
        return joined.split("\n")

    return split
