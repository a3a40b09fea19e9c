"""DLPack: read the memory layout of another library's tensor without taking ownership.

`numpy.from_dlpack` does the same for the types that numpy has; it has no bfloat16, the type of most logits. The
structures are those of https://dmlc.github.io/dlpack/latest/c_api.html, the calls those of the Python array API
standard (`__dlpack__`, `__dlpack_device__`).

A capsule has an owner: a consumer that renames it to "used_..." must call its deleter; otherwise its destructor does.
This module reads it and leaves the name as it is, so the memory lives as long as the capsule.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError

_HOST_DEVICES = (1, 3, 11)
"""Device types whose memory the CPU reads as its own: kDLCPU, and pinned memory, kDLCUDAHost and kDLROCMHost."""

_TYPESTRS = {  # (type code, bits) to numpy's name; numpy has no bfloat16 (code 4): its bits are handed over as uint16
    (0, 8): "|i1",
    (0, 16): "=i2",
    (0, 32): "=i4",
    (0, 64): "=i8",
    (1, 8): "|u1",
    (1, 16): "=u2",
    (1, 32): "=u4",
    (1, 64): "=u8",
    (2, 16): "=f2",
    (2, 32): "=f4",
    (2, 64): "=f8",
    (4, 16): "=u2",
}


class _Tensor(ctypes.Structure):
    """DLTensor; strides are in elements, null for row-major order."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _VersionedTensor(ctypes.Structure):
    """DLManagedTensorVersioned; the older DLManagedTensor begins with its DLTensor."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """Memory with numpy's array interface. It holds the capsule, and the array holds it."""

    def __init__(self, capsule: object, interface: dict[str, Any]) -> None:
        self._capsule = capsule
        self.__array_interface__ = interface


def array_of(tensor: Any) -> NDArray[Any]:
    """Return the tensor as an array over the same memory; bfloat16 comes as its bits, uint16.

    Raises LogitsError, before anything is read, if the tensor is on another device, cannot be exported (a torch
    tensor that requires a gradient) or has a type that numpy does not have.
    """
    try:
        device_type, device_id = tensor.__dlpack_device__()
        if int(device_type) not in _HOST_DEVICES:
            raise LogitsError(
                f"logits are on device {_device_name(tensor, int(device_type), int(device_id))}: must be in the"
                " memory of the CPU"
            )
        capsule = _exported(tensor)
    except LogitsError:
        raise
    except Exception as error:  # whatever the other library has to say, in words of its own
        raise LogitsError(f"logits={type(tensor).__name__}: must export their memory by DLPack ({error})") from error
    return np.asarray(_Memory(capsule, _interface(_described(capsule))))


def _device_name(tensor: Any, device_type: int, device_id: int) -> str:
    """Return the library's own name of the device if it has one, with DLPack's numbers."""
    return f"{getattr(tensor, 'device', '')} (DLPack {device_type}:{device_id})".lstrip()


def _exported(tensor: Any) -> object:
    """Return the capsule, of version 1, which can be read-only, if the library supports it."""
    try:
        capsule: object = tensor.__dlpack__(max_version=(1, 0))
    except TypeError:
        capsule = tensor.__dlpack__()
    return capsule


def _described(capsule: object) -> _Tensor:
    if _is_capsule(capsule, b"dltensor"):
        return _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    if not _is_capsule(capsule, b"dltensor_versioned"):
        raise LogitsError(f"logits: __dlpack__ gave {capsule!r}: must be a capsule that has not been consumed")
    versioned = _VersionedTensor.from_address(_pointer_of(capsule, b"dltensor_versioned"))
    if versioned.major != 1:
        raise LogitsError(f"logits: DLPack version {versioned.major}.{versioned.minor}: must be 1")
    tensor: _Tensor = versioned.tensor
    return tensor


def _interface(tensor: _Tensor) -> dict[str, Any]:
    """Return the description of the tensor for numpy's array interface, version 3."""
    typestr = _TYPESTRS.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if typestr is None:
        kind = f"code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes"
        raise LogitsError(f"logits.dtype={kind} in DLPack: must be float32, float16 or bfloat16")
    item = tensor.bits // 8
    strides = tuple(item * tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    return {
        "version": 3,
        "shape": tuple(tensor.shape[: tensor.ndim]),
        "typestr": typestr,
        "strides": strides,
        "data": ((tensor.data or 0) + tensor.byte_offset, True),
    }
