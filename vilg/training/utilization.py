"""Model FLOPs utilization (MFU): the share of the devices' peak that the operations of the model make up.

The definition is that of PaLM (Chowdhery et al., 2022, appendix B): operations of the model without recompute, divided
by the time of the step and by the peak of all devices.
"""

import logging
import re

import paddle

log = logging.getLogger(__name__)

# (name of a GPU, peak in TFLOP/s with 16-bit inputs, dense). The first match counts. The figures are those of NVIDIA's
# data sheets, where most are given with sparsity, which doubles them.
KNOWN_GPUS = (
    ("T4", 65.0),  # nvidia.com/en-us/data-center/tesla-t4
    ("V100-PCIE", 112.0),  # nvidia.com/en-us/data-center/v100
    ("V100S", 130.0),
    ("V100", 125.0),
    ("A10", 125.0),  # nvidia.com/en-us/data-center/products/a10-gpu
    ("A30", 165.0),  # nvidia.com/en-us/data-center/products/a30-gpu
    ("A40", 149.7),  # nvidia.com/en-us/data-center/a40
    ("A100", 312.0),  # nvidia.com/en-us/data-center/a100
    ("A800", 312.0),  # an A100 with a slower NVLink
    ("L4", 121.0),  # nvidia.com/en-us/data-center/l4
    ("L40", 181.0),  # nvidia.com/en-us/data-center/l40
    ("L40S", 362.0),  # nvidia.com/en-us/data-center/l40s
    ("H100 PCIe", 756.0),  # nvidia.com/en-us/data-center/h100
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800 PCIe", 756.0),  # an H100 with a slower NVLink
    ("H800", 989.0),
    ("H20", 148.0),
    ("H200 NVL", 835.0),  # nvidia.com/en-us/data-center/h200
    ("H200", 989.0),
    ("B200", 2250.0),  # nvidia.com/en-us/data-center/dgx-b200
)


def peak_flops(setting_tflops: float, is_half: bool) -> float | None:
    """Peak operations a second of this rank's device. `setting_tflops` (train.peak_tflops) wins over the table.

    None if it is not known: on a CPU, in fp32 (where the peak depends on whether TF32 is on), and on a GPU that is not
    in the table.
    """
    if setting_tflops:
        return setting_tflops * 1e12
    if not (is_half and paddle.get_device().startswith("gpu")):
        return None
    name = paddle.device.cuda.get_device_name()
    tflops = known_tflops(name)
    if tflops is None:
        log.warning("%s: its peak is not known, so metrics.jsonl has no mfu; set train.peak_tflops", name)
        return None
    return tflops * 1e12


def known_tflops(device_name: str) -> float | None:
    """Peak of a GPU in 16 bits, by the name that its driver reports. None if it is not in the table."""
    return next((peak for name, peak in KNOWN_GPUS if re.search(rf"\b{name}\b", device_name)), None)
