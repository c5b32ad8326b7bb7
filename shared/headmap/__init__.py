"""Headmap: profile a multimodal model's visual heads once, serve it with a KV cache sized head by head."""

__version__ = "0.1.0"
