"""Check the fields of a row; every error names its place."""


def get_text(row: dict, key: str, where: str) -> str:
    """Return the text under `key`; `ValueError` if it is missing or blank."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {key!r} must be a text, got {value!r}")
    return value


def get_options(row: dict, key: str, where: str) -> list[str]:
    """Return the list under `key`; `ValueError` unless it has at least two texts."""
    value = row.get(key)
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{where}: {key!r} must be a list of at least two texts, got {value!r}")
    for each in value:
        if not isinstance(each, str):
            raise ValueError(f"{where}: {key!r} must contain texts, got {each!r}")
    return value


def get_gold(row: dict, options: int, where: str) -> int:
    """Return the index of the correct option; `ValueError` unless below `options`."""
    gold = row.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < options:
        raise ValueError(f"{where}: 'gold' must be an index from 0 to {options - 1}, got {gold!r}")
    return gold
