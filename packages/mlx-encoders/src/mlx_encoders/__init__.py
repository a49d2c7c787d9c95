"""BERT, ModernBERT and NeoBERT encoders in MLX that load and save Hugging Face folders.

`load` a folder or hub id, or `build_model` from a config and `train_tokenizer` on your own texts. A
model maps ids (B, L) and a padding mask to hidden states (B, L, hidden_size).
"""

from mlx_encoders.adversarial import (
    awp_loss,
    awp_perturbation,
    fgm_loss,
    fgm_perturbation,
    r_drop_loss,
)
from mlx_encoders.bert import BertConfig, BertModel
from mlx_encoders.build import EncoderConfig, build_model, layer_index
from mlx_encoders.distillation import (
    distillation_loss,
    hidden_state_loss,
    spaced_layers,
    student_of,
    value_distillation_loss,
)
from mlx_encoders.files import find_folder
from mlx_encoders.folders import (
    LoadReport,
    load,
    load_config,
    load_model,
    load_task_model,
    save,
)
from mlx_encoders.modernbert import ModernBertConfig, ModernBertModel
from mlx_encoders.neobert import NeoBertConfig, NeoBertModel
from mlx_encoders.pretrained import EncoderModel, EncoderOutput, PretrainedModel
from mlx_encoders.shrinking import (
    Importance,
    keep_layers,
    measure_importance,
    prune_heads,
    prune_units,
    sensitivity_loss,
)
from mlx_encoders.tasks import (
    TASK_CLASSES,
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
from mlx_encoders.tokenizer import Tokenizer
from mlx_encoders.tokenizer_training import train_tokenizer
from mlx_encoders.vocabulary import (
    TokenComparison,
    TrimReport,
    compare_tokens,
    trim_vocabulary,
)

__all__ = [
    "TASK_CLASSES",
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "EncoderConfig",
    "EncoderModel",
    "EncoderOutput",
    "Importance",
    "LoadReport",
    "ModernBertConfig",
    "ModernBertForMaskedLM",
    "ModernBertForMultipleChoice",
    "ModernBertForQuestionAnswering",
    "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification",
    "ModernBertModel",
    "NeoBertConfig",
    "NeoBertForMaskedLM",
    "NeoBertForSequenceClassification",
    "NeoBertModel",
    "PretrainedModel",
    "TokenComparison",
    "Tokenizer",
    "TrimReport",
    "awp_loss",
    "awp_perturbation",
    "build_model",
    "compare_tokens",
    "distillation_loss",
    "fgm_loss",
    "fgm_perturbation",
    "find_folder",
    "hidden_state_loss",
    "keep_layers",
    "layer_index",
    "load",
    "load_config",
    "load_model",
    "load_task_model",
    "measure_importance",
    "prune_heads",
    "prune_units",
    "r_drop_loss",
    "save",
    "sensitivity_loss",
    "spaced_layers",
    "student_of",
    "train_tokenizer",
    "trim_vocabulary",
    "value_distillation_loss",
]
