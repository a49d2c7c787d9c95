"""Read text files and conversations, and turn them into rows of tokens."""

IGNORE = -1  # the target of a token that is not trained on
