"""Encoders with a task head, under the names of transformers."""

from mlx_encoders.pretrained import PretrainedModel

TASK_CLASSES: dict[str, type[PretrainedModel]] = {}
