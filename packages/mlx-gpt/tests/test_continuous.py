"""Texts in a running batch are those of the same requests alone."""

import random
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from serve_models import CONTEXT, FAMILIES, make_model

from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.models.ragged import RaggedCache, first_tokens
from mlx_gpt.serve.generation import Generate
from mlx_gpt.tokenizer import Tokenizer
