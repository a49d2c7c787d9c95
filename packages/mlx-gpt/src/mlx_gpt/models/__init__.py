"""Decoder models: one file for each, readable alone; `files` loads and saves them."""
