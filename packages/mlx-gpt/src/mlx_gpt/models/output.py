"""Write whole model folders: a new one, or in place of one that this package wrote."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import (
    CONFIG,
    MODEL_FILES,
    read_tokenizer_hash,
    save_manifest,
    save_model,
)
from mlx_gpt.models.shards import WEIGHTS
from mlx_trainer import MANIFEST

# Beside the weights and the config: what tokenizers, chat templates and generation need.
COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "generation_config.json"),
    *("chat_template.jinja", "chat_template.json"),
)
_TEMPLATES = "additional_chat_templates"
_OWN = frozenset((*MODEL_FILES, *COMPANIONS, _TEMPLATES))


@contextmanager
def new_model_folder(output: Path, source: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `output` at the end, unless there was an error.

    Raises `ValueError` if `output` exists: with `overwrite` only if it is or contains `source`, has
    no manifest and so is not ours, or has files of others.
    """
    _check_output(output, source, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        folder.chmod(0o755)
        yield folder
        if output.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
            output.rename(old / "model")
            folder.rename(output)
            shutil.rmtree(old)
        else:
            folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_output(output: Path, source: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output} is a file; name a new folder")
    names = sorted(each.name for each in output.iterdir())
    if not names:
        output.rmdir()
        return
    if not overwrite:
        raise ValueError(f"{output} exists; name a new folder, or replace it with --overwrite")
    if output.resolve() in (source.resolve(), *source.resolve().parents):
        raise ValueError(f"{output} has the model that is read; name another folder")
    if MANIFEST not in names:
        raise ValueError(
            f"{output} was not written by mlx-gpt (it has no {MANIFEST}) and is not replaced"
        )
    if others := [name for name in names if name not in _OWN]:
        raise ValueError(f"{output} has other files, as {others[0]}; move them away first")


def write_model_folder(
    model: Decoder,
    source: Path,
    output: Path,
    overwrite: bool = False,
    tokenizer: Path | None = None,
) -> int:
    """Write a model as a folder, with the tokenizer's files of `source`; return its bytes.

    `tokenizer` is another folder whose tokenizer's files are preferred. Raises `ValueError` as
    `new_model_folder`.
    """
    with new_model_folder(output, source, overwrite) as folder:
        save_model(model, folder, read_tokenizer_hash(source))
        for origin in (source, tokenizer or source):
            for name in COMPANIONS:
                if (origin / name).is_file():
                    shutil.copyfile(origin / name, folder / name)
            if (origin / _TEMPLATES).is_dir():
                shutil.copytree(origin / _TEMPLATES, folder / _TEMPLATES, dirs_exist_ok=True)
        save_manifest(folder)
    return sum((output / name).stat().st_size for name in (CONFIG, WEIGHTS))
