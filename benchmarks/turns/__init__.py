"""Timing of variants against each other, each in a process of its own."""
