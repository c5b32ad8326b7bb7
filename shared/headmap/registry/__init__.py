"""The registry: jobs, maps and their aliases in SQL. `session` opens it; `jobs`, `maps`, `aliases` and the others ask it."""
