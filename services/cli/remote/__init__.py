"""A cluster over HTTP, as the command line calls it."""
