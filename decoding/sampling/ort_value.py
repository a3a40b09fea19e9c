"""OrtValue: read the tensors of onnxruntime in place. numpy has no bfloat16, in which `OrtValue.numpy()` fails."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError

_TYPESTRS = {1: "=f4", 10: "=f2", 16: "=u2"}
"""Element types of ONNX's TensorProto.DataType: float32, float16, and bfloat16 as its bits."""


class _Memory:
    """Memory with numpy's array interface. It holds the value, and the array holds it."""

    def __init__(self, value: object, interface: dict[str, Any]) -> None:
        self._value = value
        self.__array_interface__ = interface


def array_of(value: Any) -> NDArray[Any]:
    """Return the tensor as an array over the same memory; bfloat16 comes as its bits, uint16.

    Raise LogitsError if the tensor is on another device, or of another element type.
    """
    device, element_type = str(value.device_name()), int(value.element_type())
    if device.lower() != "cpu":
        raise LogitsError(f"logits are on device {device}: must be in the memory of the CPU")
    if element_type not in _TYPESTRS:
        raise LogitsError(f"logits.dtype={value.data_type()}: must be float32, float16 or bfloat16")
    shape = tuple(value.shape())
    if math.prod(shape) == 0:
        return np.empty(shape, np.dtype(_TYPESTRS[element_type]))
    interface = {"version": 3, "shape": shape, "typestr": _TYPESTRS[element_type], "data": (value.data_ptr(), True)}
    return np.asarray(_Memory(value, interface))
