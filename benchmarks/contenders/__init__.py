"""Caches that compete on whole requests: ours, transformers' own, kvpress'.

Each case runs in a process of its own (`python -m benchmarks.contenders '<case as JSON>'`), so that its memory can be
told, and kvpress in an environment of its own; only `ours` imports headmap.
"""
