"""One file per command; each imports click at its top and its work when it runs."""
