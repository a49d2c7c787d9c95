"""S9: best-fit equals nanochat's rule, is faster, and wastes no more than it must."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_shards import BestFit, Flat, Pad, Piece, Reference

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=120)


def pieces(lengths):
    """Documents whose tokens are all different, so that any mix-up shows."""
    first = 1
    for number, length in enumerate(lengths):
        yield Piece(Reference(0, 0, number), np.arange(first, first + length, dtype=np.int32))
        first += length


def rows_of(packer, lengths, capacity):
    documents = pieces(lengths)
    while True:
        row, ids = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
        used = packer.fill(row, ids, documents)
        if not used:
            return
        yield row[:used], ids[:used]


def nanochat_rows(lengths, capacity, buffer_size, refill=128):
    """nanochat's rule, written from its description: a scan of the whole buffer for each choice."""
    coming = [piece.tokens for piece in pieces(lengths)]
    buffer = []
    while buffer or coming:
        row = []
        while len(row) < capacity:
            while len(buffer) < buffer_size and coming:
                buffer += coming[:refill]
                del coming[:refill]
            if not buffer:
                break
            room = capacity - len(row)
            best = None
            for i, document in enumerate(buffer):
                fits = len(document) <= room
                if fits and (best is None or len(document) > len(buffer[best])):
                    best = i
            if best is None:
                best = min(range(len(buffer)), key=lambda i: len(buffer[i]))
            row += list(buffer.pop(best)[:room])
        yield row


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(2, 40), st.integers(1, 30))
def test_best_fit_places_the_same_tokens_as_nanochat(lengths, capacity, buffer_size):
    packer = BestFit(capacity, "crop", buffer_size)
    found = [row.tolist() for row, _ in rows_of(packer, lengths, capacity)]
    assert found == [list(row) for row in nanochat_rows(lengths, capacity, buffer_size)]


def test_a_buffer_is_full_with_few_long_documents(monkeypatch):
    monkeypatch.setattr("mlx_shards.packing.BUFFER_TOKENS", 500)
    for oversize in ("crop", "split"):
        packer, documents = BestFit(20, oversize), pieces([100] * 50)
        row = np.zeros(20, np.int32)
        packer.fill(row, row.copy(), documents)
        assert packer.held_tokens() <= 500
        assert next(documents).reference.document == 5  # taken: no more than fill the buffer


def climbmix_like(count, seed=0):
    """Log-normal lengths of which 22.9% of the tokens lie beyond 2049, as reported for ClimbMix."""
    random = np.random.default_rng(seed)
    return np.maximum(random.lognormal(np.log(727), 1.0, count).astype(int), 2).tolist()


def test_the_length_law_of_the_next_tests_has_the_reported_tail():
    lengths = np.array(climbmix_like(50_000))
    assert np.maximum(lengths - 2049, 0).sum() / lengths.sum() == pytest.approx(0.229, abs=0.02)


def test_waste_at_2048_is_at_most_35_percent_and_with_split_far_less():
    lengths = climbmix_like(20_000)
    waste = {}
    for oversize in ("crop", "split"):
        packer = BestFit(2049, oversize, 1000)
        used = sum(len(row) for row, _ in rows_of(packer, lengths, 2049))
        waste[oversize] = packer.lost / (packer.lost + used)
    assert waste["crop"] <= 0.35, waste
    assert waste["split"] <= 0.10, waste


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 40), st.sampled_from(["crop", "split", "drop"]))
def test_best_fit_counts_every_token_as_placed_or_lost(lengths, capacity, oversize):
    packer = BestFit(capacity, oversize, 10)
    rows = [row for row, _ in rows_of(packer, lengths, capacity)]
    assert sum(map(len, rows)) + packer.lost == sum(lengths)
    assert all(len(row) == capacity for row in rows[:-1])
    placed = np.concatenate([*rows, np.zeros(0)])
    assert len(set(placed)) == len(placed)
    if oversize == "split":
        assert packer.lost == 0
    if oversize == "drop":
        allowed = sum(length for length in lengths if length <= capacity)
        assert sum(map(len, rows)) <= allowed


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 40))
def test_flat_rows_overlap_by_one_token_and_lose_nothing(lengths, capacity):
    rows = [row for row, _ in rows_of(Flat(), lengths, capacity)]
    everything = np.arange(1, sum(lengths) + 1)
    joined = np.concatenate([rows[0], *(row[1:] for row in rows[1:])]) if rows else []
    if sum(lengths) > 1:
        assert np.array_equal(joined, everything)
        assert all(a[-1] == b[0] for a, b in pairwise(rows))


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 40), st.sampled_from(["crop", "split", "drop"]))
def test_pad_gives_each_document_its_own_rows(lengths, capacity, oversize):
    packer = Pad(oversize)
    rows = [row.tolist() for row, _ in rows_of(packer, lengths, capacity)]
    expected = []
    for piece in pieces(lengths):
        tokens = piece.tokens.tolist()
        if oversize == "split":
            expected += [tokens[i : i + capacity] for i in range(0, len(tokens), capacity)]
        elif oversize == "crop" or len(tokens) <= capacity:
            expected.append(tokens[:capacity])
    assert rows == expected
    assert packer.lost == sum(lengths) - sum(map(len, rows))


@pytest.mark.parametrize("packer", [BestFit(12, "split", 4), Flat()], ids=["best_fit", "flat"])
def test_document_ids_change_where_documents_do(packer):
    random = np.random.default_rng(1)
    lengths = random.integers(1, 20, 40).tolist()
    ends = np.cumsum(lengths)
    for row, ids in rows_of(packer, lengths, 12):
        assert ids[0] == 1
        document = np.searchsorted(ends, row)  # which one a token came from
        jumps = (np.diff(document) != 0) | (np.diff(row) != 1)
        assert np.array_equal(np.diff(ids) == 1, jumps)


@settings(max_examples=60, deadline=None)
@given(
    LENGTHS,
    st.integers(2, 40),
    st.sampled_from(["best_fit crop", "best_fit split", "flat", "pad split"]),
    st.integers(0, 30),
)
def test_a_packer_restored_from_references_goes_on_as_the_first(lengths, capacity, kind, cut):
    def make():
        packing, _, oversize = kind.partition(" ")
        packers = {"best_fit": BestFit(capacity, oversize, 7), "pad": Pad(oversize)}
        return packers.get(packing) or Flat()

    def fill(packer, documents):
        row, ids = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
        return packer.fill(row, ids, documents), row.tolist(), ids.tolist()

    everything = list(pieces(lengths))
    first, documents = make(), iter(everything)
    for _ in range(cut):
        fill(first, documents)
    second = make()
    second.restore(everything[r.document].rest(r.start) for r in first.held())
    remaining = list(documents)
    assert second.held() == first.held()
    assert second.held_tokens() == first.held_tokens()
    documents, again = iter(remaining), iter(remaining)
    for _ in range(len(lengths) * 60 // capacity + 2):
        assert fill(first, documents) == fill(second, again)


def test_the_rest_of_a_piece_is_restored_with_the_end_that_it_had():
    everything = list(
        pieces([14] * 128 + [40, 40, 40])
    )  # the long ones come in the middle of a row
    first, documents = BestFit(20, "split", 1), iter(everything)
    row = np.zeros(20, np.int32)
    for _ in range(90):
        first.fill(row, row.copy(), documents)
    held = first.held()
    assert Reference(0, 0, 128, 8) in held
    second = BestFit(20, "split", 1)
    second.restore(everything[each.document].rest(each.start) for each in held)
    assert second.held_tokens() == first.held_tokens() == 112
