"""Users and passwords of proxies and URLs are sent to whom they are for, and shown to nobody."""

import base64
import gc
import socket
import ssl
import subprocess
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlx_shards import Cache, DownloadError, Shard

LOGIN = "Basic " + base64.b64encode(b"me:s@cret").decode()


class Proxy:
    """Records what it is asked and relays CONNECT to one address."""

    def __init__(self, target: tuple[str, int] | None, status: int = 200):
        self.asked: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self):
                login = self.headers.get("Proxy-Authorization")
                outer.asked.append((self.command, self.path, login))
                self.send_response(status)
                self.end_headers()
                if status == 200 and target:
                    with socket.create_connection(target) as there:
                        relay(self.connection, there)
                self.close_connection = True

            def do_GET(self):
                self.do_CONNECT()
                self.wfile.write(b"through")

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def relay(one, other):
    def copy(source, target):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join()


@pytest.fixture
def proxy():
    running = []

    def start(*arguments) -> Proxy:
        running.append(Proxy(*arguments))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def secure(server, tmp_path, monkeypatch):
    """Make the server speak TLS for `localhost`, with a certificate that is trusted here."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run(
            [*command.split(), *files], cwd=tmp_path, check=True, capture_output=True, timeout=600
        )
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listening = server._server
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    return server


@pytest.fixture
def seen(server):
    """The headers that reach the server itself."""
    found, answer = [], server.answer
    server.answer = lambda handler: (found.append(handler.headers), answer(handler))
    return found


def fetched(folder, http, location: str) -> bytes:
    with Cache(folder, "1MB", http=http).lease(Shard("a.bin", location)) as lease:
        return lease.path.read_bytes()


def test_an_http_proxy_gets_the_login_of_its_url(proxy, tmp_path, quick, monkeypatch):
    one = proxy(None)
    monkeypatch.setenv("http_proxy", f"http://me:s%40cret@{one.host}")
    shard = Shard("a.bin", "http://far.invalid/a.bin?x=1", size=len(b"through"))
    with Cache(tmp_path, "1MB", http=quick).lease(shard) as lease:
        assert lease.path.read_bytes() == b"through"
    assert one.asked == [("GET", "http://far.invalid/a.bin?x=1", LOGIN)]


def test_an_https_proxy_gets_the_login_with_connect_and_the_server_never(
    proxy, secure, seen, tmp_path, quick, monkeypatch
):
    secure.add("a.bin", b"secret bytes")
    port = secure._server.server_port
    one = proxy(("127.0.0.1", port))
    monkeypatch.setenv("https_proxy", f"me:s%40cret@{one.host}")  # the scheme may be missing
    assert fetched(tmp_path / "c", quick, f"https://localhost:{port}/a.bin") == b"secret bytes"
    assert one.asked == [("CONNECT", f"localhost:{port}", LOGIN)]
    assert [each["Proxy-Authorization"] for each in seen] == [None]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_login_is_named_at_once(
    proxy, scheme, tmp_path, quick, monkeypatch, exactly, waits
):
    monkeypatch.setenv(f"{scheme}_proxy", f"http://{proxy(None, 407).host}")
    message = (
        f"{scheme}://far.invalid/a.bin: the proxy answered with status 407; it needs "
        "http_proxy=http://user:password@host:port (https_proxy for https URLs)"
    )
    with pytest.raises(DownloadError, match=exactly(message)) as caught:
        fetched(tmp_path, quick, f"{scheme}://far.invalid/a.bin")
    assert caught.value.status == 407
    assert waits == []
    del caught
    with warnings.catch_warnings():
        # Up to Python 3.11.2, http.client leaves the answer to a refused CONNECT open.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("proxy", ["socks5://me:secret@host:1", "http://me:secret@host:x"])
def test_a_proxy_of_another_kind_is_refused_without_showing_its_password(
    proxy, tmp_path, quick, monkeypatch, exactly
):
    monkeypatch.setenv("http_proxy", proxy)
    message = (
        f"http_proxy is {proxy.replace('me:secret@', '')!r}: expected http://host:port or "
        "http://user:password@host:port"
    )
    with pytest.raises(DownloadError, match=exactly(message)):
        fetched(tmp_path, quick, "http://far.invalid/a.bin")


def test_no_proxy_may_name_a_port(server, proxy, tmp_path, quick, monkeypatch):
    one = proxy(None)
    monkeypatch.setenv("http_proxy", f"http://{one.host}")
    monkeypatch.setenv("no_proxy", server.url.removeprefix("http://"))
    server.add("a.bin", b"direct")
    assert fetched(tmp_path, quick, f"{server.url}/a.bin") == b"direct"
    assert one.asked == []


def test_the_login_in_a_url_is_sent_to_its_host_and_neither_shown_nor_kept(
    server, seen, tmp_path, quick
):
    server.add("a.bin", b"mine")
    url = server.url.replace("://", "://me:s%40cret@")
    assert fetched(tmp_path, quick, f"{url}/a.bin") == b"mine"
    other = server.url.replace("127.0.0.1", "localhost")
    server.fault("b.bin", ("status", 302, {"Location": f"{other}/c.bin"}))
    with pytest.raises(DownloadError) as caught:
        fetched(tmp_path / "b", quick, f"{url}/b.bin")
    assert str(caught.value) == f"{server.url}/b.bin: the server answered with status 404"
    assert [each["Authorization"] for each in seen] == [LOGIN, LOGIN, None]
    records = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"cret" in each for each in records)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h:abc/a", "http://h:abc/a: Port could not be cast to integer value as 'abc'"),
        ("http:///a", "http:///a: only http:// and https:// of a host can be downloaded"),
    ],
)
def test_a_wrong_url_is_named_at_once(url, message, tmp_path, quick, exactly, waits):
    with pytest.raises(DownloadError, match=exactly(message)):
        fetched(tmp_path, quick, url)
    assert waits == []


def test_letters_beyond_ascii_and_spaces_in_urls_are_encoded(server, tmp_path, quick):
    server.files["/%C3%A9%20%20.bin"] = b"mine"
    assert fetched(tmp_path, quick, f"{server.url}/é %20.bin") == b"mine"
