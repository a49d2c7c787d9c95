"""The body of a response as the bytes of the file, whatever the server did to them on the way."""

import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from mlx_shards.errors import DownloadError
from mlx_shards.http import Interrupted, Response

CHUNK = 1 << 20  # bytes


def encoding_of(response: Response, url: str) -> str | None:
    """Return the compression of a body that is not the file's own, None where there is none.

    It was not asked for. A file.gz sent with `Content-Encoding: gzip` is that file as it is.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
    if encoding in ("", "identity") or (encoding == "gzip" and _is_gzip(url, response.url)):
        return None
    if encoding not in ("gzip", "deflate"):
        raise DownloadError(
            f"{response.url}: the server sends Content-Encoding: {encoding}, which was not asked "
            "for and cannot be decoded here"
        )
    return encoding


def _is_gzip(*urls: str) -> bool:
    return any(urlsplit(url).path.endswith((".gz", ".gzip", ".tgz")) for url in urls)


def read_body(response: Response, encoding: str | None) -> Iterator[bytes]:
    """Yield the decoded body; raise `Interrupted` where it is shorter than its head says."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        while data := response.read(CHUNK):
            sent += len(data)
            yield data

    yield from pieces() if encoding is None else _decoded(response.url, pieces())
    if response.content_length not in (None, sent):
        raise Interrupted(f"the body ended after {sent:,} of {response.content_length:,} bytes")


def _decoded(shown: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what gzip or deflate holds, never more than a chunk at once."""
    decoder = None
    for data in pieces:
        held = False  # output that did not fit a chunk
        while data or held:
            if decoder is None or decoder.eof:  # gzip may have several members
                decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            try:
                decoded = decoder.decompress(data, CHUNK)
            except zlib.error as error:
                raise DownloadError(f"{shown}: what it sends is not gzip: {error}") from error
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            held = len(decoded) == CHUNK and not decoder.eof
            yield decoded
    if decoder is not None and not decoder.eof:
        raise Interrupted("the compressed body ended early")
