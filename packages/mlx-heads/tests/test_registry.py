import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_heads import (
    COMPETITIONS,
    DEFAULT_PRIORITY,
    METRICS,
    ClassificationHead,
    ForecastHead,
    QuantileHead,
    RegressionHead,
    focal_loss,
    get_competition,
    get_objective,
    huber,
    objective_for_competition,
    objectives,
    quantile_loss,
    register_objective,
)
from mlx_heads.registry import _OBJECTIVES, TASKS

SIZES = {
    "binary": 2,
    "multiclass": 3,
    "multilabel": 3,
    "regression": 1,
    "ordinal": 4,
    "forecast": 3,
    "embedding": 4,
    "ranking": 1,
}


def built_in(task):
    """The names of objectives that no README and no other distribution registered."""
    ours = (get_objective(task, name) for name in objectives(task))
    return [each.name for each in ours if each.head.__module__.startswith("mlx_heads.")]


ALL = [(task, name) for task in TASKS for name in built_in(task)]


@pytest.fixture
def restored():
    """Undo what a test registers."""
    objectives("binary")  # load the entry points of this environment first
    before = dict(_OBJECTIVES)
    yield
    _OBJECTIVES.clear()
    _OBJECTIVES.update(before)


def test_the_built_in_objectives_are_those_of_the_documentation():
    assert {task: built_in(task) for task in TASKS} == {
        "binary": ["cross_entropy", "focal", "asymmetric"],
        "multiclass": ["cross_entropy", "focal"],
        "multilabel": ["cross_entropy", "focal", "asymmetric"],
        "regression": [
            *("mse", "huber", "mae", "log_cosh", "quantile", "gaussian_nll", "beta_nll", "msle")
        ],
        "ordinal": [
            *("corn", "coral", "cumulative_logit", "cumulative_probit", "cumulative_cloglog"),
            *("cross_entropy", "mse"),
        ],
        "forecast": ["mse", "huber", "mae", "quantile", "gaussian_nll"],
        "embedding": ["multiple_negatives", "supervised_contrastive", "contrastive", "triplet"],
        "ranking": ["listnet", "ranknet", "margin"],
    }
    for task in TASKS:
        assert get_objective(task).name == objectives(task)[0]
        assert get_objective(task).priority == DEFAULT_PRIORITY


def task_data(task, rows=32):
    """Return vectors (rows, 6), whose first column is the answer, and targets of the task."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 6)).astype(np.float32)
    order = np.argsort(np.argsort(x[:, 0]))
    targets = {
        "binary": x[:, 0] > 0,
        "multiclass": order * 3 // rows,
        "multilabel": x[:, :3] > 0,
        "regression": x[:, 0],
        "ordinal": order * 4 // rows,
        "forecast": x[:, :1] * [1.0, 2.0, 3.0],
        "embedding": order * 4 // rows,
        "ranking": x[:, 0],
    }[task]
    dtype = np.int32 if targets.dtype.kind in "bi" else np.float32
    return mx.array(x), mx.array(targets.astype(dtype))


def loss_arguments(task, name, outputs, targets):
    """Return the arguments of the losses of pairs and triplets, which take more than targets."""
    if (task, name) == ("embedding", "multiple_negatives"):
        return outputs[::2], outputs[1::2]
    if name == "contrastive":
        same = (targets[::2] == targets[1::2]).astype(mx.float32)
        return outputs[::2], outputs[1::2], same
    if name == "triplet":
        by_class = outputs[mx.argsort(targets)]  # four classes of eight rows
        return by_class[:8], by_class[7::-1], by_class[-8:]
    if name == "margin":
        signs = mx.where(targets[::2] > targets[1::2], 1.0, -1.0)
        return outputs[::2], outputs[1::2], signs
    return outputs, targets


@pytest.mark.parametrize(("task", "name"), ALL)
def test_thirty_steps_lower_the_loss(task, name):
    vectors, targets = task_data(task)
    if (task, name) == ("embedding", "multiple_negatives"):  # rows 2i and 2i + 1 belong together
        vectors = mx.repeat(vectors[::2], 2, axis=0) + 0.3 * vectors
    if name == "msle":
        targets = mx.exp(targets)
    objective = get_objective(task, name)
    head = objective.build_head(6, SIZES[task], dropout=0.0, hidden_layer_size=8, seed=1)
    loss_of = objective.loss_for(head)
    optimizer = optim.Adam(learning_rate=0.02)

    def loss():
        outputs = head(vectors, None)
        return loss_of(*loss_arguments(task, name, outputs, targets), reduction="mean")

    losses = []
    for _ in range(30):
        value, gradients = nn.value_and_grad(head, loss)()
        optimizer.update(head, gradients)
        mx.eval(head.parameters(), optimizer.state)
        losses.append(float(value))
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0] - 0.05 * abs(losses[0]), losses
    predictions = head.eval().predict(head(vectors, None))
    assert bool(mx.isfinite(predictions).all())


@pytest.mark.parametrize(
    ("task", "name"), [each for each in ALL if each[0] in ("multiclass", "ordinal")]
)
def test_two_classes_train_with_the_objectives_of_many(task, name):
    objective = get_objective(task, name)
    head = objective.build_head(6, 2, dropout=0.0)
    loss_of = objective.loss_for(head)
    vectors, targets = mx.eye(6), mx.array([0, 1, 0, 1, 1, 0])

    def loss():
        return loss_of(head(vectors, None), targets, reduction="mean")

    before, gradients = nn.value_and_grad(head, loss)()
    optim.SGD(learning_rate=0.1).update(head, gradients)
    assert loss().item() < before.item()


def test_cross_entropy_of_two_classes_weights_both():
    objective = get_objective("ordinal", "cross_entropy")
    logit, targets, weights = mx.array([1.0, -2.0]), mx.array([0, 1]), mx.array([3.0, 1.0])
    loss_of = objective.loss_for(objective.build_head(4, 2), class_weights=weights)
    expected = np.array([3.0, 1.0]) * np.log1p(np.exp([1.0, 2.0]))
    np.testing.assert_allclose(np.array(loss_of(logit, targets)), expected, rtol=1e-6)


def test_what_head_and_loss_share_comes_from_the_head():
    objective = get_objective("regression", "quantile")
    head = objective.build_head(4, 1, levels=(0.25, 0.75))
    assert isinstance(head, QuantileHead)
    outputs, targets = mx.array([[[0.0, 2.0]], [[1.0, 4.0]]]), mx.array([1.0, 2.0])
    expected = quantile_loss(outputs, targets, (0.25, 0.75))
    assert mx.array_equal(objective.loss_for(head)(outputs, targets), expected)
    probit = get_objective("ordinal", "cumulative_probit")
    assert probit.loss_for(probit.build_head(4, 3)).keywords == {"link": "probit"}


def test_options_of_the_caller_replace_those_of_the_objective():
    objective = get_objective("regression", "beta_nll")
    head = objective.build_head(4, 1)
    assert objective.loss_for(head).keywords == {"beta": 0.5}
    assert objective.loss_for(head, beta=0.25).keywords == {"beta": 0.25}
    forecast = get_objective("forecast", "gaussian_nll").build_head(4, 3, history_length=5)
    assert isinstance(forecast, ForecastHead)
    assert forecast.output_shape == (3, 2)


def test_decorators_stack_and_the_highest_priority_becomes_the_default(restored):
    @register_objective("careful", "binary", loss=focal_loss, gamma=1.0)
    @register_objective("careful", "multiclass", loss=focal_loss, priority=99, gamma=3.0)
    class CarefulHead(ClassificationHead):
        pass

    assert get_objective("multiclass").name == "careful"
    assert get_objective("multiclass").options == {"gamma": 3.0}
    assert get_objective("binary").name == "cross_entropy"
    assert get_objective("binary", "careful").head is CarefulHead
    assert objectives("binary")[-1] == "careful"


def test_of_one_name_the_higher_priority_is_kept(restored):
    class Better(RegressionHead):
        pass

    register_objective("huber", "regression", loss=huber, priority=-1)(Better)
    assert get_objective("regression", "huber").head is RegressionHead
    register_objective("huber", "regression", loss=huber, priority=1)(Better)
    assert get_objective("regression", "huber").head is Better
    assert objectives("regression").count("huber") == 1


def test_of_one_name_equal_priorities_are_refused(restored):
    message = (
        r"^task 'regression' already has an objective 'huber' of priority 0, with "
        r"mlx_heads\.regression\.RegressionHead; give mlx_heads\.regression\.QuantileHead another "
        r"name, or a higher priority to replace it$"
    )
    with pytest.raises(ValueError, match=message):
        register_objective("huber", "regression", loss=huber)(QuantileHead)


def test_an_objective_may_be_preferred_for_a_competition(restored):
    movies = "sentiment-analysis-on-movie-reviews"
    assert objective_for_competition(movies).name == "cross_entropy"
    assert objective_for_competition("asap-aes").name == "corn"
    register_objective("mine", "ordinal", loss=huber, competitions=("asap-aes",))(RegressionHead)
    assert objective_for_competition("asap-aes").name == "mine"
    message = r"^competition 'titanic' has task 'binary', the objective 'ordinal'$"
    with pytest.raises(ValueError, match=message):
        register_objective("mine", "ordinal", loss=huber, competitions=("titanic",))


def test_every_competition_has_an_objective_and_a_metric_of_its_task():
    for slug, competition in COMPETITIONS.items():
        assert objective_for_competition(slug).task == competition.task
        assert get_competition(slug) is competition
        assert competition.task in METRICS[competition.metric].tasks, slug
    assert get_competition("house-prices-advanced-regression-techniques").metric == "rmse_log"


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (
            lambda: get_objective("binary", "focall"),
            r"task 'binary' has no objective 'focall'; did you mean 'focal'\?",
        ),
        (lambda: get_objective("ordinl"), r"unknown task 'ordinl'; did you mean 'ordinal'\?"),
        (
            lambda: register_objective("a", "regresion", loss=huber),
            r"unknown task 'regresion'; did you mean 'regression'\?",
        ),
        (
            lambda: get_competition("titanik"),
            r"unknown competition 'titanik'; did you mean 'titanic'\?",
        ),
        (
            lambda: register_objective("a", "binary", loss=huber, competitions=("titanik",)),
            r"unknown competition 'titanik'; did you mean 'titanic'\?",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(look_up, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        look_up()
