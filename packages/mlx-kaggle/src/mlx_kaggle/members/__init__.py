"""Ensemble members and baselines: models of the rows of a table."""
