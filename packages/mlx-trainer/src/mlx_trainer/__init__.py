"""The training step and loop that MLX leaves to its users, as functions you call.

`TrainStep` makes one exact update from one or several micro-batches; `fit` loops over it with
evaluation, early stopping and checkpoints; `plan_batches` makes few padded shapes; `Checkpoints`
survive being killed; `RunFolder`, `load_config` and `Progress` describe, record and show a run.

Names are imported at their first use (`__init__.pyi` has them all), so that a command line can read
settings and show its help without loading MLX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
