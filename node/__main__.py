"""`python -P -m node`: see `node.main`."""

import sys

from node.main import main

if __name__ == "__main__":
    sys.exit(main())
