"""From tables to trained members: job, folds, workers, cross-validation, and what is stored."""
