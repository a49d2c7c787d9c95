"""Column names as a reader would say them."""

import re

_WORD_START = re.compile(
    r"(?<=[a-z]{2})(?=[A-Z])"  # SibSp, but not pH
    r"|(?<=[a-z])(?=[A-Z][a-z])"  # nRooms
    r"|(?<=[A-Z])(?=[A-Z][a-z])"  # MSZoning
    r"|(?<=[A-Za-z]{3})(?=[0-9])"  # Condition1, but not x1 or co2
    r"|(?<=[0-9])(?=[A-Z])"  # 3Ssn, but not 1st
)
_JOINTS = re.compile(r"[\s_.\-/]+")


def humanize(name: str) -> str:
    """Return `SibSp` as `sib sp`, `bill_length_mm` as `bill length mm`, `1stFlrSF` as `1st flr sf`.

    A name without letters or digits stays as it is.
    """
    words = _JOINTS.sub(" ", _WORD_START.sub(" ", name)).strip().lower()
    return words if any(character.isalnum() for character in words) else name
