import pytest

from mlx_heads import (
    ClassNumberHead,
    CoralHead,
    CornHead,
    CumulativeLinkHead,
    EmbeddingHead,
    ForecastHead,
    GaussianHead,
    MultilabelHead,
    QuantileHead,
    RankingHead,
)


@pytest.mark.parametrize(
    ("head", "size", "options", "message"),
    [
        (MultilabelHead, 0, {}, "num_labels must be at least 1, got 0"),
        (GaussianHead, 0, {}, "num_outputs must be at least 1, got 0"),
        (QuantileHead, 0, {}, "num_outputs must be at least 1, got 0"),
        (CoralHead, 1, {}, "num_classes must be at least 2, got 1"),
        (CornHead, 1, {}, "num_classes must be at least 2, got 1"),
        (CumulativeLinkHead, 1, {}, "num_classes must be at least 2, got 1"),
        (ClassNumberHead, 1, {}, "num_classes must be at least 2, got 1"),
        (EmbeddingHead, 0, {}, "size must be at least 1, got 0"),
        (ForecastHead, 0, {}, "horizon must be at least 1, got 0"),
        (RankingHead, 2, {}, "a ranking has one score per row, got num_outputs=2"),
        (
            QuantileHead,
            1,
            {"levels": (0.5, 0.1)},
            r"levels must increase strictly between 0 and 1, got \(0.5, 0.1\)",
        ),
        (
            QuantileHead,
            1,
            {"levels": ()},
            r"levels must increase strictly between 0 and 1, got \(\)",
        ),
        (
            ForecastHead,
            1,
            {"levels": (0.0, 0.1)},
            r"levels must increase strictly between 0 and 1, got \(0.0, 0.1\)",
        ),
        (
            CumulativeLinkHead,
            3,
            {"link": "probbit"},
            r"unknown link 'probbit'; did you mean 'probit'\?",
        ),
        (
            ForecastHead,
            3,
            {"history_length": -1},
            r"history_length must be 0 \(none\) or more, got -1",
        ),
        (ForecastHead, 3, {"kernel_size": 4}, "kernel_size must be odd and at least 1, got 4"),
        (
            ForecastHead,
            3,
            {"distribution": "normal"},
            "distribution must be \"gaussian\" or None, got 'normal'",
        ),
        (
            ForecastHead,
            3,
            {"distribution": "gaussian", "levels": (0.5,)},
            'distribution="gaussian" and levels exclude each other: give one',
        ),
    ],
)
def test_sizes_and_options_out_of_range_are_refused(head, size, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        head(8, size, **options)
