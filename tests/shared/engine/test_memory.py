"""Memory goes back to the system once it is freed; seen in processes of their own, as the C library forgets nothing."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes
from headmap.engine.memory import give_back_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def take(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address

if {call}:
    give_back_freed_memory()
libc.free(take(30 << 20))  # glibc would now keep buffers up to this size
before = resident()
buffers = [take(5 << 20) for _ in range(8)]
for large in buffers[:-1]:
    libc.free(large)
print(resident() - before >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_large_buffers_go_back_although_a_later_one_is_held() -> None:
    def left(call: bool) -> int:
        script = _SCRIPT.replace("{call}", str(call))
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return int(told.stdout)

    assert left(call=False) >= 35
    assert left(call=True) <= 8
