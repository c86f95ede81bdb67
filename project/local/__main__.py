"""Start the local stack; see `project.local`."""

import sys

from project.local.stack import main

if __name__ == "__main__":
    sys.exit(main())
