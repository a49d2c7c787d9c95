"""Shards are told apart by their whole address, in streams, mixtures, caches and states."""

import json
import threading
from dataclasses import replace

import pytest

from mlx_shards import (
    Cache,
    DownloadError,
    Http,
    Shard,
    ShardError,
    Source,
    StateError,
    StreamConfig,
    TokenStream,
    http_shards,
    local_shards,
)
from mlx_shards.prefetch import ShardPrefetcher
from mlx_shards.sync import Stop

CONFIG = StreamConfig(16, 1, bos_id=0, packing="pad", epochs=1, last_batch="pad", oversize="split")


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def texts_of(stream, texts_in) -> list[str]:
    rows = [batch.inputs[0][batch.document_ids[0] == 1] for batch in stream]
    return sorted(texts_in(rows)[1:])


@pytest.fixture
def two(server):
    """Two sources of two shards each with the same file names."""
    for name in ("web", "books"):
        for i in range(2):
            server.add(f"{name}/{i}.jsonl", lines(f"{name} {i}"))
    return {
        name: Source(http_shards(f"{server.url}/{name}/{{}}.jsonl", range(2)))
        for name in ("web", "books")
    }


@pytest.mark.parametrize("shards_ahead", [0, 3])
@pytest.mark.parametrize("max_files", [1, 4])
def test_two_sources_with_the_same_file_names_share_a_stream_and_a_cache(
    two, tokenize, texts_in, tmp_path, quick, shards_ahead, max_files
):
    for _ in range(2):
        cache = Cache(tmp_path, "1MB", max_files, http=quick)
        stream = TokenStream(
            two, tokenize, CONFIG, cache=cache, arrays="numpy", shards_ahead=shards_ahead
        )
        assert texts_of(stream, texts_in) == ["books 0", "books 1", "web 0", "web 1"]
    if max_files == 4:
        assert cache.stats.downloads == 0


def test_each_address_keeps_its_file_whoever_comes_first(two, tmp_path, quick):
    web, books = two["web"].shards[0], two["books"].shards[0]
    with Cache(tmp_path, "1MB", http=quick).lease(web) as lease:
        assert lease.path == tmp_path / "0.jsonl"
    for _ in range(2):
        cache = Cache(tmp_path, "1MB", http=quick)
        with cache.lease(books) as lease, cache.lease(web) as other:
            assert lease.path.read_bytes() == lines("books 0")
            assert other.path.read_bytes() == lines("web 0")
            assert lease.path.parent.parent == tmp_path
    assert cache.stats.hits == 2


def test_two_downloads_of_one_name_at_once_do_not_meet(two, server, tmp_path, quick):
    """Both are under way when either begins to send."""
    both = threading.Barrier(2, timeout=600)
    server.gate = lambda path: both.wait()
    found = {}

    def lease(name):
        with Cache(tmp_path, "1MB", http=Http()).lease(two[name].shards[0]) as lease:
            found[name] = lease.path.read_bytes()

    threads = [threading.Thread(target=lease, args=(name,)) for name in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: lines(f"{name} 0") for name in two}


def test_a_failed_download_does_not_keep_a_name(two, server, tmp_path, quick):
    server.fault("web/0.jsonl", ("status", 404))
    cache = Cache(tmp_path, "1MB", max_files=1, http=quick)
    with pytest.raises(DownloadError):
        cache.lease(two["web"].shards[0])
    with cache.lease(two["books"].shards[0]) as lease:
        assert lease.path == tmp_path / "0.jsonl"
    assert list((tmp_path / ".mlx-shards/plan").iterdir()) == []


def test_a_part_of_one_address_is_not_joined_with_another(two, server, tmp_path, quick):
    web, books = two["web"].shards[0], two["books"].shards[0]
    server.fault("web/0.jsonl", ("truncate", 10), ("status", 404))
    cache = Cache(tmp_path, "1MB", http=quick)
    with pytest.raises(DownloadError):
        cache.lease(web)
    for shard, text in ((books, "books 0"), (web, "web 0")):
        with cache.lease(shard) as lease:
            assert lease.path.read_bytes() == lines(text)
    assert server.requests_of("web/0.jsonl")[-1] == "bytes=10-"  # its own part goes on


@pytest.mark.parametrize("differs", ["host", "query"])
def test_hosts_and_queries_are_part_of_the_address(server, tmp_path, quick, differs):
    server.add("a.jsonl", lines("one"))
    other = f"{server.url}/a.jsonl?set=2"
    if differs == "host":
        other = f"{server.url.replace('127.0.0.1', 'localhost')}/a.jsonl"
    cache = Cache(tmp_path, "1MB", http=quick)
    paths = set()
    for location in (f"{server.url}/a.jsonl", other):
        with cache.lease(Shard("a.jsonl", location)) as lease:
            paths.add(lease.path)
    assert len(paths) == cache.stats.downloads == 2


def test_an_equal_hash_means_the_same_file_wherever_it_is(server, tmp_path, quick):
    import hashlib

    data = lines("one")
    known = {"sha256": hashlib.sha256(data).hexdigest()}
    cache = Cache(tmp_path, "1MB", http=quick)
    for mirror in ("a", "b"):
        shard = server.add(f"{mirror}/x.jsonl", data, **known)
        cache.lease(replace(shard, name="x.jsonl")).release()
    assert cache.stats.downloads == 1
    changed = lines("two")
    shard = server.add("b/x.jsonl", changed, sha256=hashlib.sha256(changed).hexdigest())
    with cache.lease(replace(shard, name="x.jsonl")) as lease:  # a new version at that address
        assert lease.path.read_bytes() == changed


def test_a_file_that_is_not_ours_cannot_stand_for_two_shards(two, tmp_path, quick, exactly):
    (tmp_path / "0.jsonl").write_bytes(lines("mine"))
    web, books = two["web"].shards[0], two["books"].shards[0]
    cache = Cache(tmp_path, "1MB", http=quick)
    cache.lease(web).release()
    message = (
        f"{tmp_path}/0.jsonl was not downloaded by this cache, and may be {web.location} or "
        f"{books.location}; move it away"
    )
    with pytest.raises(ShardError, match=exactly(message)):
        cache.lease(books)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("http://h/set/shard_{:02d}.bin?key=1", ["shard_03.bin", "shard_04.bin"]),
        ("http://h/set/{}/data.parquet", ["3/data.parquet", "4/data.parquet"]),
        ("http://h/{}/part-{}/data.parquet", ["3/part-3/data.parquet", "4/part-4/data.parquet"]),
        ("http://h/get?set=a&file={}.jsonl", ["get/file=3.jsonl", "get/file=4.jsonl"]),
        ("http://h/a.bin?part={}&key=1", ["part=3/a.bin", "part=4/a.bin"]),
        ("http://h/get?file=x/{}.bin", ["get/file=x%2F3.bin", "get/file=x%2F4.bin"]),
    ],
)
def test_names_hold_what_tells_urls_apart(template, names):
    shards = http_shards(template.replace("{}", "{0}"), [3, 4])
    assert [shard.name for shard in shards] == names


def test_one_url_with_the_file_in_its_query_has_its_name():
    (shard,) = http_shards("http://h/get?set=a&file=3.jsonl", [0])
    assert shard.name == "get/set=a&file=3.jsonl"


def test_urls_with_numbers_in_folders_and_queries_stream(
    server, tokenize, texts_in, tmp_path, quick
):
    for i in range(3):
        server.add(f"{i}/data.jsonl", lines(f"text {i}"))
    shards = http_shards(server.url + "/{}/data.jsonl", range(3))
    cache = Cache(tmp_path, "1MB", http=quick)
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache, arrays="numpy")
    assert texts_of(stream, texts_in) == ["text 0", "text 1", "text 2"]
    assert (tmp_path / "2/data.jsonl").exists()


def test_patterns_may_be_in_folders(tmp_path):
    for i in range(2):
        (tmp_path / f"set/{i}").mkdir(parents=True)
        (tmp_path / f"set/{i}/data.jsonl").write_bytes(lines("x"))
    found = local_shards(tmp_path / "set/*/data.jsonl")
    assert [each.name for each in found] == ["0/data.jsonl", "1/data.jsonl"]


def test_a_state_without_what_is_new_goes_on(two, tokenize, tmp_path, quick):
    """The form of the first version: no counts of skipped rows, shards by name."""
    cache = Cache(tmp_path, "1MB", http=quick)

    def stream():
        return TokenStream(two, tokenize, CONFIG, cache=cache, arrays="numpy")

    whole, first = stream(), stream()
    expected = [batch.inputs.tolist() for batch in whole]
    next(iter(first))
    state = first.state()
    del state["counts"]["skipped"]
    for entry in state["sources"].values():
        del entry["skipped"]
    assert state["sources"]["web"]["shards"] == "70a63e3822005541"  # as the first version had it
    second = stream()
    second.load_state(json.dumps(state))
    assert [batch.inputs.tolist() for batch in second] == expected[1:]


def test_shards_of_one_name_in_another_order_are_another_source(two, tokenize, exactly):
    both = [each.shards[0] for each in two.values()]
    state = TokenStream(both, tokenize, CONFIG).state()
    turned = TokenStream(both[::-1], tokenize, CONFIG)
    with pytest.raises(StateError, match=r"^the state belongs to another stream: source 'shards' "):
        turned.load_state(state)


def test_an_error_ahead_belongs_to_its_address_and_not_to_the_name(two, server, tmp_path, quick):
    web, books = (each.shards[0] for each in two.values())
    server.fault("web/0.jsonl", ("status", 404))
    ahead = ShardPrefetcher(Cache(tmp_path, "1MB", http=quick).claim_ahead, 1, Stop())
    try:
        ahead.announce(0, two["web"].shards[1], [web])
        with ahead._changed:
            assert ahead._changed.wait_for(lambda: ahead._errors and not ahead._busy, 600)
        ahead.wait_for(books)
        with pytest.raises(DownloadError, match=r"web/0\.jsonl: the server answered with"):
            ahead.wait_for(web)
    finally:
        ahead.close()
