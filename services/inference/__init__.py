"""The inference service: FastAPI in front of one engine thread for each model.

A request's life in this package: `http/routes/` checks the body against its dialect's schema in `http/schemas/`,
`serving` settles map, method and sampling and has `intake/` make the prompt off the event loop, the engine runs it,
`bridge` carries its events back to the loop, and `http/routes/` writes them as one answer or a stream.
"""
