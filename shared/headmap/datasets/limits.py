"""The limit on pages, without the code that reads them: the command line checks it before it loads anything."""

MAX_PAGES = 100_000
"""Pages of a dataset, and of a profiling job."""
