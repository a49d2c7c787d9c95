import pytest

from mlx_shards import Cache, Source, StreamConfig, TokenStream, local_shards


def stream_of(sources, tokenize, **options):
    config = StreamConfig(64, 2, bos_id=0, packing="flat", **options)
    return TokenStream(sources, tokenize, config, arrays="numpy")


def test_each_source_gets_its_share_of_the_tokens_within_one_document(folder_of, tokenize):
    short, _ = folder_of(40, name="short", longest=10)
    long, _ = folder_of(40, name="long", longest=200)
    weights = {"short": 3.0, "long": 1.0, "other": 0.5}
    shards = {"short": local_shards(short), "long": local_shards(long), "other": local_shards(long)}
    stream = stream_of({name: Source(shards[name], weights[name]) for name in weights}, tokenize)
    for count, _ in enumerate(stream, 1):
        if count % 20 == 0:
            given = {name: each["tokens"] for name, each in stream.state()["sources"].items()}
            total = sum(given.values())
            for name, weight in weights.items():
                assert abs(given[name] - total * weight / 4.5) <= 210  # one document, with BOS
        if count == 100:
            break


def test_a_source_that_ends_leaves_the_rest_to_the_others(folder_of, tokenize, texts_in):
    one, texts = folder_of(3, name="one")
    two, more = folder_of(30, name="two")
    sources = {"one": Source(local_shards(one), 5.0), "two": Source(local_shards(two))}
    stream = stream_of(sources, tokenize, epochs=1, last_batch="pad")
    rows = [
        [t for t in targets if t != -1]
        for batch in stream
        for targets in batch.targets[: batch.rows]
    ]
    first = [[0], *rows]
    assert sorted(texts_in(first)[1:]) == sorted([*texts[0], *more[0]])


def test_a_mixture_never_waits_for_its_own_leases(server, folder_of, tokenize, tmp_path, quick):
    """Three sources and room for one file: who waits lets go of what it reads."""
    sources = {}
    for name in ("a", "b", "c"):
        folder, _ = folder_of(20, 20, name=name)
        shards = [server.add(f"{name}-{p.name}", p.read_bytes()) for p in sorted(folder.iterdir())]
        sources[name] = Source(shards)
    cache = Cache(tmp_path / "cache", "1MB", max_files=1, http=quick)
    config = StreamConfig(64, 2, bos_id=0, packing="flat", epochs=1)
    stream = TokenStream(sources, tokenize, config, cache=cache, arrays="numpy")
    assert len(list(stream)) > 20


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "no sources: a mixture needs at least one"),
        ({"a": Source([])}, "no shards in 'a': the list is empty"),
    ],
)
def test_a_mixture_of_nothing_is_an_error(sources, message, tokenize, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        stream_of(sources, tokenize)


def test_bad_weights_and_repeated_shards_are_errors(folder_of, tokenize, exactly):
    shards = local_shards(folder_of(3)[0])
    with pytest.raises(ValueError, match=exactly("weight of 'a' must be positive, got 0")):
        stream_of({"a": Source(shards, 0)}, tokenize)
    message = f"shard {shards[0].location} occurs twice in 'a'"
    with pytest.raises(ValueError, match=exactly(message)):
        stream_of({"a": Source(shards * 2)}, tokenize)
