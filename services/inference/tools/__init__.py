"""Calls of tools: a request's tools, how an answer is forced to call one, and how calls are read from an answer.

Text in, deltas out. Nothing here knows HTTP or tensors.
"""
