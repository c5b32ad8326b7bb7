"""Jobs under faults on real servers: `cluster` has the processes, `faults` ends them, `client` asks, `run` judges."""
