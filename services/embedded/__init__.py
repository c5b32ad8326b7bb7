"""The whole cluster on one machine: `app`, both services behind one port; `supervisor`, the processes."""
