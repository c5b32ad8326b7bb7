"""Calls of tools: what a request may call, how an answer is forced to call, and how calls are read off what a model
writes. Text in, deltas out; nothing here knows HTTP or tensors.
"""
