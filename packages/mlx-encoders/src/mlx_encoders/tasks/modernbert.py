"""ModernBERT with the heads of transformers. Arguments are those of the encoder."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.config import get_activation
from mlx_encoders.modernbert import ModernBertConfig, ModernBertModel
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tasks.choices import first_valid, mean_of_valid, merge_choices, refuse_segments


class ModernBertTaskModel(PretrainedModel):
    """A ModernBERT encoder at `model` with a prediction head, to which a child adds a layer."""

    config_class = ModernBertConfig
    base_prefix = "model."

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.config = config
        self.model = ModernBertModel(config)
        self.head = _PredictionHead(config)


class _PredictionHead(nn.Module):
    """Dense, activation, LayerNorm."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        D = config.hidden_size
        self.dense = nn.Linear(D, D, bias=config.classifier_bias)
        self.activation = get_activation(config.classifier_activation)
        self.norm = nn.LayerNorm(D, eps=config.norm_eps, bias=config.norm_bias)

    def __call__(self, hidden: mx.array) -> mx.array:
        return self.norm(self.activation(self.dense(hidden)))


class ModernBertForMaskedLM(ModernBertTaskModel):
    """Logits (B, L, vocab_size) of the token at each position."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.decoder = _Decoder(config)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        return self.logits(self.model(*arguments, **options))

    def logits(self, hidden: mx.array) -> mx.array:
        """Return the logits (..., vocab_size) of hidden states (..., D), of masked tokens only."""
        return self.decoder(self.head(hidden), self.model.get_input_embeddings())


class _Decoder(nn.Module):
    """The product with the word embeddings or, untied, with a weight of its own, and a bias."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        if not config.tie_word_embeddings:
            self.weight = mx.zeros((config.vocab_size, config.hidden_size))
        if config.decoder_bias:
            self.bias = mx.zeros(config.vocab_size)

    def __call__(self, hidden: mx.array, embeddings: nn.Embedding) -> mx.array:
        logits = hidden @ self.weight.T if "weight" in self else embeddings.as_linear(hidden)
        return logits + self.bias if "bias" in self else logits


class ModernBertForSequenceClassification(ModernBertTaskModel):
    """Logits (B, num_labels) of each row, from its first token or the mean of its tokens.

    The first token is the first that is not padding. With padding on the left transformers takes
    position 0 instead, whose hidden state is that of padding.
    """

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, **options: Any
    ) -> mx.array:
        """Return the logits."""
        refuse_segments(self, options)
        hidden = self.model(input_ids, attention_mask, **options)
        pool = mean_of_valid if self.config.classifier_pooling == "mean" else first_valid
        return self.classifier(self.drop(self.head(pool(hidden, attention_mask))))


class ModernBertForTokenClassification(ModernBertTaskModel):
    """Logits (B, L, num_labels) of each token."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        return self.classifier(self.drop(self.head(self.model(*arguments, **options))))


class ModernBertForQuestionAnswering(ModernBertTaskModel):
    """Logits of the first and of the last token of the answer, each (B, L)."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(replace(config, num_labels=2, id2label=None))
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def __call__(self, *arguments: Any, **options: Any) -> tuple[mx.array, mx.array]:
        """Return the logits."""
        logits = self.classifier(self.drop(self.head(self.model(*arguments, **options))))
        return logits[..., 0], logits[..., 1]


class ModernBertForMultipleChoice(ModernBertTaskModel):
    """Logits (B, choices) of ids (B, choices, L); pools the first token that is not padding."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, **options: Any
    ) -> mx.array:
        """Return the logits."""
        merged, choices = merge_choices(
            input_ids=input_ids, attention_mask=attention_mask, **options
        )
        pool = mean_of_valid if self.config.classifier_pooling == "mean" else first_valid
        pooled = pool(self.model(**merged), merged.get("attention_mask"))
        return self.classifier(self.drop(self.head(pooled))).reshape(-1, choices)
