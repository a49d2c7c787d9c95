"""Ensemble members and baselines: models that predict the rows of a table."""
