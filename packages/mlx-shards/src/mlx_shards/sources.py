"""Find shards: in a folder, by a URL template, in a manifest, on the Hugging Face hub."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from mlx_shards import readers as readers  # registers the formats
from mlx_shards._atomic import write_atomic
from mlx_shards.disk import room_on_disk
from mlx_shards.download import Http, fetch_json
from mlx_shards.errors import DownloadError
from mlx_shards.formats import known_suffixes
from mlx_shards.shard import Shard, sha256_of, without_password

MANIFEST = "manifest.json"


def local_shards(where: str | Path) -> list[Shard]:
    """Return the shards of a folder, or those that match a pattern, sorted by name.

    They are read where they are: no cache is involved, and nothing is ever deleted. Raises
    `ValueError` where there is none.
    """
    where = Path(where).expanduser()
    base = where
    if where.is_dir():
        ends = tuple(known_suffixes())
        files = [path for path in where.iterdir() if path.name.lower().endswith(ends)]
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
    """Return shards by a URL like `https://host/shard_{:05d}.parquet`, one for each number.

    They are named by the end of the URL, or by as much of it as tells them apart:
    `https://host/set/{}/data.parquet` gives `0/data.parquet`.
    """
    numbers = list(numbers)
    if not numbers:
        raise ValueError(f"{template}: no numbers, so no shards")
    try:
        urls = [template.format(number) for number in numbers]
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{template}: expected {{}} or {{:05d}} where the number belongs ({error})"
        ) from error
    number, count = Counter(numbers).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{template}: number {number} is given {count} times")
    if len(set(urls)) < len(urls):
        raise ValueError(f"{template}: gives the same URL twice; it needs {{}} or {{:05d}}")
    return [Shard(name, url) for name, url in zip(_names(urls), urls, strict=True)]


def _names(urls: Sequence[str]) -> list[str]:
    """Return the ends of URLs as far as these are unique, and can be read by the end of them."""
    split = [urlsplit(url) for url in urls]
    paths = [unquote(each.path).strip("/").split("/") for each in split]
    suffixes = tuple(known_suffixes())
    short = [path[-1] for path in paths]
    queries = [each.query.split("&") for each in split]
    if len(urls) > 1:
        common = set.intersection(*map(set, queries))
        queries = [[pair for pair in query if pair not in common] for query in queries]
    asked = [quote(unquote("&".join(query)), safe="&= ") for query in queries]
    by_query = all(each.endswith(suffixes) for each in asked)
    if len(set(short)) == len(urls) and (short[0].endswith(suffixes) or not by_query):
        return short
    levels = enumerate(zip(*paths, strict=False))
    shared = next((level for level, parts in levels if len(set(parts)) > 1), 0)
    long = ["/".join(path[shared:]) for path in paths]
    if len(set(long)) == len(urls) and not by_query:
        return long
    if by_query:
        return [f"{name}/{query}" for name, query in zip(short, asked, strict=True)]
    return [f"{query}/{name}" for name, query in zip(short, asked, strict=True)]


def manifest_shards(where: str | Path, http: Http | None = None) -> list[Shard]:
    """Return the shards of a manifest, a local file or a URL.

    It is JSON: `{"shards": [{"name": ..., "size": ..., "sha256": ..., "rows": ...}]}` with an
    optional `location`, relative to the manifest; without it the name is.
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
    shown = without_password(text)
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


def write_manifest(folder: str | Path, rows: Sequence[int | None] | None = None) -> list[Shard]:
    """Write `manifest.json` for the shards of a folder, with sizes and hashes; return them."""
    found = local_shards(folder)
    entries = []
    for shard, count in zip(found, rows or [None] * len(found), strict=True):
        assert shard.local_path
        entry = {"name": shard.name, "size": shard.size, "sha256": sha256_of(shard.local_path)}
        entries.append(entry | ({} if count is None else {"rows": count}))
    text = json.dumps({"shards": entries}, indent=1) + "\n"
    path = Path(folder) / MANIFEST
    with room_on_disk(path, "free some space"):
        write_atomic(path, lambda temporary: temporary.write_text(text))
    return manifest_shards(path)


def hub_shards(
    dataset: str, pattern: str = "*.parquet", revision: str = "main", http: Http | None = None
) -> list[Shard]:
    """Return the files of a Hugging Face data set that match `pattern`, with sizes and hashes.

    The commit of `revision` is looked up once and kept in the URLs, so that later pushes change
    nothing. `HF_ENDPOINT` and `HF_TOKEN` (or the token that `hf auth login` keeps) are honoured;
    for a private data set pass the header to the cache too: `Http(headers=hub_headers())`.
    """
    http = http or Http(headers=hub_headers())
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    api = f"{endpoint}/api/datasets/{dataset}"
    try:
        commit = fetch_json(f"{api}/revision/{quote(revision, safe='')}", http)[0]["sha"]
    except (KeyError, TypeError) as error:
        raise DownloadError(f"{api}: not the answer of a hub: {error!r}") from error
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
        for entry in sorted(entries, key=lambda each: each["path"])
        if entry["type"] == "file" and fnmatch(entry["path"], pattern)
    ]
    if not shards:
        raise ValueError(f"data set {dataset} at {revision} has no file that matches {pattern!r}")
    return shards


def hub_headers() -> dict[str, str]:
    """Return the header with the user's Hugging Face token, or none."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    token = os.environ.get("HF_TOKEN")
    if not token and (home / "token").is_file():
        token = (home / "token").read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def find_shards(where: str | Path, numbers: Iterable[int] | None = None) -> list[Shard]:
    """Return shards by what `where` looks like, as the command line does.

    `hf:owner/name[:pattern]`, a template with `{}` and `numbers`, a manifest (`.json`), a URL of
    one shard, or a folder or pattern of local files.
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
            raise ValueError(f"{text}: say which numbers the template stands for")
        return http_shards(text, [0])
    if "://" in text:
        raise ValueError(f"{text}: only http://, https://, hf: and local paths are known")
    return local_shards(text)


def split_last(shards: Sequence[Shard], count: int = 1) -> tuple[list[Shard], list[Shard]]:
    """Return training and validation shards: the last `count` validate, as in nanochat."""
    if not 0 < count < len(shards):
        raise ValueError(
            f"cannot keep {count} of {len(shards)} shards for validation and have some to train "
            "on; make smaller shards (mlx-shards make --shard-chars)"
        )
    return list(shards[:-count]), list(shards[-count:])


def _join(base: str, location: str) -> str:
    if "://" in location:
        return location
    if "://" in base:
        return urljoin(base, location)
    return str(Path(base).parent / unquote(location))
