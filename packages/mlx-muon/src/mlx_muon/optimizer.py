"""`Muon`: an `mlx.optimizers.Optimizer` with parameter groups, batched matrices and AdamW.

Its state is `{"step", "learning_rate", "rates", "parameters"}`. "rates" has the learning rates set
in rules, by name ("muon", "adamw", or the group's); it is omitted if no rule sets one.
"parameters" is the model's tree, each leaf a dict: `momentum` (and `variance`) under a MuonRule,
`m`, `v` and `count` under an AdamWRule, and `mantissa` with `keep_mantissa`. All but `count` and
`mantissa` are float32. Rates in the state are those before a schedule.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_map, tree_map_with_path

from mlx_muon.batches import Numbers, Parameter, batch_bytes, update_matrices
from mlx_muon.explain import explain
from mlx_muon.groups import Assignment, Group, assign
from mlx_muon.rules import AdamWRule, MuonRule, Number, Rule, Value, value_at
from mlx_muon.state import at_path, by_path, check_fit, merge_rates, name_rates, new_state, to_tree
from mlx_muon.structure import Structure, structure_of, trainable_floats
from mlx_muon.updates import adamw_step, split_float32, to_float32


class Muon(Optimizer):
    """Muon for the matrices of a model, AdamW for everything else.

    `learning_rate` (a number, or a function of the step) and `weight_decay` apply to rules that do
    not set them. `muon` is the rule of the weights inside the model; `adamw` that of embeddings,
    heads, biases and norms, which are recognized by the model's structure, then by name. `groups`,
    each a pattern or predicate with a rule, take precedence over both. `explain(model)` shows the
    rule of each parameter, and the reason.

    Rates that are numbers are part of the state, so loading a state replaces them. Assigning to
    `learning_rate` sets the rate of all rules that do not set one, times their `relative_rate`; the
    others are in `state["rates"]`. `schedule`, a function of the step, multiplies them all. Rates
    that are functions are not part of the state. All may change inside `mx.compile` without a new
    trace.

    `keep_mantissa` stores the lower 16 bits of bfloat16 weights in the state, so that they train
    like float32 weights. `state_dtype` is the dtype of momenta and moments; bfloat16 halves their
    memory and rounds them. `max_batch_bytes` limits the matrices orthogonalized at once (default
    4 MiB on the CPU, 256 MiB on a GPU). `two_streams=True` is for CPUs whose BLAS uses one thread,
    such as with `TrainStep(threads=2)` of mlx-trainer: it orthogonalizes two halves of a batch at
    once, in batches of up to 32 MiB; by default only small matrices are halved. With a
    `distributed` group each process orthogonalizes a share of the matrices; the gradients must
    already be averaged over the processes.
    """

    def __init__(
        self,
        learning_rate: Value = 1e-3,
        *,
        weight_decay: Value = 0.0,
        muon: MuonRule | None = None,
        adamw: AdamWRule | None = None,
        groups: Sequence[Group] = (),
        schedule: Callable[[mx.array], mx.array] | None = None,
        keep_mantissa: bool = False,
        max_batch_bytes: int | None = None,
        state_dtype: mx.Dtype = mx.float32,
        two_streams: bool | None = None,
        distributed: mx.distributed.Group | None = None,
    ):
        super().__init__()
        for name, rule, kind in (("muon", muon, MuonRule), ("adamw", adamw, AdamWRule)):
            if rule is not None and not isinstance(rule, kind):
                raise TypeError(f"Muon: {name} must be {kind.__name__}, got {rule!r}")
        if not isinstance(groups, Sequence) or not all(isinstance(g, Group) for g in groups):
            raise TypeError(f"Muon: groups must be a list of Group, got {groups!r}")
        numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        for name, value in (numbers | {"max_batch_bytes": max_batch_bytes or 0}).items():
            if not callable(value) and not value >= 0:
                raise ValueError(f"Muon: {name} must not be negative, got {value}")
        if schedule is not None and callable(learning_rate):
            raise ValueError("Muon: give a schedule, or a learning_rate that is one, not both")
        if state_dtype not in (mx.float32, mx.bfloat16):
            # Squares of gradients of 256 are infinite in float16.
            raise ValueError(f"Muon: state_dtype must be float32 or bfloat16, got {state_dtype}")
        self.base_rate = learning_rate
        self.weight_decay = weight_decay
        self.muon = muon or MuonRule()
        self.adamw = adamw or AdamWRule()
        self.groups = tuple(groups)
        self.schedule = schedule
        self.keep_mantissa = keep_mantissa
        self.max_batch_bytes = max_batch_bytes
        self.state_dtype = state_dtype
        self.two_streams = two_streams
        self.distributed = distributed
        self._assignments: dict[str, Assignment] = {}
        self._structure: Structure | None = None  # of the last model seen
        self._unused: set[str] = set()  # paths whose state no update has used yet
        self._rates = name_rates(self.muon, self.adamw, self.groups)
        self._complete_rates()

    def init(self, parameters: dict) -> None:
        """Choose the rule of each parameter and create its state; existing state is kept.

        Pass the model itself: its structure takes precedence over names, and only its trainable
        parameters count. The first `update` calls this.

        Raises `ValueError` if a rule does not fit a parameter, or loaded state its shape.
        """
        if unknown := set(self.state) - {"step", "learning_rate", "rates", "parameters"}:
            raise ValueError(
                f"the state has {', '.join(sorted(unknown))}, which this optimizer does not use; "
                "import the state of another optimizer by load_mlx_state"
            )
        self._complete_rates()
        self.recognize(parameters)
        held = by_path(self.state.get("parameters", {}))
        structure = self._structure or structure_of(parameters, held)
        for path, parameter in trainable_floats(parameters).items():
            if path not in self._assignments:
                self._assignments[path] = self._assign(path, parameter, structure)
            wanted = self._new_state(path, parameter)
            if path in held:
                check_fit(path, wanted, held[path], parameter.shape if self.keep_mantissa else None)
            else:
                self._unused.add(path)
            held[path] = wanted | held.get(path, {})
        self.state["parameters"] = to_tree(held)
        self._initialized = True

    def assignment(self, path: str, parameter: mx.array) -> Assignment:
        """Return the group, rule and matrices of the parameter at `path`."""
        known = self._assignments.get(path)
        return known or self._assign(path, parameter, self._structure or Structure())

    def _assign(self, path: str, parameter: mx.array, structure: Structure) -> Assignment:
        return assign(path, parameter, self.groups, self.muon, self.adamw, structure)

    def _new_state(self, path: str, parameter: mx.array) -> dict[str, mx.array]:
        return new_state(self._assignments[path], parameter, self.state_dtype, self.keep_mantissa)

    def recognize(self, model: dict) -> None:
        """Read the structure of a model, as `init` and `update` do; ignore other trees.

        Rules that `init` chose without the structure are rechosen, for parameters without an
        update. State that still fits is kept: in `mx.compile` new zeros would never change.
        """
        if not isinstance(model, nn.Module):
            return
        structure = structure_of(model)
        if structure == self._structure:
            return
        self._structure = structure
        held = by_path(self.state.get("parameters", {}))
        for path, parameter in trainable_floats(model).items():
            if path in self._unused:
                self._assignments[path] = self._assign(path, parameter, structure)
                wanted = self._new_state(path, parameter)
                fitting = {name: array for name, array in held[path].items()
                           if name in wanted and wanted[name].shape == array.shape}  # fmt: skip
                held[path] = wanted | fitting
        self.state["parameters"] = to_tree(held)

    def apply_gradients(self, gradients: dict, parameters: dict) -> dict:
        """Return the updated parameters, in the structure of `gradients`.

        Parameters unfrozen since the last update get their state here.
        """
        if self._unused or not self._initialized:
            self.recognize(parameters)
        known = self._assignments.keys() >= trainable_floats(gradients).keys()
        if not (self._initialized and known):
            # Not with the gradients, whose dtype may differ.
            self.init(tree_map(lambda _, parameter: parameter, gradients, parameters))
        if callable(self.base_rate):
            self.learning_rate = value_at(self.base_rate, self.step)
        found: dict[str, Parameter] = {}

        def collect(path: str, gradient: mx.array, weight: mx.array) -> None:
            if path not in self._assignments:
                return
            if gradient.shape != weight.shape:
                raise ValueError(
                    f"{path}: the gradient has shape {gradient.shape}, the parameter {weight.shape}"
                )
            state = at_path(self.state["parameters"], path)
            full = to_float32(weight, state.get("mantissa"))
            gradient = gradient.astype(mx.float32)
            found[path] = Parameter(self._assignments[path], gradient, full, state)

        def finish(path: str, _: mx.array, old: mx.array) -> mx.array:
            if path not in found:
                return old
            weight, state = found[path].weight, found[path].state
            if not (self.keep_mantissa and old.dtype == mx.bfloat16):
                state.pop("mantissa", None)  # the weight was cast to another dtype
                return weight.astype(old.dtype)
            weight, state["mantissa"] = split_float32(weight)
            return weight

        tree_map_with_path(collect, gradients, parameters)
        updated, size = list(found.values()), self.max_batch_bytes
        self._update_by_adamw(updated)
        size = batch_bytes(self.two_streams) if size is None else size
        update_matrices(updated, self._numbers, size, self.two_streams, self.distributed)
        self.state["step"] = self.step + 1
        self._unused -= found.keys()
        return tree_map_with_path(finish, gradients, parameters)

    def _update_by_adamw(self, parameters: list[Parameter]) -> None:
        for each in parameters:
            rule, state = each.assignment.rule, each.state
            if isinstance(rule, AdamWRule):
                decays = each.weight.ndim >= 2 or rule.decay_vectors
                rate, decay = self.rate_of(rule), self.decay_of(rule) if decays else 0.0
                beta1, beta2 = (value_at(beta, self.step) for beta in rule.betas)
                each.weight = adamw_step(
                    each.gradient, each.weight, state, (beta1, beta2), rule.eps, rate, decay
                )

    def _numbers(self, rule: MuonRule) -> Numbers:
        momentum, beta2 = value_at(rule.momentum, self.step), value_at(rule.beta2, self.step)
        return Numbers(self.rate_of(rule), self.decay_of(rule), momentum, beta2)

    @property
    def learning_rate(self) -> mx.array:
        """The optimizer's rate at this step, after the schedule; assign the rate before it.

        For a `learning_rate` that is a function, its value at the last update, as in MLX.
        """
        return self._scheduled(self.state["learning_rate"])  # type: ignore[return-value]

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        self.state["learning_rate"] = mx.array(learning_rate, mx.float32)

    def rate_of(self, rule: Rule) -> Number:
        """Return the learning rate of `rule` at this step, without its `scale`."""
        if callable(rule.learning_rate):
            return value_at(rule.learning_rate, self.step)
        return self._scheduled(self._unscheduled_rate(rule))

    def decay_of(self, rule: Rule) -> Number:
        """Return the weight decay of `rule` at this step."""
        own = self.weight_decay if rule.weight_decay is None else rule.weight_decay
        return value_at(own, self.step)

    def _unscheduled_rate(self, rule: Rule) -> Number:
        """Return the rate of a rule from the state."""
        if rule.learning_rate is None:
            return self.state["learning_rate"] * rule.relative_rate
        name, rate = self._rates[id(rule)]
        held: Any = self.state.get("rates", {})
        return held.get(name, rate)

    def _scheduled(self, rate: Number) -> Number:
        return rate if self.schedule is None else rate * value_at(self.schedule, self.step)

    def _complete_rates(self) -> None:
        """Add the rates that the state does not have yet."""
        if callable(self.base_rate) or "learning_rate" not in self.state:
            self.learning_rate = value_at(self.base_rate, self.step)
        state: Any = self.state
        if rates := merge_rates(self._rates, state.get("rates", {})):
            state["rates"] = rates

    def explain(self, parameters: dict) -> str:
        """Return a table of the rule and current rate of each parameter, with the reasons.

        `parameters` is the model or a tree.
        """
        is_model = isinstance(parameters, nn.Module)
        structure = (not is_model and self._structure) or structure_of(parameters)
        found = []
        for path, array in trainable_floats(parameters).items():
            known = path not in self._unused and self._assignments.get(path)
            found.append((path, array, known or self._assign(path, array, structure)))
        return explain(self._describe_rate, self.weight_decay, self.groups, found)

    def _describe_rate(self, rule: Rule) -> str:
        own = self.base_rate if rule.learning_rate is None else rule.learning_rate
        text = "scheduled" if callable(own) else f"{float(self._unscheduled_rate(rule)):g}"
        if self.schedule is not None and not callable(own):  # a schedule multiplies numbers only
            text += " x schedule"
        if self.schedule is not None or callable(own):
            text += f" (now {float(self.rate_of(rule)):g})"
        return text

    def __deepcopy__(self, memo: dict) -> "Muon":
        """Copy the state; rules are immutable, and their dtypes cannot be copied."""
        new = copy.copy(self)
        new._state = copy.deepcopy(self._state, memo)
        new._assignments, new._unused = self._assignments.copy(), self._unused.copy()
        return new
