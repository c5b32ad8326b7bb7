"""The memory: one pool of pages, allocated once, and the integers that say whose each page is.

`free.py`, `tails.py` and `books.py` count; `pool.py` holds tensors. A sequence is an immutable ragged part, what was
kept of its prompt, and a tail in which all heads have equally many tokens.
"""
