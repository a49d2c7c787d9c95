"""Load the tokenizer of a model folder, whichever family the model is of."""

import json
from pathlib import Path

from mlx_gpt.tokenizer.pretrained import PretrainedTokenizer
from mlx_gpt.tokenizer.tokenizer import SPECIALS, Tokenizer

AnyTokenizer = Tokenizer | PretrainedTokenizer

_OTHER_FILES = ("tokenizer.model", "vocab.json", "spiece.model")


def load_tokenizer(folder: str | Path) -> AnyTokenizer:
    """Return nanochat's `Tokenizer`, or a `PretrainedTokenizer` for all other models.

    A folder is nanochat's if its `config.json` says so, or has none and the tokenizer has
    nanochat's special tokens. Raises `FileNotFoundError` without a `tokenizer.json`.
    """
    folder = Path(folder).expanduser()
    path = folder / "tokenizer.json"
    if not path.is_file():
        other = next((each for each in _OTHER_FILES if (folder / each).is_file()), None)
        hint = (
            f"; convert its {other} once, with transformers' "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
        raise FileNotFoundError(f"no tokenizer: {path} does not exist{hint if other else ''}")
    return Tokenizer.load(folder) if _is_nanochat(folder) else PretrainedTokenizer(folder)


def load_chat_tokenizer(folder: str | Path, chat_template: str | None = None) -> AnyTokenizer:
    """Return the tokenizer of a model or run folder, with another chat template if one is given.

    `chat_template` is `chatml`, `plain` or a file. Raises `ValueError` for nanochat's models, whose
    format is fixed.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"  # of a run
    tokenizer = load_tokenizer(folder)
    if chat_template is not None:
        if isinstance(tokenizer, Tokenizer):
            raise ValueError(f"{folder}: nanochat's models have their own format of chats")
        tokenizer.use_chat_template(chat_template)
    return tokenizer


def _is_nanochat(folder: Path) -> bool:
    try:
        if (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text("utf-8"))
            return config.get("model_type") == "nanochat"
        layout = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        return set(SPECIALS) <= {each["content"] for each in layout["added_tokens"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: damaged tokenizer files: {error}") from error
