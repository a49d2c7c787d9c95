"""Text from the bytes of tokens: whole characters only, and nothing of a stop string.

A token may end in the middle of a character, and a stop string may begin and end in the middle of
tokens. What is not decided yet is held back.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Decodes UTF-8 piece by piece and stops before the first stop string.

    The text does not depend on how the bytes were cut. Of several stop strings the one that is
    complete first counts, and of those the longest. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()):
        self.stopped = False
        self._stop = tuple(stop)
        self._longest = max((len(each) for each in self._stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # might be the beginning of a stop string

    def add(self, data: bytes) -> str:
        """Take bytes; return the text they decide, which is "" once a stop string was found."""
        return self._decide(self._decoder.decode(data))

    def finish(self) -> str:
        """Return what was held back, as nothing more will come."""
        text = self._decide(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _decide(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        begin = self._find(text)
        if begin is not None:
            self.stopped, self._held = True, ""
            return text[:begin]
        border = len(text) - self._undecided(text)
        self._held = text[border:]
        return text[:border]

    def _find(self, text: str) -> int | None:
        """Return where the stop string begins that is complete first."""
        begins = ((text.find(each), len(each)) for each in self._stop)
        found = [(begin + length, begin) for begin, length in begins if begin >= 0]
        return min(found)[1] if found else None

    def _undecided(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(each.startswith(text[-length:]) for each in self._stop):
                return length
        return 0
