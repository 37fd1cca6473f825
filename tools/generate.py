"""The script for fleetrun: `fleetrun --nproc_per_node 8 tools/generate.py --texts FILE --out DIR --export DIR`."""

import sys

from vilg.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
