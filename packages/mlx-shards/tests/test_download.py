"""S4 and S5: faults of servers give the right file or the right error, and little twice."""

import email.utils
import hashlib
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from mlx_shards import Cache, CorruptShard, DownloadError, Http
from mlx_shards.http import request
from mlx_shards.sync import Stop

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def fetched(cache, shard) -> bytes:
    with cache.lease(shard) as lease:
        return lease.path.read_bytes()


def nothing_under_the_final_name(cache, shard) -> bool:
    return not (cache.folder / shard.name).exists()


@pytest.mark.parametrize(
    "fault",
    [
        ("truncate", 100_000),
        ("reset", 100_000),
        ("status", 503),
        ("status", 500),
        ("status", 429),
        ("status", 408),
    ],
    ids=str,
)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_fault_that_passes_gives_the_right_file(server, cache, fault, ranges):
    server.ranges = ranges
    shard = server.add("a.bin", DATA, size=len(DATA), sha256=SHA256)
    server.fault("a.bin", fault)
    assert fetched(cache, shard) == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_stalls_is_begun_again(server, tmp_path, quick, ranges):
    server.ranges = ranges
    shard = server.add("a.bin", DATA, size=len(DATA), sha256=SHA256)
    server.fault("a.bin", ("stall", 100_000))
    assert fetched(Cache(tmp_path, "1MB", http=replace(quick, timeout=0.5)), shard) == DATA
    assert len(server.requests) >= 2  # more where half a second is too short for a busy machine


def test_three_503_are_waited_out_with_growing_jitter(server, cache, waits):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", *[("status", 503)] * 3)
    assert fetched(cache, shard) == DATA
    assert waits == [1.0, 2.0, 4.0]  # the longest that could be drawn


def test_the_jitter_is_drawn_from_the_whole_range(server, tmp_path, waits):
    http = Http(sleep=lambda seconds, stop: waits.append(seconds), jitter=lambda: 0.25)
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", *[("status", 503)] * 2)
    fetched(Cache(tmp_path, "1MB", http=http), shard)
    assert waits == [0.25, 0.5]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_wait_after_429_is_at_least_retry_after(server, cache, waits, form):
    after = "17" if form == "seconds" else email.utils.formatdate(time.time() + 17.9)
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("status", 429, {"Retry-After": after}))
    assert fetched(cache, shard) == DATA
    assert len(waits) == 1
    assert waits[0] >= 16 if form == "date" else waits == [17.0]


def test_a_retry_after_beyond_the_deadline_is_an_error_at_once(server, tmp_path, exactly, waits):
    http = Http(deadline=60, sleep=lambda seconds, stop: waits.append(seconds), clock=lambda: 0.0)
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("status", 429, {"Retry-After": "3600"}))
    message = (
        f"{server.url}/a.bin: gave up after 0 s, the last 1 attempts received nothing: status 429"
    )
    with pytest.raises(DownloadError, match=exactly(message)) as caught:
        fetched(Cache(tmp_path, "1MB", http=http), shard)
    assert caught.value.status == 429
    assert waits == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server, cache, status, exactly, waits):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("status", status))
    hint = "; a token may be needed" if status in (401, 403) else ""
    message = f"{server.url}/a.bin: the server answered with status {status}{hint}"
    with pytest.raises(DownloadError, match=exactly(message)) as caught:
        cache.lease(shard)
    assert caught.value.status == status
    assert len(server.requests) == 1
    assert waits == []
    assert nothing_under_the_final_name(cache, shard)


def test_a_server_that_never_recovers_is_given_up(server, cache, waits):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", *[("status", 503)] * 9)
    with pytest.raises(DownloadError, match=r"the last 6 attempts received nothing: status 503$"):
        cache.lease(shard)
    assert len(server.requests) == 6
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_attempts_that_bring_bytes_do_not_count_against_the_limit(server, cache):
    shard = server.add("a.bin", DATA, sha256=SHA256)
    server.fault("a.bin", *[("truncate", 20_000)] * 12)
    assert fetched(cache, shard) == DATA
    assert len(server.requests) == 13


def test_a_wrong_hash_is_downloaded_once_more(server, cache):
    shard = server.add("a.bin", DATA, sha256=SHA256)
    server.fault("a.bin", ("wrong",))
    assert fetched(cache, shard) == DATA
    assert cache.stats.corrupt == 1


def test_a_hash_that_stays_wrong_is_an_error_and_the_file_put_aside(server, cache):
    shard = server.add("a.bin", bytes(len(DATA)), sha256=SHA256)
    with pytest.raises(CorruptShard) as caught:
        cache.lease(shard)
    zeros = hashlib.sha256(bytes(len(DATA))).hexdigest()
    bad = cache.folder / ".mlx-shards/bad/a.bin"
    assert str(caught.value) == (
        f"{server.url}/a.bin: SHA-256 {zeros} instead of {SHA256}, also after a second download; "
        f"the second copy is {bad}"
    )
    assert bad.exists()
    assert len(server.requests) == 2
    assert nothing_under_the_final_name(cache, shard)


def test_a_size_that_the_manifest_denies_is_an_error_before_the_body(server, cache, exactly):
    shard = server.add("a.bin", DATA, size=5)
    message = f"{server.url}/a.bin has 300,000 bytes on the server instead of 5"
    with pytest.raises(CorruptShard, match=exactly(message)):
        cache.lease(shard)
    assert nothing_under_the_final_name(cache, shard)


def test_a_partial_download_resumes_with_range_and_little_is_fetched_twice(server, cache):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("reset", 120_000), ("truncate", 90_000))
    assert fetched(cache, shard) == DATA
    first, *later = server.requests_of("a.bin")
    assert first is None
    assert all(re.fullmatch(r"bytes=[1-9]\d*-", each) for each in later)
    assert server.bytes_sent <= 1.05 * len(DATA)
    assert cache.stats.bytes_received == len(DATA)


def test_a_download_resumes_after_the_process_that_began_it(server, tmp_path, quick):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("truncate", 200_000), *[("status", 404)])
    with pytest.raises(DownloadError):
        Cache(tmp_path, "1MB", http=quick).lease(shard)
    assert fetched(Cache(tmp_path, "1MB", http=quick), shard) == DATA
    assert server.bytes_sent == len(DATA)


def test_a_complete_part_that_was_not_named_yet_is_not_fetched_again(server, tmp_path, quick):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("truncate", 200_000), ("status", 404))
    cache = Cache(tmp_path, "1MB", http=quick)
    with pytest.raises(DownloadError):
        cache.lease(shard)
    (tmp_path / ".mlx-shards/part/a.bin").write_bytes(DATA)
    assert fetched(cache, shard) == DATA
    assert server.bytes_sent == 200_000


def test_a_file_that_changed_on_the_server_is_not_joined_with_the_old_part(server, cache):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("truncate", 200_000), ("status", 404))
    with pytest.raises(DownloadError):
        cache.lease(shard)
    changed = DATA[::-1]
    server.add("a.bin", changed)
    assert fetched(cache, shard) == changed


def test_without_validator_or_hash_a_part_is_not_trusted(server, cache):
    server.etags = False
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", ("truncate", 200_000))
    assert fetched(cache, shard) == DATA
    assert server.requests_of("a.bin") == [None, None]


def test_a_size_that_the_server_does_not_say_stays_within_the_bound(server, tmp_path, quick):
    server.lengths = False
    shard = server.add("a.bin", DATA)
    assert fetched(Cache(tmp_path / "a", "1MB", http=quick), shard) == DATA
    with pytest.raises(Exception, match="has 300,000 bytes, but the cache"):
        Cache(tmp_path / "b", 299_999, http=quick).lease(shard)


def test_redirects_are_followed_without_the_secrets_of_the_first_host(server, cache):
    server.add("b.bin", DATA)
    other = server.url.replace("127.0.0.1", "localhost")
    shard = server.add("a.bin", b"")
    server.fault("a.bin", ("status", 302, {"Location": f"{other}/b.bin"}))
    seen = []
    answer = server.answer
    server.answer = lambda handler: (seen.append(handler.headers["Authorization"]), answer(handler))
    with request(shard.location, {"Authorization": "Bearer x"}, 1.0, Stop()) as response:
        assert response.read(10) == DATA[:10]
    assert seen == ["Bearer x", None]


def test_endless_redirects_end(server, cache):
    shard = server.add("a.bin", DATA)
    server.fault("a.bin", *[("status", 302, {"Location": "/a.bin"})] * 9)
    with pytest.raises(DownloadError, match=r"more than 5 redirects$"):
        cache.lease(shard)
