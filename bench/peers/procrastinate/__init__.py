"""procrastinate as a peer of the benchmark."""
