"""The `headmap` command: one file for each command, heavy imports inside them."""
