"""Encoders with a task head, under the names of transformers."""

from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tasks.bert import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from mlx_encoders.tasks.modernbert import (
    ModernBertForMaskedLM,
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
)
from mlx_encoders.tasks.neobert import NeoBertForMaskedLM, NeoBertForSequenceClassification

_CLASSES: tuple[type[PretrainedModel], ...] = (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    ModernBertForMaskedLM,
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    NeoBertForMaskedLM,
    NeoBertForSequenceClassification,
)
TASK_CLASSES: dict[str, type[PretrainedModel]] = {
    each.architecture or each.__name__: each for each in _CLASSES
}
"""The classes by their name in `config.json`."""

__all__ = [
    "TASK_CLASSES",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "ModernBertForMaskedLM",
    "ModernBertForMultipleChoice",
    "ModernBertForQuestionAnswering",
    "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification",
    "NeoBertForMaskedLM",
    "NeoBertForSequenceClassification",
]
