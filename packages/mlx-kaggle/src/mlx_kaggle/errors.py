"""The errors that are the user's to solve; the command line prints them as one line."""


class DataError(ValueError):
    """The tables do not fit the job: the message names the file, the column and what to do."""


class RunError(ValueError):
    """A run folder is missing, unfinished, already there, or made from other data."""
