"""`python -m a2mamba` is the command `a2mamba`; torchrun takes it as `-m a2mamba`."""

import sys

from a2mamba.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
