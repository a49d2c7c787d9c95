"""A tiny tokenizer and a tiny model, the same for all tests."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import settings
from mlx.utils import tree_map
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from mlx_gpt.models.files import save_model
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parent))  # tests share decoder_folders.py

settings.register_profile("loaded", deadline=None)  # a busy machine is no failure
settings.load_profile("loaded")

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATH, TMPDIR = os.environ["PATH"], tempfile.gettempdir()

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "What is 12 times 7? It is 84, and 84 plus 3 is 87.",
    "How many r are in strawberry? There are three of them.",
    "She said: it's late, we'll go home; they've gone already!",
    "Ein Zug fährt über die Brücke, 東京 was far away.",
]


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """Compile nothing, here and in processes begun by tests: a kernel takes a CPU a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        mx.disable_compile()
        yield
    mx.enable_compile()


@pytest.fixture
def compiled(uncompiled: None) -> Iterator[None]:
    """Compile all the same: what is compiled must be what was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLX_DISABLE_COMPILE")
        # Commands that ran in this process have set flags for this CPU, with which kernels take
        # a second each: nox has precompiled their header for MLX's own flags.
        patch.setenv("PATH", PATH)
        patch.setenv("TMPDIR", TMPDIR)
        mx.enable_compile()
        yield
    mx.disable_compile()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """A few hundred short documents."""
    chosen = np.random.default_rng(0).integers(0, len(SENTENCES), (300, 4))
    return [" ".join(SENTENCES[i] for i in row) for row in chosen]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer of 384 tokens, the specials included."""
    return Tokenizer.train(texts, vocab_size=384)


@pytest.fixture
def tiny_model(tokenizer: Tokenizer) -> Nanochat:
    """Two layers of 64 dimensions; no weight is zero."""
    config = NanochatConfig(
        sequence_len=64, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=4, n_kv_head=2,
        n_embd=64, window_pattern="SL",
    )  # fmt: skip
    model = Nanochat(config).initialize(mx.random.key(0))
    random = np.random.default_rng(0)
    model.update(
        tree_map(
            lambda p: p + mx.array(random.normal(scale=0.1, size=p.shape).astype(np.float32)),
            model.parameters(),
        )
    )
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="session")
def write_pretrained() -> Callable[..., Path]:
    """A function that writes the tokenizer of the chat fixtures into a folder.

    `template` is its chat template; other arguments go into `tokenizer_config.json`.
    """
    fixtures = Path(__file__).parent / "fixtures/chat_templates.json"
    layout = json.loads(fixtures.read_text(encoding="utf-8"))["tokenizer"]

    def write(folder: Path, template: object = None, **config: object) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
        config = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", **config}
        config |= {"chat_template": template} if template else {}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> str:
    """A folder of a Llama of two layers of 64 dimensions, with a tokenizer and a chat template."""
    return write_llama(tmp_path_factory.mktemp("llama"), texts[:50])


def write_llama(folder: Path, texts: list[str]) -> str:
    """Write a model folder of two layers of 32 dimensions; return its path."""
    tokenizer = HubTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, show_progress=False, initial_alphabet=alphabet,
    ))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = Llama(LlamaConfig(320, 64, 96, 2, 4, 2, 16, 128))
    save_model(model, folder)
    return str(folder)
