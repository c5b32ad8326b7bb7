"""What both HTTP services share: problem documents, keys, limits, request ids, health, metrics and logs.

`plumbing.install(app, settings, ...)` puts all of it on a FastAPI application.
"""
