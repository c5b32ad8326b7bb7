"""Measure how small the cache may be: ask questions with known answers at several methods and budgets."""
