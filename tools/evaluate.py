"""The script for fleetrun: `fleetrun --nproc_per_node 8 tools/evaluate.py fid --images DIR --reference DIR`."""

import sys

from vilg.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
