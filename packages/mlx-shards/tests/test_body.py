"""What a server does to a file on its way is undone or named; a cut file never passes as whole."""

import gzip
import hashlib
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from mlx_shards import Cache, DownloadError
from mlx_shards.download import fetch_json

LINES = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(2000)).encode()
SECOND_LINE = LINES.index(b"\n") + 1


def fetched(cache, shard) -> bytes:
    with cache.lease(shard) as lease:
        return lease.path.read_bytes()


def encoded(server, name: str, data: bytes, encoding: str, **known):
    shard = server.add(name, data, **known)
    server.headers[f"/{name}"] = {"Content-Encoding": encoding}
    return shard


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
        ("deflate", zlib.compress),
    ],
)
@pytest.mark.parametrize("lengths", [True, False])
def test_an_encoding_that_was_not_asked_for_is_decoded(server, cache, encoding, compress, lengths):
    server.lengths = lengths
    known = {"size": len(LINES), "sha256": hashlib.sha256(LINES).hexdigest()}
    assert fetched(cache, encoded(server, "a.jsonl", compress(LINES), encoding, **known)) == LINES
    assert fetched(cache, encoded(server, "b.jsonl", compress(LINES), encoding)) == LINES


def test_what_expands_a_thousandfold_comes_in_chunks_within_the_bound(server, tmp_path, quick):
    zeros = bytes(3_000_000)
    shard = encoded(server, "a.bin", gzip.compress(zeros), "gzip")
    assert fetched(Cache(tmp_path / "a", "3MB", http=quick), shard) == zeros
    with pytest.raises(Exception, match=r"but the cache .* is bounded to 2,500,000"):
        Cache(tmp_path / "b", "2.5MB", http=quick).lease(shard)


@pytest.mark.parametrize("fault", [("truncate", 3000), ("reset", 3000), ("stall", 3000)], ids=str)
@pytest.mark.parametrize("lengths", [True, False])
def test_an_encoded_body_that_is_cut_is_fetched_anew_and_never_joined(
    server, tmp_path, quick, fault, lengths
):
    server.lengths = lengths
    shard = encoded(server, "a.jsonl", gzip.compress(LINES), "gzip")
    server.fault("a.jsonl", fault)
    http = replace(quick, timeout=0.5) if fault[0] == "stall" else quick
    assert fetched(Cache(tmp_path, "1MB", http=http), shard) == LINES
    assert server.requests_of("a.jsonl") == [None, None]


def test_a_part_of_other_bytes_is_not_joined_with_an_encoded_range(server, tmp_path, quick):
    """The hash is known, so the part is resumed; then the server begins to encode."""
    known = {"sha256": hashlib.sha256(LINES).hexdigest()}
    shard = server.add("a.jsonl", LINES, **known)
    server.fault("a.jsonl", ("truncate", 3000), ("status", 404))
    cache = Cache(tmp_path, "1MB", http=quick)
    with pytest.raises(DownloadError):
        cache.lease(shard)
    server.etags = False
    plan = tmp_path / ".mlx-shards/plan/a.jsonl"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"validator": None}))
    shard = encoded(server, "a.jsonl", gzip.compress(LINES), "gzip", **known)
    assert fetched(cache, shard) == LINES
    assert cache.stats.corrupt == 0


def test_a_gz_file_is_kept_as_it_is_whatever_the_server_calls_it(server, cache):
    data = gzip.compress(LINES)
    shard = encoded(server, "a.jsonl.gz", data, "gzip", sha256=hashlib.sha256(data).hexdigest())
    assert fetched(cache, shard) == data


def test_an_encoding_that_is_not_known_is_named_at_once(server, cache, exactly, waits):
    shard = encoded(server, "a.jsonl", LINES, "br")
    message = (
        f"{server.url}/a.jsonl: the server sends Content-Encoding: br, which was not requested and "
        "cannot be decoded here"
    )
    with pytest.raises(DownloadError, match=exactly(message)):
        cache.lease(shard)
    assert waits == []


def test_json_is_decoded_too(server, quick):
    shard = encoded(server, "manifest.json", gzip.compress(b'{"shards": []}'), "gzip")
    assert fetch_json(shard.location, quick)[0] == {"shards": []}


def cut_at_a_line_end(server):
    shard = server.add("a.jsonl", LINES)
    server.fault("a.jsonl", ("truncate", SECOND_LINE))
    return shard


def test_a_text_cut_at_a_line_end_is_noticed_by_its_length(server, cache):
    assert fetched(cache, cut_at_a_line_end(server)) == LINES


def test_a_text_cut_between_chunks_is_noticed(server, cache):
    server.chunked = True
    shard = server.add("a.jsonl", LINES)
    server.fault("a.jsonl", ("truncate", 1007))  # the first chunk with its frame
    assert fetched(cache, shard) == LINES
    assert len(server.requests) == 2


def test_where_nothing_tells_the_end_the_server_is_asked_what_follows(server, cache):
    server.lengths = False
    assert fetched(cache, cut_at_a_line_end(server)) == LINES
    shard = server.add("b.jsonl", LINES)
    assert fetched(cache, shard) == LINES
    assert server.requests_of("b.jsonl") == [None, f"bytes={len(LINES)}-"]


def test_a_file_whose_end_cannot_be_known_is_refused_unless_its_size_is_given(
    server, cache, exactly
):
    server.lengths = server.ranges = False
    message = (
        f"{server.url}/a.jsonl: the server does not state where the file ends, so that "
        "truncation would go undetected; give its size or SHA-256, as in a manifest"
    )
    shard = server.add("a.jsonl", LINES)
    for _ in range(2):
        with pytest.raises(DownloadError, match=exactly(message)):
            cache.lease(shard)
    assert not (cache.folder / "a.jsonl").exists()
    assert fetched(cache, server.add("b.jsonl", LINES, size=len(LINES))) == LINES
    server.add("c.jsonl", LINES)
    server.fault("c.jsonl", ("truncate", SECOND_LINE))
    assert fetched(cache, server.add("c.jsonl", LINES, size=len(LINES))) == LINES


def test_a_range_without_a_total_that_is_cut_is_noticed(server, cache, monkeypatch):
    data = np.random.default_rng(0).bytes(100_000)
    shard = server.add("a.bin", data)
    server.fault("a.bin", ("truncate", 40_000), ("truncate", 20_000))
    from mlx_shards import download

    real = download._content_range  # a server that writes bytes 40000-99999/*
    monkeypatch.setattr(download, "_content_range", lambda response: (real(response)[0], None))
    assert fetched(cache, shard) == data
