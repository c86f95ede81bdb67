"""Other queues, measured side by side with Esteira: `make bench ARGS=--peers` (see README.md of this folder)."""
