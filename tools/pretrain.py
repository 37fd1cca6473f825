"""The script for fleetrun: `fleetrun --nproc_per_node 2 tools/pretrain.py -c FILE [key=value ..]`."""

import sys

from vilg.cli import main
from vilg.distributed.shutdown import exit_process

if __name__ == "__main__":
    exit_process(main(["pretrain", *sys.argv[1:]]))
