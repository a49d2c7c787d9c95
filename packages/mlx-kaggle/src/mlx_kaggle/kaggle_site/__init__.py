"""The Kaggle API: files of a competition, and submissions."""
