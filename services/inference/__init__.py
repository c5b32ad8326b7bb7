"""The inference service: FastAPI in front of one engine thread for each model.

A request's life in this package: `routes/` checks the body (`schemas`, `openai_schemas`), `fetching` and `images` make
pictures of it, `serving` settles map, method and sampling and makes the prompt off the event loop, `engine` runs it,
`calls` carries its events back to the loop, and `routes/` writes them as one answer or a stream.
"""
