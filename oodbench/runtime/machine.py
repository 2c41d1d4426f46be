"""Which machine computes: its processor, threads, free memory, the accelerator really used."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import psutil
import torch
from lightning_fabric import Fabric


@cache
def processor_name() -> str:
    """The processor's name as its maker gives it; the architecture where that is not told."""
    try:
        name = _from_system()
    except (OSError, subprocess.SubprocessError, ValueError):
        name = ""
    name = " ".join((name or platform.processor() or platform.machine()).split())
    return name or "unknown"


def _from_system() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
        return result.stdout
    if sys.platform == "win32":
        return _of_windows()
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return value
    return ""


def _of_windows() -> str:
    import winreg  # there alone

    where = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, where) as key:  # type: ignore[attr-defined]
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0])  # type: ignore[attr-defined]


def device_of(accelerator: str) -> torch.device:
    """The device that ``"auto"`` and its kin stand for on this machine.

    Args:
        accelerator: Lightning's word.
    """
    return Fabric(accelerator=accelerator, devices=1).device


def accelerator_name(accelerator: str) -> str:
    """What ``"auto"`` and its kin stand for on this machine: ``"cpu"``, ``"cuda NVIDIA H100"``.

    Args:
        accelerator: Lightning's word.
    """
    device = device_of(accelerator)
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return device.type


def free_memory(device: torch.device) -> int:
    """Bytes that a tensor on a device may still take: of its own memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
