"""How small the cache may be: questions with known answers, asked at several methods and budgets."""
