"""Settings of a run: sections, presets, files, flags, and where each value comes from."""
