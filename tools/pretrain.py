"""The script for fleetrun: `fleetrun --nproc_per_node 2 tools/pretrain.py -c FILE [key=value ..]`."""

import sys

from vilg.cli import main
from vilg.distributed.shutdown import run_and_exit

if __name__ == "__main__":
    run_and_exit(lambda: main(["pretrain", *sys.argv[1:]]))
