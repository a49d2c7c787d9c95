"""What a model can do: bits per byte, CORE's tasks, chat questions, GSM8K.

`evaluation` does all of it for a model folder; the other modules are usable alone.
"""
