"""A conversation with a model: its state, and the terminal around it."""
