"""The registry: jobs, maps and their aliases in SQL. `session` opens it, `repository` asks it."""
