"""The registry: jobs, head maps and their aliases in SQL. `session` opens it, `repository` asks it."""
