"""What `headmap bench` measures: one module a benchmark, results as JSON, tables and plots rendered from them."""
