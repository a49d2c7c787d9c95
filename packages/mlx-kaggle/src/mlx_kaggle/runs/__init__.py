"""Run folders: create, find, compare, mirror and remove them."""
