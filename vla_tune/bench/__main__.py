"""`python -m vla_tune.bench`: the suite for a machine with one big GPU, where only the model's libraries are installed."""

import sys

from vla_tune.bench.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
