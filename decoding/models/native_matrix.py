"""PackedMatrix: weights in the panels that the native forward pass multiplies with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError, ParameterError
from decoding.models.native_call import aligned_bytes, check, pointer
from decoding.models.native_names import BLOCKS, WEIGHT_TYPES
from decoding.sampling.kernel.library import ffi, lib, status_message

PANEL = 16
"""Outputs per panel of packed weights."""

CODED = "bfloat16_coded"
"""The type of weights that are bfloat16 and held in 12 bits each."""


class UncodableError(KernelError):
    """A matrix cannot be bfloat16_coded: a panel has too many weights outside its 16 most frequent upper bytes."""


def packed_size(weight_type: str, num_outputs: int, num_inputs: int) -> int:
    """Return the bytes of a matrix's panels; 0 if a size is out of range."""
    return int(lib.decoding_packed_size(WEIGHT_TYPES[weight_type], num_outputs, num_inputs))


class PackedMatrix:
    """y = W x + bias, with W packed in panels of 16 outputs."""

    def __init__(
        self,
        weight_type: str,
        num_outputs: int,
        num_inputs: int,
        bias: NDArray[np.float32] | None = None,
        rest: PackedMatrix | None = None,
        panels: NDArray[np.uint8] | None = None,
    ) -> None:
        """Allocate the panels, if their memory is not given; `put` fills them.

        weight_type: a key of WEIGHT_TYPES.
        bias: float32 [num_outputs].
        panels: at least `packed_size` bytes.
        rest: further outputs, whose weights have another type; for `qkv` and `up` of a layer alone.
        """
        self.rest = rest
        self._rest_struct = None if rest is None else ffi.new("decoding_matrix *")
        self.weight_type = weight_type
        self.num_outputs = num_outputs
        self.num_inputs = num_inputs
        self.bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
        if self.bias is not None and self.bias.shape != (num_outputs,):
            raise ParameterError.single("bias", self.bias.shape, f"must have shape ({num_outputs},)")
        size = packed_size(weight_type, num_outputs, num_inputs)
        if size == 0:
            multiple = BLOCKS.get(weight_type, (1, 0))[0]
            shape = f"[{num_outputs}, {num_inputs}]"
            rule = f"num_outputs must be at least 1, num_inputs a multiple of {multiple} for {weight_type}"
            raise ParameterError.single("[num_outputs, num_inputs]", shape, rule)
        self.panels = aligned_bytes(size) if panels is None else panels
        if self.panels.nbytes < size:
            raise ParameterError.single("panels", self.panels.nbytes, f"must have at least {size} bytes")

    def put(self, first_output: int, rows: NDArray[Any], order: NDArray[np.integer[Any]] | None = None) -> None:
        """Pack rows [num_rows, num_inputs] as the outputs from first_output on.

        rows: of `row_type`, as float32, float16 or (bfloat16) uint16; of a quantised type the blocks of each row,
        uint8 [num_rows, bytes]. The last axis is contiguous.
        order: output first_output + i is row order[i]; None for row i.

        Threads may call this for different rows. For bfloat16_coded the rows must fill whole panels: first_output is a
        multiple of 16, and so is the end unless it is num_outputs. Raises UncodableError if weights do not fit 12 bits.
        """
        if self.weight_type == CODED:
            self._put_coded(first_output, rows, order)
            return
        length, size = self._row_layout()
        if rows.ndim != 2 or rows.shape[1] != length or rows.itemsize != size:
            raise ParameterError.single("rows", rows.shape, f"must be [num_rows, {length}] of {size} bytes per element")
        if rows.strides[1] != size:
            rows = np.ascontiguousarray(rows)
        indices = None if order is None else np.ascontiguousarray(order, np.int32)
        check(
            lib.decoding_pack(
                WEIGHT_TYPES[self.weight_type],
                self.num_outputs,
                self.num_inputs,
                pointer(self.panels, "char"),
                first_output,
                len(rows),
                ffi.cast("void *", rows.ctypes.data),
                rows.strides[0],
                pointer(indices, "int32_t"),
            )
        )

    @property
    def row_type(self) -> str:
        """The storage type of the rows that `put` takes."""
        return "bfloat16" if self.weight_type == CODED else self.weight_type

    def _put_coded(self, first_output: int, rows: NDArray[Any], order: NDArray[np.integer[Any]] | None) -> None:
        end = first_output + len(rows)
        if first_output % PANEL or (end % PANEL and end != self.num_outputs) or not 0 <= first_output < end:
            rule = f"must be whole panels of {PANEL} outputs for {CODED}"
            raise ParameterError.single("first_output, end", (first_output, end), rule)
        plain = PackedMatrix("bfloat16", len(rows), self.num_inputs)
        plain.put(0, rows, order)
        panel_bytes = packed_size(CODED, PANEL, self.num_inputs)
        num_panels = -(-len(rows) // PANEL)
        first = first_output // PANEL * panel_bytes
        coded = self.panels[first : first + num_panels * panel_bytes]
        if coded.nbytes < num_panels * panel_bytes:
            raise ParameterError.single("rows", rows.shape, f"must end at output {self.num_outputs} or before")
        panels = pointer(plain.panels, "char")
        status = lib.decoding_code_bfloat16(self.num_inputs, num_panels, panels, pointer(coded, "char"))
        if status == lib.DECODING_NOT_CODED:
            raise UncodableError(status_message(status))
        check(status)

    def store_plain(self) -> None:
        """Change bfloat16_coded to bfloat16, with new panels to be filled."""
        self.weight_type = "bfloat16"
        self.panels = aligned_bytes(packed_size("bfloat16", self.num_outputs, self.num_inputs))

    def _row_layout(self) -> tuple[int, int]:
        """Return the number of elements per row and the bytes per element."""
        if self.weight_type in BLOCKS:
            block_size, block_bytes = BLOCKS[self.weight_type]
            return self.num_inputs // block_size * block_bytes, 1
        return self.num_inputs, 4 if self.weight_type == "float32" else 2

    @property
    def num_bytes(self) -> int:
        """The bytes of the panels, with those of `rest`."""
        own = packed_size(self.weight_type, self.num_outputs, self.num_inputs)
        return own if self.rest is None else own + self.rest.num_bytes

    def fill(self, struct: Any) -> None:
        """Write the matrix to a decoding_matrix."""
        struct.type = WEIGHT_TYPES[self.weight_type]
        struct.num_outputs, struct.num_inputs = self.num_outputs, self.num_inputs
        struct.panels = pointer(self.panels, "char")
        struct.bias = pointer(self.bias, "float")
        if self.rest is not None:
            self.rest.fill(self._rest_struct)
            struct.rest = self._rest_struct
