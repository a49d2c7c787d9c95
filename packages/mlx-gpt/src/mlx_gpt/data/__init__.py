"""Text and conversations: found, read, mixed, and packed into rows of tokens."""
