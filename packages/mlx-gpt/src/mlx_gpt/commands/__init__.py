"""One file a command: it parses, calls and prints; click is all that it imports at the top."""
