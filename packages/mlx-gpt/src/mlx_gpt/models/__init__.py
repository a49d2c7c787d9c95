"""Decoder models: each file is readable alone; `files` loads and saves them."""
