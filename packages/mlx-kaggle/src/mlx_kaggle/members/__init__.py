"""The ensemble members: models that are fitted to rows, predict, and are saved and loaded."""
