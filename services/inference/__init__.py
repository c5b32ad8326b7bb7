"""The inference service: FastAPI in front of one engine thread for each model.

The life of a request in this package: `http/routes/` checks the body against its dialect's schema in `http/schemas/`.
`serving` settles map, method and sampling, and `intake/` makes the prompt off the event loop. The engine runs it, and
`bridge` carries its events back to the loop. `http/routes/` writes them as one answer or as a stream.
"""
