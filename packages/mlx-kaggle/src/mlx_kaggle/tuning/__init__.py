"""Tune the settings of the members of a run with Optuna."""
