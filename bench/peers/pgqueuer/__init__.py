"""pgqueuer as a peer of the benchmark."""
