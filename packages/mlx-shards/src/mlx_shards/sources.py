"""Find shards: in a folder, by a URL template, in a manifest, on the Hugging Face hub."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from mlx_shards.download import Http, fetch_json
from mlx_shards.formats import known_suffixes
from mlx_shards.shard import DownloadError, Shard, strip_credentials

MANIFEST = "manifest.json"
_MOST_NUMBERS = 1_000_000


@dataclass(frozen=True)
class Source:
    """One source of a mixture; `weight` is its share of the tokens, relative to the others."""

    shards: Sequence[Shard]
    weight: float = 1.0


def as_sources(shards: Sequence[Shard] | Mapping[str, Source]) -> dict[str, Source]:
    """Return sources by name; raises `ValueError` for none, empty ones and bad weights."""
    sources = dict(shards) if isinstance(shards, Mapping) else {"shards": Source(shards)}
    if not sources:
        raise ValueError("no sources: a mixture needs at least one")
    for name, source in sources.items():
        if not source.shards:
            raise ValueError(f"no shards in {name!r}: the list is empty")
        address, count = Counter(shard.address for shard in source.shards).most_common(1)[0]
        if count > 1:
            raise ValueError(f"shard {address} occurs twice in {name!r}")
        if not source.weight > 0:
            raise ValueError(f"weight of {name!r} must be positive, got {source.weight}")
    return sources


def parse_numbers(text: str) -> list[int]:
    """Return the shard numbers of `0-7` or `0,3,6542`, ranges inclusive.

    Raises `ValueError` for another form, and for over a million numbers.
    """
    spans: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise ValueError(f"expected numbers such as 0-7 or 0,3,6542, got {text!r}")
        spans.append(range(first, last + 1))
    if (count := sum(map(len, spans))) > _MOST_NUMBERS:
        raise ValueError(f"{text!r} are {count:,} numbers, over {_MOST_NUMBERS:,}")
    return [number for span in spans for number in span]


def local_shards(where: str | Path) -> list[Shard]:
    """Return the shards of a file, folder or pattern, sorted by name.

    They are read in place and never deleted. Raises `ValueError` if nothing matches.
    """
    where = Path(where).expanduser()
    base = where
    if where.is_dir():
        suffixes = tuple(known_suffixes())
        files = [path for path in where.iterdir() if path.name.lower().endswith(suffixes)]
    elif where.is_file():
        base, files = where.parent, [where]
    elif pattern := [part for part in where.parts if set("*?[") & set(part)]:
        base = Path(*where.parts[: where.parts.index(pattern[0])])
        files = list(base.glob(str(where.relative_to(base))))
    else:
        raise ValueError(f"{where}: no such file or folder")
    files = sorted(path for path in files if path.is_file() and not _is_hidden(path, base))
    if not files:
        raise ValueError(f"no shards at {where}: expected files in {', '.join(known_suffixes())}")
    return [
        Shard(path.relative_to(base).as_posix(), str(path.resolve()), path.stat().st_size)
        for path in files
    ]


def _is_hidden(path: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(base).parts)


def http_shards(template: str, numbers: Iterable[int]) -> list[Shard]:
    """Return one shard per number from a URL such as `https://host/shard_{:05d}.parquet`.

    Their names are the shortest unique ends of the URLs: `0/data.parquet` for
    `https://host/set/{}/data.parquet`.
    """
    numbers = list(numbers)
    if not numbers:
        raise ValueError(f"{template}: no numbers, so no shards")
    try:
        urls = [template.format(number) for number in numbers]
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{template}: expected {{}} or {{:05d}} in place of the number ({error})"
        ) from error
    number, count = Counter(numbers).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{template}: number {number} is given {count} times")
    if len(set(urls)) < len(urls):
        raise ValueError(f"{template}: makes the same URL twice; it needs {{}} or {{:05d}}")
    return [Shard(name, url) for name, url in zip(_names(urls), urls, strict=True)]


def _names(urls: Sequence[str]) -> list[str]:
    """Return the shortest unique ends of URLs, with the suffix of a format last if possible."""
    split = [urlsplit(url) for url in urls]
    paths = [unquote(parts.path).strip("/").split("/") for parts in split]
    suffixes = tuple(known_suffixes())
    short = [path[-1] for path in paths]
    queries = [parts.query.split("&") for parts in split]
    if len(urls) > 1:
        common = set.intersection(*map(set, queries))
        queries = [[pair for pair in query if pair not in common] for query in queries]
    quoted = [quote(unquote("&".join(query)), safe="&= ") for query in queries]
    by_query = all(query.endswith(suffixes) for query in quoted)
    if len(set(short)) == len(urls) and (short[0].endswith(suffixes) or not by_query):
        return short
    levels = enumerate(zip(*paths, strict=False))
    shared = next((level for level, parts in levels if len(set(parts)) > 1), 0)
    long = ["/".join(path[shared:]) for path in paths]
    if len(set(long)) == len(urls) and not by_query:
        return long
    pairs = zip(short, quoted, strict=True)
    return [f"{name}/{query}" if by_query else f"{query}/{name}" for name, query in pairs]


def manifest_shards(where: str | Path, http: Http | None = None) -> list[Shard]:
    """Return the shards of a manifest, a local file or a URL.

    A manifest is JSON: `{"shards": [{"name": ..., "size": ..., "sha256": ..., "rows": ...}]}`. An
    optional `location`, by default the name, is relative to the manifest.
    """
    text = str(where)
    if "://" in text:
        content, base = fetch_json(text, http or Http())[0], text
    else:
        path = Path(text).expanduser()
        base = str(path.resolve())
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
    shown = strip_credentials(text)
    try:
        shards = [
            Shard(
                entry["name"],
                _join(base, entry.get("location") or quote(entry["name"])),
                entry.get("size"),
                entry.get("sha256"),
                entry.get("rows"),
            )
            for entry in content["shards"]
        ]
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{shown} is not a manifest of shards: {error!r}") from error
    if not shards:
        raise ValueError(f"{shown}: a manifest without shards")
    return shards


def _join(base: str, location: str) -> str:
    if "://" in location:
        return location
    if "://" in base:
        return urljoin(base, location)
    return str(Path(base).parent / unquote(location))


def hub_shards(
    dataset: str, pattern: str = "*.parquet", revision: str = "main", http: Http | None = None
) -> list[Shard]:
    """Return the files of a Hugging Face data set that match `pattern`, with sizes and hashes.

    The URLs contain the commit of `revision`, so later pushes have no effect. `HF_ENDPOINT`
    and `HF_TOKEN` (or the token that `hf auth login` stores) are honoured. The cache of a private
    data set needs the token too: `Http(headers=hub_headers())`.
    """
    http = http or Http(headers=hub_headers())
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    api = f"{endpoint}/api/datasets/{dataset}"
    try:
        commit = fetch_json(f"{api}/revision/{quote(revision, safe='')}", http)[0]["sha"]
    except (KeyError, TypeError) as error:
        raise DownloadError(f"{api}: unexpected answer of the hub: {error!r}") from error
    entries: list[dict] = []
    url: str | None = f"{api}/tree/{commit}?recursive=true"
    while url:
        page, url = fetch_json(url, http)
        entries += page
    shards = [
        Shard(
            entry["path"],
            f"{endpoint}/datasets/{dataset}/resolve/{commit}/{quote(entry['path'])}",
            entry["size"],
            entry.get("lfs", {}).get("oid"),
        )
        for entry in sorted(entries, key=lambda entry: entry["path"])
        if entry["type"] == "file" and fnmatch(entry["path"], pattern)
    ]
    if not shards:
        raise ValueError(f"data set {dataset} at {revision} has no file that matches {pattern!r}")
    return shards


def hub_headers() -> dict[str, str]:
    """Return the header with the user's Hugging Face token, or an empty dict."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    token = os.environ.get("HF_TOKEN")
    if not token and (home / "token").is_file():
        token = (home / "token").read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def find_shards(where: str | Path, numbers: Iterable[int] | None = None) -> list[Shard]:
    """Return the shards of any source that the command line accepts.

    `where` is `hf:owner/name[:pattern]`, a template with `{}` and `numbers`, a manifest (`.json`),
    the URL of one shard, or a local file, folder or pattern.
    """
    text = str(where)
    if text.startswith("hf:"):
        dataset, _, pattern = text.removeprefix("hf:").partition(":")
        return hub_shards(dataset, pattern or "*.parquet")
    if numbers is not None:
        return http_shards(text, numbers)
    if text.endswith(".json"):
        return manifest_shards(text)
    if text.startswith(("http://", "https://")):
        if "{" in text:
            raise ValueError(f"{text}: a URL template needs numbers, such as 0-7")
        return http_shards(text, [0])
    if "://" in text:
        raise ValueError(f"{text}: only http://, https://, hf: and local paths are known")
    return local_shards(text)


def split_last(shards: Sequence[Shard], count: int = 1) -> tuple[list[Shard], list[Shard]]:
    """Return training and validation shards: the last `count` validate, as in nanochat."""
    if not 0 < count < len(shards):
        raise ValueError(
            f"cannot hold out {count} of {len(shards)} shards for validation and train on the "
            "rest; make smaller shards (mlx-shards make --shard-chars)"
        )
    return list(shards[:-count]), list(shards[-count:])
