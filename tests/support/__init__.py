"""What the tests stand on: servers of their own, waiting, and a whole stack of processes to break."""
