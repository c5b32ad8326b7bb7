"""The cache's memory: one pool of pages, allocated once, and integers that record which sequence owns each page.

`free.py`, `tails.py` and `books.py` hold integers; `pool.py` holds tensors. A sequence has an immutable ragged part and
a tail. The part holds the kept tokens of its prompt. In the tail all heads have the same number of tokens.
"""
