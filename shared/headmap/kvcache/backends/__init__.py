"""Decode attention over a layer's blocks: one function per backend, all with the signature of `blocked.attend`."""
