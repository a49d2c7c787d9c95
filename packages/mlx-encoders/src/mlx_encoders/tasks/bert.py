"""BERT with the heads of transformers. Arguments are those of the encoder."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.bert import BertConfig, BertModel
from mlx_encoders.config import get_activation
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tasks.choices import merge_choices, refuse_segments


class BertTaskModel(PretrainedModel):
    """A BERT encoder at `bert`, to which a child adds a head."""

    config_class = BertConfig
    base_prefix = "bert."

    def __init__(self, config: BertConfig, pooler: bool):
        super().__init__()
        self.config = replace(config, add_pooling_layer=pooler)
        self.bert = BertModel(self.config)


class BertForMaskedLM(BertTaskModel):
    """Logits (B, L, vocab_size) of the token at each position."""

    def __init__(self, config: BertConfig):
        super().__init__(config, pooler=False)
        self.cls = _MaskedLMHead(config)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        return self.logits(self.bert(*arguments, **options))

    def logits(self, hidden: mx.array) -> mx.array:
        """Return the logits (..., vocab_size) of hidden states (..., D), of masked tokens only."""
        return self.cls.predictions(hidden, self.bert.get_input_embeddings())


class _MaskedLMHead(nn.Module):
    """A module of its own for the name `cls.predictions`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.predictions = _Predictions(config)


class _Predictions(nn.Module):
    """Transform, then the product with the word embeddings or, untied, with `decoder`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.transform = _Transform(config)
        if config.tie_word_embeddings:
            self.bias = mx.zeros(config.vocab_size)
        else:
            self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def __call__(self, hidden: mx.array, embeddings: nn.Embedding) -> mx.array:
        hidden = self.transform(hidden)
        if "decoder" in self:
            return self.decoder(hidden)
        return embeddings.as_linear(hidden) + self.bias


class _Transform(nn.Module):
    """Dense, activation, LayerNorm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = get_activation(config.hidden_act)

    def __call__(self, hidden: mx.array) -> mx.array:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class BertForSequenceClassification(BertTaskModel):
    """Logits (B, num_labels) of each row, from the pooled first token."""

    def __init__(self, config: BertConfig):
        super().__init__(config, pooler=True)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        refuse_segments(self, options)
        return self.head(self.bert(*arguments, **options))

    def head(self, hidden: mx.array) -> mx.array:
        """Return the logits (B, num_labels) of hidden states (B, L, D)."""
        return self.classifier(self.dropout(self.bert.pooled(hidden)))


class BertForTokenClassification(BertTaskModel):
    """Logits (B, L, num_labels) of each token."""

    def __init__(self, config: BertConfig):
        super().__init__(config, pooler=False)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        return self.classifier(self.dropout(self.bert(*arguments, **options)))


class BertForQuestionAnswering(BertTaskModel):
    """Logits of the first and of the last token of the answer, each (B, L)."""

    def __init__(self, config: BertConfig):
        super().__init__(replace(config, num_labels=2, id2label=None), pooler=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def __call__(self, *arguments: Any, **options: Any) -> tuple[mx.array, mx.array]:
        """Return the logits."""
        logits = self.qa_outputs(self.bert(*arguments, **options))
        return logits[..., 0], logits[..., 1]


class BertForMultipleChoice(BertTaskModel):
    """Logits (B, choices) of ids (B, choices, L)."""

    def __init__(self, config: BertConfig):
        super().__init__(config, pooler=True)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        **options: Any,
    ) -> mx.array:
        """Return the logits."""
        merged, choices = merge_choices(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            **options,
        )
        pooled = self.bert.pooled(self.bert(**merged))
        return self.classifier(self.dropout(pooled)).reshape(-1, choices)


class BertForNextSentencePrediction(BertTaskModel):
    """Logits (B, 2): 0 that the second text follows the first, 1 that it does not."""

    def __init__(self, config: BertConfig):
        super().__init__(config, pooler=True)
        self.cls = _NextSentenceHead(config)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Return the logits."""
        refuse_segments(self, options)
        return self.cls.seq_relationship(self.bert.pooled(self.bert(*arguments, **options)))


class _NextSentenceHead(nn.Module):
    """A module of its own for the name `cls.seq_relationship`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


def _classifier_dropout(config: BertConfig) -> nn.Dropout:
    dropout = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
