"""The routes of the inference service, one file for each kind of client."""
