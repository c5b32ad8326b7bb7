"""The registry: jobs, maps and aliases in SQL. `session` opens it; `jobs`, `maps` and the others read and write it."""
