"""Attacks on live services over loopback: `python -m tests.attack`."""
