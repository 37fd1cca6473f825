"""The script for fleetrun: `fleetrun --nproc_per_node 2 tools/data_tokenize.py -c FILE [key=value ..]`."""

import sys

from vilg.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "tokenize", *sys.argv[1:]]))
