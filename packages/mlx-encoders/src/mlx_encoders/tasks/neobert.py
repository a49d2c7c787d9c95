"""NeoBERT with the heads of the hub's code. Arguments are those of the encoder."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.neobert import NeoBertConfig, NeoBertModel
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tasks.choices import refuse_segments


class NeoBertTaskModel(PretrainedModel):
    """A NeoBERT encoder at `model`, to which a child adds a head."""

    config_class = NeoBertConfig
    base_prefix = "model."

    def __init__(self, config: NeoBertConfig):
        super().__init__()
        self.config = config
        self.model = NeoBertModel(config)


class NeoBertForMaskedLM(NeoBertTaskModel):
    """Logits (B, L, vocab_size) of the token at each position; NeoBERTLMHead in its config."""

    architecture = "NeoBERTLMHead"

    def __init__(self, config: NeoBertConfig):
        super().__init__(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        return self.logits(self.model(*arguments, **options))

    def logits(self, hidden: mx.array) -> mx.array:
        """Return the logits (..., vocab_size) of hidden states (..., D), of masked tokens only."""
        return self.decoder(hidden)


class NeoBertForSequenceClassification(NeoBertTaskModel):
    """Logits (B, num_labels) of each row, from its first token."""

    architecture = "NeoBERTForSequenceClassification"

    def __init__(self, config: NeoBertConfig):
        super().__init__(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        refuse_segments(self, options)
        first = self.dropout(self.model(*arguments, **options)[:, 0])
        return self.classifier(self.dropout(mx.tanh(self.dense(first))))
