"""Text files and conversations, from files to rows of tokens."""

IGNORE = -1  # the target of a token that is not trained on
