"""The training step and loop that MLX does not have, as a library of functions.

`TrainStep` makes one exact update from one or several micro-batches; `fit` loops over it with
evaluation, early stopping and checkpoints; `plan_batches` plans batches of few shapes;
`Checkpoints` survive a kill; `RunFolder`, `load_config` and `Progress` record and show a run.

Names are imported at their first use (`__init__.pyi` has them all), so that a command line can read
settings and show its help without loading MLX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
