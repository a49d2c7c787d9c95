"""Serve a model over HTTP: the scheduler of requests, the routes, the chat page."""
