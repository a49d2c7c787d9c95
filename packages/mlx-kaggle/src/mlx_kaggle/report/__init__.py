"""What a run shows: its page, its figures, and the terminal."""
