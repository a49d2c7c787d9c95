"""One HTTP request: redirects, proxies, interruptible reads, and the decoded body."""

import base64
import http.client
import re
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from mlx_shards.shard import DownloadError, strip_credentials
from mlx_shards.sync import Stop

PROXY_AUTHENTICATION = 407
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_CHUNK = 1 << 20  # bytes
_SECRET_HEADERS = ("authorization", "cookie")


class TransientError(Exception):
    """The connection failed, stalled or ended early, or the server was busy: a retry may help."""

    def __init__(self, message: str, status: int | None = None, retry_after: float = 0.0):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after  # seconds


@dataclass(frozen=True)
class Response:
    """An open response: `read(n)` returns at most `n` bytes, and b"" at its end."""

    url: str
    status: int
    headers: Message
    read: Callable[[int], bytes]

    @property
    def content_length(self) -> int | None:
        """The length of the body as sent, if the server states it."""
        length = self.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body marks its end, so that `read` fails if it is truncated."""
        return self.headers.get("Transfer-Encoding", "").strip().lower().endswith("chunked")


@contextmanager
def request(url: str, headers: Mapping[str, str], timeout: float, stop: Stop) -> Iterator[Response]:
    """Open `url` with GET and follow redirects; only the first host receives secret headers.

    Raises `TransientError` if a retry may help, `DownloadError` for a wrong URL or certificate.
    `timeout` (seconds) bounds connecting, and each wait for more bytes.
    """
    parts = _split(url)
    headers = {
        "Accept-Encoding": "identity",
        "User-Agent": "mlx-shards",
        **_credentials("Authorization", parts),
        **headers,
    }
    host = _host(parts)
    for _ in range(_MOST_REDIRECTS + 1):
        parts = _split(url)
        if _host(parts) != host:
            headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
        connection, target, proxy_headers = _connection(parts, timeout)
        shown = strip_credentials(url)
        with ExitStack() as closing:
            closing.callback(connection.close)
            with _network_errors(shown):
                stop.check()
                connection.connect()
            # http.client drops its reference to the socket if the response closes it.
            sock = connection.sock
            with stop.interrupting(lambda sock=sock: _shut_down(sock)):
                with _network_errors(shown):
                    connection.request("GET", target, headers={**headers, **proxy_headers})
                    response = connection.getresponse()
                closing.callback(response.close)  # the connection may have no reference to it
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                reader = _reader(shown, response, stop)
                yield Response(shown, response.status, response.headers, reader)
                return
    raise DownloadError(f"{strip_credentials(url)}: more than {_MOST_REDIRECTS} redirects")


def _split(url: str) -> SplitResult:
    """Split a URL and check it; spaces and letters beyond ASCII become %XX."""
    shown = strip_credentials(url)
    try:
        parts = urlsplit(quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
        port = parts.port
    except ValueError as error:
        raise DownloadError(f"{shown}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise DownloadError(f"{shown}: only http:// and https:// of a host can be downloaded")
    return parts


def _host(parts: SplitResult) -> str:
    """Return `host` or `host:port`."""
    return parts.netloc.rpartition("@")[2]


def _credentials(header: str, parts: SplitResult) -> dict[str, str]:
    """Return the header with the user name and password of a URL, or an empty dict."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _connection(
    parts: SplitResult, timeout: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection to the host or the proxy, the request target and the proxy's headers."""
    assert parts.hostname
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(_host(parts)):
        return kind(parts.hostname, parts.port, timeout=timeout), target, {}
    via = _proxy(proxy, f"{parts.scheme}_proxy")
    assert via.hostname
    proxy_headers = _credentials("Proxy-Authorization", via)
    connection = kind(via.hostname, via.port or 80, timeout=timeout)
    if secure:  # the proxy sees only CONNECT
        connection.set_tunnel(parts.hostname, parts.port, proxy_headers)
        return connection, target, {}
    return connection, f"{parts.scheme}://{_host(parts)}{target}", proxy_headers


def _proxy(proxy: str, variable: str) -> SplitResult:
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        via = urlsplit(proxy)
        if via.scheme == "http" and via.hostname and via.port != 0:
            return via
    except ValueError:
        pass
    raise DownloadError(
        f"{variable} is {strip_credentials(proxy)!r}: expected http://host:port or "
        "http://user:password@host:port"
    )


def _reader(url: str, response: http.client.HTTPResponse, stop: Stop) -> Callable[[int], bytes]:
    def read(count: int) -> bytes:
        with _network_errors(url):
            data = response.read1(count)
        stop.check()  # a socket that `stop` shut down reads like the end of the body
        return data

    return read


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turn errors of the network into `TransientError`, and permanent ones into `DownloadError`."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise DownloadError(f"{url}: {error.verify_message or error}") from error
    except TimeoutError as error:
        raise TransientError("timed out waiting for bytes") from error
    except http.client.InvalidURL as error:
        raise DownloadError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        # http.client has no exception class for this, only a message.
        if refusal := re.fullmatch(r"Tunnel connection failed: (4\d\d).*", str(error)):
            status = int(refusal[1])
            raise DownloadError(f"{url}: {proxy_refusal(status)}", status) from error
        raise TransientError(f"{type(error).__name__}: {error}") from error


def proxy_refusal(status: int) -> str:
    """Return the message for a request that the proxy refused."""
    hint = "; it needs http_proxy=http://user:password@host:port (https_proxy for https URLs)"
    return (
        f"the proxy answered with status {status}{hint if status == PROXY_AUTHENTICATION else ''}"
    )


def _shut_down(sock: socket.socket) -> None:
    """Wake a thread that reads from the socket; `SSLSocket.shutdown` would end TLS too."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def content_encoding(response: Response, url: str) -> str | None:
    """Return `gzip` or `deflate` if the server compressed the file for transport, or None.

    A file.gz sent with `Content-Encoding: gzip` is not decoded. Raises `DownloadError` for other
    encodings: none was requested.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
    paths = (urlsplit(each).path for each in (url, response.url))
    is_gzip_file = any(path.endswith((".gz", ".gzip", ".tgz")) for path in paths)
    if encoding in ("", "identity") or (encoding == "gzip" and is_gzip_file):
        return None
    if encoding not in ("gzip", "deflate"):
        raise DownloadError(
            f"{response.url}: the server sends Content-Encoding: {encoding}, which was not "
            "requested and cannot be decoded here"
        )
    return encoding


def read_body(response: Response, encoding: str | None) -> Iterator[bytes]:
    """Yield the decoded body; raise `TransientError` if it is shorter than its headers state."""
    received = 0

    def read_chunks() -> Iterator[bytes]:
        nonlocal received
        while data := response.read(_CHUNK):
            received += len(data)
            yield data

    yield from read_chunks() if encoding is None else _decode(response.url, read_chunks())
    if response.content_length not in (None, received):
        raise TransientError(
            f"the body ended after {received:,} of {response.content_length:,} bytes"
        )


def _decode(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip or deflate, yielding at most `_CHUNK` bytes at once."""
    decoder = None
    for data in chunks:
        has_more = False  # output that did not fit into `_CHUNK` bytes
        while data or has_more:
            if decoder is None or decoder.eof:  # gzip may have several members
                decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            try:
                decoded = decoder.decompress(data, _CHUNK)
            except zlib.error as error:
                raise DownloadError(f"{url}: the body is not gzip: {error}") from error
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            has_more = len(decoded) == _CHUNK and not decoder.eof
            yield decoded
    if decoder is not None and not decoder.eof:
        raise TransientError("the compressed body ended early")
