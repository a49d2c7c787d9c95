"""The sections of the configuration that shape the network: encoder, adapters, head, loss."""

from dataclasses import dataclass
from typing import Literal

from mlx_trainer import setting


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder: pretrained, or small and from scratch, shaped by the last six settings."""

    path: str = setting(
        "",
        "Folder or hub id of a BERT, ModernBERT, NeoBERT; 'scratch' for a small one from scratch.",
        flag="--encoder",
        default_text="of the preset",
    )
    freeze: Literal["none", "embeddings", "half", "all"] = setting(
        "none", "Frozen part; half is the embeddings and the lower half of the layers."
    )
    quantize: int | None = setting(
        None,
        "Bits of the encoder's matrices, with --lora; the embeddings stay as they are.",
        flag="--quantize",
        default_text="of --lora: 4 for the presets qlora_..., else none",
        at_least=2,
        at_most=8,
    )
    dropout: float | None = setting(
        None, "Dropout; by default of the encoder's config, 0.1 from scratch.", at_least=0, below=1
    )
    attention_dropout: float = setting(
        0.0, "Dropout of attention weights; disables fused attention.", at_least=0, below=1
    )
    tokenizer: Literal["wordpiece", "bpe"] = setting("wordpiece", "Kind of the tokenizer.")
    vocab_size: int = setting(4096, "Tokens of the vocabulary.", at_least=1)
    hidden_size: int = setting(128, "Width.", at_least=1)
    num_hidden_layers: int = setting(2, "Layers.", at_least=1)
    num_attention_heads: int = setting(2, "Attention heads of a layer.", at_least=1)
    intermediate_size: int = setting(384, "Width of the feed-forward network.", at_least=1)

    def __post_init__(self) -> None:
        if self.quantize == 7:
            raise ValueError("quantize must be 2, 3, 4, 5, 6 or 8 bits, got 7")
        if self.path == "scratch":
            object.__setattr__(self, "path", "")
        if not self.path and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}), got {self.hidden_size}"
            )


@dataclass(frozen=True)
class LoraSettings:
    """Adapters in a pretrained encoder, whose own weights then stay as they are."""

    preset: Literal[
        "none", "efficient", "balanced", "expressive", "qlora_memory", "qlora_quality"
    ] = setting("none", "Train adapters and the head alone, see below.", flag="--lora")
    r: int | None = setting(None, "Rank.", at_least=1, default_text="of the preset")
    alpha: float | None = setting(
        None, "The scale is alpha / r.", above=0, default_text="twice the rank"
    )
    targets: tuple[str, ...] = setting((), "Suffixes of module paths; default: of the preset.")
    dropout: float = setting(0.0, "Dropout of the inputs of adapters.", at_least=0, below=1)
    dora: bool = setting(False, "DoRA: magnitude and direction apart.")
    rslora: bool = setting(False, "Scale alpha / sqrt(r).")
    init: Literal["kaiming", "gaussian", "pissa", "olora"] = setting(
        "kaiming", "Initial values; pissa and olora are a part of the weights."
    )
    rate: float = setting(10.0, "Multiplier of the rate of the adapters.", above=0)
    plus_ratio: float = setting(
        1.0, "LoRA+: multiplier of the rate of B on top of that.", at_least=1
    )


@dataclass(frozen=True)
class HeadSettings:
    """The head of the network, and its numeric and categorical features."""

    pooling: str = setting(
        "mean",
        "Pooling of the token states: cls, mean, max, last, attention, or several as cls+mean.",
    )
    layer_mix: bool = setting(False, "Pool a learned mean of all layers, not the last one.")
    dropout: float = setting(0.1, "Dropout of the pooled states.", at_least=0, below=1)
    hidden_size: int = setting(0, "Width of a hidden layer, 0 for none.", at_least=0)
    numeric_features: bool = setting(
        True,
        "Numbers, parts of dates and categories also feed the head and the linear model.",
        flag="--numeric-features",
    )
    words: bool = setting(True, "Words of text columns (tf-idf) feed the linear model.")
    feature_size: int = setting(64, "Width of the numeric branch.", at_least=1)

    def __post_init__(self) -> None:
        from mlx_heads import pooled_size

        pooled_size(1, self.pooling)  # refuses an unknown pooling


@dataclass(frozen=True)
class LossSettings:
    """The loss of the training, and its options."""

    name: str | None = setting(
        None, "Loss of the task, see below.", flag="--loss", default_text="by task"
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "Weights of classes: balanced gives all the same sum. For labels, of the positive."
    )
    label_smoothing: float = setting(0.0, "Label smoothing of classes.", at_least=0, below=1)
    gamma: float = setting(2.0, "Focus of the focal loss on wrong rows.", at_least=0)
    delta: float = setting(1.0, "Error at which the Huber loss becomes linear.", above=0)
    coverage: float = setting(
        0.9,
        "Share of rows that intervals of gaussian_nll, beta_nll, quantile cover.",
        above=0,
        below=1,
    )
    r_drop: float = setting(
        0.0, "Weight of R-Drop: two passes with dropout shall agree. Doubles the time.", at_least=0
    )
