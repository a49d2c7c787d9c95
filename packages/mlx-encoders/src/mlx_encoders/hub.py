"""A folder or a Hugging Face hub id, to a local folder."""

from pathlib import Path

from huggingface_hub import snapshot_download

_NEEDED_FILES = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
]


def find_folder(name: str | Path) -> Path:
    """Return the local folder `name`, or download the hub repository of that id and return it.

    Only the files an encoder needs are fetched, into the cache of `huggingface_hub`. Raises
    `FileNotFoundError` when there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {str(name)!r}")
    try:
        return Path(snapshot_download(name, allow_patterns=_NEEDED_FILES))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is no local folder, and no hub repository of that id could be fetched or "
            f"found in the local cache ({type(error).__name__}); check the spelling, the network "
            f"and, for private repositories, the login"
        ) from error
