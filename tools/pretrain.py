"""What fleetrun starts: `fleetrun --nproc_per_node 2 tools/pretrain.py -c FILE [key=value ..]`."""

import sys

from vilg.cli import main
from vilg.distributed.leaving import leave

if __name__ == "__main__":
    leave(main(["pretrain", *sys.argv[1:]]))
