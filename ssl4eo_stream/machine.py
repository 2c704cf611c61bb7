"""What a measurement was made on: the machine and the versions that decide its numbers."""

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "ssl4eo-stream", "numpy", "opencv-python-headless", "simplejpeg", "imagecodecs", "tifffile",
    "rasterio", "obstore", "torch", "torchvision", "timm", "webdataset", "lmdb",
)  # fmt: skip
"""Distributions whose versions a result may depend on; those not installed are left out."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages above."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return processor, cores this process may use, memory, and GPUs."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = re.findall(r"model name\s*:\s*(.+)", information.read_text())
        cpu = names[0].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "cpu": cpu, "cores_of_machine": os.cpu_count(), "cores_used": cores,
    }  # fmt: skip
    if hasattr(os, "sysconf"):
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found["memory_gibibytes"] = round(pages / 2**30)
    torch = sys.modules.get("torch")  # what does without torch should not load it for this
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def environment() -> dict[str, Any]:
    """Return machine and versions, for a result's file."""
    return {"machine": machine(), "versions": versions()}
