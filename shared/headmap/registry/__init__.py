"""The registry: jobs, maps and their aliases in SQL. `session` opens it; each other module has one kind of rows."""
