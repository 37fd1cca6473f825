"""What fleetrun starts: `fleetrun --nproc_per_node 2 tools/train_image_tokenizer.py -c FILE [key=value ..]`."""

import sys

from vilg.cli import main
from vilg.distributed.leaving import leave

if __name__ == "__main__":
    leave(main(["train-image-tokenizer", *sys.argv[1:]]))
