"""Which errors mean that memory ran out, which that the device is broken, and which neither; in torch's own words."""

from __future__ import annotations

from copy import copy

import pytest
import torch

from headmap.device_errors import is_broken_device, is_out_of_memory
from headmap.engine.failures import as_headmap_error
from headmap.errors import DeviceFailed, HeadmapError, InvalidParameter, OutOfMemory

ADVICE = (
    "\nSearch for `cudaError' in the CUDA Runtime API for more information."
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
    "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
    "\nframe #1: at::cuda::CUDAGraph::capture_begin(): invalid argument\n"
)

BROKEN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + ADVICE),
    torch.AcceleratorError("CUDA error: device-side assert triggered" + ADVICE),
    torch.AcceleratorError("CUDA error: misaligned address" + ADVICE),
    torch.AcceleratorError("CUDA error: unspecified launch failure" + ADVICE),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered" + ADVICE),
    torch.AcceleratorError("CUDA error: the launch timed out and was terminated" + ADVICE),
    torch.AcceleratorError("HIP error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: an illegal memory access was encountered" + ADVICE),
    RuntimeError("CUDA driver error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    torch.distributed.DistBackendError(
        "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
        "NCCL_DEBUG=INFO for details), NCCL version 2.26.3\nLast error:\nCuda failure 719 'unspecified launch failure'"
    ),
]

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB"),
    torch.AcceleratorError("CUDA error: out of memory" + ADVICE),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]

NEITHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    torch.AcceleratorError("CUDA error: invalid configuration argument" + ADVICE),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing" + ADVICE),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ValueError("a text that says CUDA error: an illegal memory access was encountered"),
    InvalidParameter("messages: CUDA error"),
    KeyError("cuda"),
]


def words(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error)[:60]}"


@pytest.mark.parametrize("error", BROKEN, ids=words)
def test_a_broken_device_is_told_from_the_rest(error: Exception) -> None:
    assert is_broken_device(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=words)
def test_memory_that_ran_out_breaks_nothing(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_broken_device(error)


@pytest.mark.parametrize("error", NEITHER, ids=words)
def test_a_fault_of_the_model_or_of_one_call_is_neither(error: Exception) -> None:
    assert not is_broken_device(error)
    assert not is_out_of_memory(error)


def test_it_is_found_behind_what_was_raised_on_account_of_it() -> None:
    def fail(first: Exception, second: Exception, *, cause: bool) -> Exception:
        first, second = copy(first), copy(second)
        try:
            try:
                raise first
            except Exception as error:
                if cause:
                    raise second from error
                raise second from None
        except Exception as error:
            return error

    for cause in (True, False):
        assert is_broken_device(fail(BROKEN[0], HeadmapError("the model failed"), cause=cause))
        assert is_broken_device(fail(OUT_OF_MEMORY[0], BROKEN[0], cause=cause))
        assert not is_broken_device(fail(OUT_OF_MEMORY[0], NEITHER[0], cause=cause))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(BROKEN[0], DeviceFailed), (OUT_OF_MEMORY[0], OutOfMemory), (NEITHER[0], HeadmapError)],
    ids=["broken", "memory", "neither"],
)
def test_callers_are_told_which_it_was_and_none_of_its_words(error: Exception, kind: type[HeadmapError]) -> None:
    told = as_headmap_error(error)
    assert type(told) is kind
    assert told.__cause__ is error
    assert str(error) not in told.detail
    assert as_headmap_error(NEITHER[7]) is NEITHER[7]  # type: ignore[arg-type]
