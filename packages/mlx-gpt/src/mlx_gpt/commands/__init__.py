"""One file per command: it parses, calls and prints, and imports only light modules at the top."""
