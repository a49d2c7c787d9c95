from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_gpt.engine import TextStream


def pieces(data: bytes, cuts: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """Return what a stream gives for data cut at these places, and whether it stopped."""
    stream = TextStream(stop)
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [stream.add(data[a:b]) for a, b in pairwise(borders)]
    return [*found, stream.finish()], stream.stopped


cuts = st.lists(st.integers(0, 1000), max_size=30)


@given(st.binary(max_size=60), cuts)
@settings(deadline=None)
def test_any_bytes_in_any_pieces_decode_as_a_whole(data: bytes, cuts: list[int]):
    found, _ = pieces(data, cuts)
    assert "".join(found) == data.decode("utf-8", "replace")


@given(st.text(max_size=40), cuts)
@settings(deadline=None)
def test_characters_are_never_cut(text: str, cuts: list[int]):
    found, _ = pieces(text.encode(), cuts)
    assert "".join(found) == text
    assert ("\ufffd" in "".join(found)) == ("\ufffd" in text)


def stopped_text(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Return the text before the stop string that is complete first, by characters."""
    for end in range(1, len(text) + 1):
        found = [each for each in stops if text[:end].endswith(each)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


letters = st.text("abé", max_size=30)
stops = st.lists(st.text("abé", min_size=1, max_size=4), max_size=3).map(tuple)


@given(letters, cuts, stops)
@settings(deadline=None)
@example("aabé", [], ("aabé", "ab"))  # "ab" is complete first
@example("aab", [], ("b", "ab"))  # both at once
def test_text_ends_before_the_stop_string_however_it_is_cut(
    text: str, cuts: list[int], stops: tuple[str, ...]
):
    found, stopped = pieces(text.encode(), cuts, stops)
    assert ("".join(found), stopped) == stopped_text(text, stops)


@given(letters, cuts, stops)
@settings(deadline=None)
def test_nothing_is_shown_that_is_taken_back_and_nothing_held_without_need(
    text: str, cuts: list[int], stops: tuple[str, ...]
):
    stream = TextStream(stops)
    shown, expected = "", stopped_text(text, stops)[0]
    for i, character in enumerate(text):
        shown += stream.add(character.encode())
        assert expected.startswith(shown)
        if stream.stopped:
            break
        held = text[len(shown) : i + 1]
        assert not held or any(each.startswith(held) for each in stops)


def test_a_stop_string_may_begin_and_end_inside_of_tokens():
    stream = TextStream(("chard",))
    assert stream.add(b" Ric") == " Ri"
    assert stream.add(b"ha") == ""
    assert stream.add(b"rds") == ""
    assert stream.stopped
    assert stream.add(b" more") == stream.finish() == ""


def test_a_beginning_that_does_not_go_on_is_shown():
    stream = TextStream(("User:",))
    assert stream.add(b"Use") == ""
    assert stream.add(b"ful") == "Useful"
    assert stream.add(b" Us") == " "
    assert stream.finish() == "Us"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_half_a_character_waits_for_its_rest_and_becomes_a_replacement_at_the_end(cut: int):
    data = "🦊".encode()
    stream = TextStream()
    assert stream.add(data[:cut]) == ""
    assert stream.add(data[cut:]) == "🦊"
    stream = TextStream()
    assert stream.add(data[:cut]) == ""
    assert stream.finish() == "\ufffd"
