"""What may be shown of a text that a model wrote."""

import re

# A model may write anything, including control codes that move the cursor or rename the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Replace the control characters in a text, except tabs and line ends."""
    return _CONTROL.sub("\ufffd", text)
