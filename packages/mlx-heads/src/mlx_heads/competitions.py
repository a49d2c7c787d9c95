"""Competitions of Kaggle, with the task and the metric that ranks them."""

from dataclasses import dataclass

from mlx_heads._suggest import did_you_mean


@dataclass(frozen=True)
class CompetitionTask:
    """What a competition asks for: the task of the registry, and the name of its metric."""

    task: str
    metric: str


# House prices are ranked by the RMSE of log(price), store sales by the RMSE of log(1 + sales).
COMPETITIONS: dict[str, CompetitionTask] = {
    "titanic": CompetitionTask("binary", "accuracy"),
    "spaceship-titanic": CompetitionTask("binary", "accuracy"),
    "nlp-getting-started": CompetitionTask("binary", "f1"),
    "quora-insincere-questions-classification": CompetitionTask("binary", "f1"),
    "llm-detect-ai-generated-text": CompetitionTask("binary", "roc_auc"),
    "contradictory-my-dear-watson": CompetitionTask("multiclass", "accuracy"),
    "jigsaw-toxic-comment-classification-challenge": CompetitionTask("multilabel", "roc_auc"),
    "house-prices-advanced-regression-techniques": CompetitionTask("regression", "rmse_log"),
    "commonlitreadabilityprize": CompetitionTask("regression", "rmse"),
    "feedback-prize-english-language-learning": CompetitionTask("regression", "mcrmse"),
    "sentiment-analysis-on-movie-reviews": CompetitionTask("ordinal", "accuracy"),
    "petfinder-adoption-prediction": CompetitionTask("ordinal", "quadratic_kappa"),
    "learning-agency-lab-automated-essay-scoring-2": CompetitionTask("ordinal", "quadratic_kappa"),
    "asap-aes": CompetitionTask("ordinal", "quadratic_kappa"),
    "store-sales-time-series-forecasting": CompetitionTask("forecast", "rmsle"),
}


def get_competition(slug: str) -> CompetitionTask:
    """Return the task and metric of a competition; raises `ValueError` with the nearest slug."""
    if slug not in COMPETITIONS:
        raise ValueError(f"unknown competition {slug!r}{did_you_mean(str(slug), COMPETITIONS)}")
    return COMPETITIONS[slug]
