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
from mlx_encoders.batching import Batch, padding_share, plan_batches
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
    task_class,
)
from mlx_encoders.masking import (
    Masking,
    encode_words,
    mask_tokens,
    masked_lm_loss,
    masked_positions,
    masking_of,
)
from mlx_encoders.modernbert import ModernBertConfig, ModernBertModel
from mlx_encoders.neobert import NeoBertConfig, NeoBertModel
from mlx_encoders.packing import PackedBatch, pack, pool_segments, unpack
from mlx_encoders.pooling import Pooling
from mlx_encoders.presets import PRESETS, count_parameters, get_preset
from mlx_encoders.pretrained import EncoderModel, EncoderOutput, PretrainedModel
from mlx_encoders.pretraining import PretrainingReport, PretrainingStep, masked_lm_class, pretrain
from mlx_encoders.pretraining_settings import PretrainingSettings
from mlx_encoders.quantization import dequantize, quantization_config, quantize
from mlx_encoders.sentence import SentenceEncoder
from mlx_encoders.shrinking import (
    Importance,
    keep_layers,
    measure_importance,
    prune_heads,
    prune_units,
    sensitivity_loss,
)
from mlx_encoders.similarity import cosine_similarity, search
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
from mlx_encoders.text_files import read_texts
from mlx_encoders.tokenizer import Tokenizer
from mlx_encoders.tokenizer_training import train_tokenizer
from mlx_encoders.vocabulary import (
    TokenComparison,
    TrimReport,
    compare_tokens,
    trim_vocabulary,
)

__all__ = [
    "PRESETS",
    "TASK_CLASSES",
    "Batch",
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
    "Masking",
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
    "PackedBatch",
    "Pooling",
    "PretrainedModel",
    "PretrainingReport",
    "PretrainingSettings",
    "PretrainingStep",
    "SentenceEncoder",
    "TokenComparison",
    "Tokenizer",
    "TrimReport",
    "awp_loss",
    "awp_perturbation",
    "build_model",
    "compare_tokens",
    "cosine_similarity",
    "count_parameters",
    "dequantize",
    "distillation_loss",
    "encode_words",
    "fgm_loss",
    "fgm_perturbation",
    "find_folder",
    "get_preset",
    "hidden_state_loss",
    "keep_layers",
    "layer_index",
    "load",
    "load_config",
    "load_model",
    "load_task_model",
    "mask_tokens",
    "masked_lm_class",
    "masked_lm_loss",
    "masked_positions",
    "masking_of",
    "measure_importance",
    "pack",
    "padding_share",
    "plan_batches",
    "pool_segments",
    "pretrain",
    "prune_heads",
    "prune_units",
    "quantization_config",
    "quantize",
    "r_drop_loss",
    "read_texts",
    "save",
    "search",
    "sensitivity_loss",
    "spaced_layers",
    "student_of",
    "task_class",
    "train_tokenizer",
    "trim_vocabulary",
    "unpack",
    "value_distillation_loss",
]
