"""The memory: one pool of pages, allocated once, and the integers that say which sequence owns each page.

`free.py`, `tails.py` and `books.py` count; `pool.py` holds tensors. A sequence has an immutable ragged part, which
holds the kept tokens of its prompt, and a tail in which all heads have equally many tokens.
"""
