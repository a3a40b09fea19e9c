"""Logits from every supported source: the same bits, no copy, and an error before any memory is read."""

from __future__ import annotations

import array
import ctypes
import gc
import weakref

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.errors import LogitsError
from decoding.sampling.logits_input import as_float32, matrix_of

ROWS, VOCAB_SIZE = 3, 40
FLOAT32 = (np.random.default_rng(0).standard_normal((ROWS, VOCAB_SIZE)) * 4).astype(np.float32)
BFLOAT16 = (FLOAT32.view(np.uint32) >> 16).astype(np.uint16)
BY_DTYPE = {"float32": FLOAT32, "float16": FLOAT32.astype(np.float16), "bfloat16": BFLOAT16}


def drawn(logits, num_rows=ROWS):
    """Return all that a call reports, as bytes."""
    states = [SamplingState(SamplingParams(seed=seed, top_p=0.9, logprobs=3)) for seed in range(num_rows)]
    output = Sampler(VOCAB_SIZE).sample(logits, states)
    return output.words.tobytes() + output.top_token_ids.tobytes() + output.top_logprobs.tobytes()


class Capsule:
    """A DLPack producer over a numpy array, with any type code, device and version."""

    def __init__(self, matrix, *, code=None, device=(1, 0), versioned=True, knows_versions=True):
        self.matrix = matrix
        self.code = code
        self.device = device
        self.versioned = versioned and knows_versions
        self.knows_versions = knows_versions

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if options and not self.knows_versions:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        capsule = self.matrix.__dlpack__(max_version=(1, 0) if self.versioned else None)
        if self.code is not None:
            self.address_of_code(capsule)[0] = self.code
        return capsule

    def address_of_code(self, capsule):
        """Return the byte of the type code, after data, device type, device id and number of dimensions."""
        pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )
        name, tensor = (b"dltensor_versioned", 32) if self.versioned else (b"dltensor", 0)
        return (ctypes.c_uint8 * 1).from_address(pointer(capsule, name) + tensor + 20)


class Interface:
    """An object that offers numpy's array interface only."""

    def __init__(self, matrix):
        self.__array_interface__ = matrix.__array_interface__
        self._matrix = matrix


@pytest.mark.parametrize("dtype", BY_DTYPE)
@pytest.mark.parametrize(
    "convert",
    [
        lambda matrix: memoryview(matrix),
        lambda matrix: Interface(matrix),
        lambda matrix: Capsule(matrix, code=code_of(matrix)),
        lambda matrix: Capsule(matrix, code=code_of(matrix), versioned=False),
        lambda matrix: Capsule(matrix, code=code_of(matrix), knows_versions=False),
        lambda matrix: Capsule(np.asfortranarray(matrix.T).T, code=code_of(matrix)),
        lambda matrix: Capsule(matrix, code=code_of(matrix), device=(3, 0)),
        lambda matrix: matrix.view(np.recarray) if matrix.dtype == np.float32 else matrix,
    ],
    ids=["buffer", "interface", "dlpack 1", "dlpack 0", "old dlpack", "strided dlpack", "pinned dlpack", "subclass"],
)
def test_the_same_bits_by_every_protocol(dtype, convert):
    """The result does not depend on the protocol that passes the logits."""
    matrix = BY_DTYPE[dtype]
    assert drawn(convert(matrix)) == drawn(matrix)


def code_of(matrix):
    """Return DLPack's code of bfloat16 for a uint16 matrix; otherwise None, which leaves numpy's code."""
    return 4 if matrix.dtype == np.uint16 else None


@pytest.mark.parametrize(
    "buffer",
    [array.array("f", FLOAT32[0].tolist()), memoryview(FLOAT32[0].tobytes()).cast("f")],
    ids=["array.array", "cast bytes"],
)
def test_one_row_from_the_standard_library(buffer):
    """A flat buffer of floats is one row."""
    assert drawn(buffer, 1) == drawn(FLOAT32[:1], 1)


def strides(matrix):
    """Return the matrix with padded rows and with rows in reverse order in memory."""
    wide = np.zeros((2 * ROWS, VOCAB_SIZE + 5), matrix.dtype)
    wide[::2, 2:-3] = matrix
    return {"padded": wide[::2, 2:-3], "backwards": matrix[::-1].copy()[::-1]}


@pytest.mark.parametrize("kind", ["padded", "backwards"])
@pytest.mark.parametrize("dtype", BY_DTYPE)
def test_any_row_stride(dtype, kind):
    """Rows may have any stride, also a negative one."""
    matrix = BY_DTYPE[dtype]
    made = strides(matrix)[kind]
    assert made.strides != matrix.strides
    assert drawn(made) == drawn(matrix)


def apart(dtype, matrix):
    """Return the matrix in column order, as every other element, in reverse, and as a field of records."""
    wide = np.zeros((ROWS, 2 * VOCAB_SIZE), matrix.dtype)
    wide[:, ::2] = matrix
    records = np.zeros((ROWS, VOCAB_SIZE), [("id", "<i4"), ("logit", matrix.dtype), ("p", "<f4")])
    records["logit"] = matrix
    return {
        "columns": np.asfortranarray(matrix),
        "every other": wide[:, ::2],
        "backwards": matrix[:, ::-1].copy()[:, ::-1],
        "records": records["logit"],
    }


@pytest.mark.parametrize("kind", ["columns", "every other", "backwards", "records"])
@pytest.mark.parametrize("dtype", BY_DTYPE)
def test_any_element_stride(dtype, kind):
    """The elements of a row may have any stride, as in llama.cpp's token arrays."""
    made = apart(dtype, BY_DTYPE[dtype])[kind]
    assert made.strides[1] != made.itemsize
    assert drawn(made) == drawn(BY_DTYPE[dtype])
    assert drawn(made[1], 1) == drawn(BY_DTYPE[dtype][1], 1)


class OrtLike:
    """A stand-in for an OrtValue of onnxruntime."""

    def __init__(self, array, element_type, device="cpu"):
        self._array, self._element_type, self._device = array, element_type, device

    def shape(self):
        return list(self._array.shape)

    def element_type(self):
        return self._element_type

    def data_type(self):
        return f"tensor(type {self._element_type})"

    def device_name(self):
        return self._device

    def data_ptr(self):
        return self._array.ctypes.data


def test_an_ort_value():
    """Tensors of onnxruntime are read in place, also bfloat16; other types and devices raise an error."""
    for name, element_type in (("float32", 1), ("float16", 10), ("bfloat16", 16)):
        matrix = BY_DTYPE[name]
        assert drawn(OrtLike(matrix, element_type)) == drawn(matrix)
        assert np.shares_memory(matrix_of(OrtLike(matrix, element_type), VOCAB_SIZE), matrix)
    for wrong, message in ((OrtLike(FLOAT32, 11), "type 11"), (OrtLike(FLOAT32, 1, "cuda"), "device cuda")):
        with pytest.raises(LogitsError, match=message):
            matrix_of(wrong, VOCAB_SIZE)


def test_a_stride_of_zero():
    """One row in memory may serve as every row of the call."""
    same = np.broadcast_to(FLOAT32[0], (ROWS, VOCAB_SIZE))
    assert same.strides[0] == 0
    assert drawn(same) == drawn(same.copy())


def test_nothing_is_copied():
    """Every kind of logits becomes an array over the same memory, even if it is read-only."""
    frozen = FLOAT32.copy()
    frozen.flags.writeable = False
    for logits in (frozen, memoryview(frozen), Interface(frozen), Capsule(FLOAT32)):
        base = FLOAT32 if isinstance(logits, Capsule) else frozen
        assert np.shares_memory(matrix_of(logits, VOCAB_SIZE), base)
    assert drawn(frozen) == drawn(FLOAT32)


def test_exported_memory_is_kept_and_freed():
    """An exported capsule lives as long as the array made from it, and then frees its memory."""
    matrix = FLOAT32.copy()
    alive = weakref.ref(matrix)
    logits = matrix_of(Capsule(matrix), VOCAB_SIZE)
    del matrix
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(logits, FLOAT32)
    del logits
    gc.collect()
    assert alive() is None


def test_a_call_keeps_no_reference():
    """After a call no reference to the logits remains: an array.array can grow again."""
    row = array.array("f", FLOAT32[0].tolist())
    states = [SamplingState(SamplingParams(seed=0))]
    sampler = Sampler(VOCAB_SIZE)
    sampler.sample(row, states)
    sampler.probabilities(row, states)
    row.append(0.0)
    assert len(row) == VOCAB_SIZE + 1


class Refusing:
    """A tensor that refuses to be exported."""

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        raise BufferError("Can't export tensors that require gradient")


class Nothing(Refusing):
    """A tensor whose export returns no capsule."""

    def __dlpack__(self, **_):
        return object()


class Elsewhere(Refusing):
    """A tensor on a GPU, which must not be exported."""

    device = "cuda:1"

    def __dlpack_device__(self):
        return (2, 1)

    def __dlpack__(self, **_):
        raise AssertionError("exported, though it is not in the CPU's memory")


WRONG = {
    "a list": (FLOAT32.tolist(), "list"),
    "text": ("logits", "str"),
    "bytes": (FLOAT32.tobytes(), "logits.dtype=uint8"),
    "float64": (FLOAT32.astype(np.float64), "logits.dtype=float64"),
    "float64 by dlpack": (Capsule(FLOAT32.astype(np.float64)), "logits.dtype=float64"),
    "complex by dlpack": (Capsule(FLOAT32.astype(np.complex64)), "logits.dtype=code 5, 64 bits"),
    "bool by dlpack": (Capsule(FLOAT32 > 0), "logits.dtype=code 6, 8 bits"),
    "integers": (memoryview(array.array("i", [0] * VOCAB_SIZE)), "logits.dtype=int32"),
    "big-endian": (FLOAT32.astype(">f4"), "logits.dtype=>f4"),
    "big-endian by interface": (Interface(FLOAT32.astype(">f4")), "logits.dtype=>f4"),
    "too wide": (np.zeros((ROWS, VOCAB_SIZE + 1), np.float32), r"logits.shape=\(3, 41\)"),
    "too wide by dlpack": (Capsule(np.zeros((ROWS, VOCAB_SIZE + 1), np.float32)), r"logits.shape=\(3, 41\)"),
    "three axes": (np.zeros((1, ROWS, VOCAB_SIZE), np.float32), "logits.shape"),
    "no axes": (np.float32(0), "logits.shape"),
    "overlapping rows": (np.lib.stride_tricks.sliding_window_view(np.zeros(60, np.float32), VOCAB_SIZE), "overlap"),
    "masked": (np.ma.masked_array(FLOAT32), "MaskedArray"),
    "another device": (Elsewhere(), r"device cuda:1 \(DLPack 2:1\)"),
    "no export": (Refusing(), "require gradient"),
    "no capsule": (Nothing(), "consumed"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_invalid_logits_are_refused(kind):
    """A wrong type, shape, layout, byte order or device raises a LogitsError with the value and the rule."""
    logits, message = WRONG[kind]
    with pytest.raises(LogitsError, match=message) as caught:
        Sampler(VOCAB_SIZE).sample(logits, [SamplingState(SamplingParams())])
    assert "must" in str(caught.value)


class Held(Elsewhere):
    """A producer that returns the same capsule every time."""

    def __init__(self, capsule):
        self._capsule = capsule

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        return self._capsule


def test_a_consumed_capsule_is_refused():
    """A consumed capsule is refused, because its consumer may have freed the memory."""
    producer = Held(FLOAT32.__dlpack__(max_version=(1, 0)))
    assert matrix_of(producer, VOCAB_SIZE).shape == FLOAT32.shape
    np.from_dlpack(producer)
    with pytest.raises(LogitsError, match="consumed"):
        matrix_of(producer, VOCAB_SIZE)


def test_another_version_of_dlpack_is_refused():
    """A capsule of DLPack version 2 is refused, because its layout may differ."""

    class Later(Capsule):
        def __dlpack__(self, **options):
            capsule = super().__dlpack__(**options)
            code = self.address_of_code(capsule)
            (ctypes.c_uint32 * 1).from_address(ctypes.addressof(code) - 52)[0] = 2
            return capsule

    with pytest.raises(LogitsError, match=r"DLPack version 2\.0"):
        matrix_of(Later(FLOAT32), VOCAB_SIZE)


def test_by_value():
    """Half precision is widened exactly, and float32 is not copied."""
    assert as_float32(FLOAT32) is FLOAT32
    np.testing.assert_array_equal(as_float32(BFLOAT16), (BFLOAT16.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_array_equal(as_float32(BY_DTYPE["float16"]), BY_DTYPE["float16"].astype(np.float32))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch(name):
    """Tensors on the CPU are read in place; transposed, float64, gradient and other-device tensors are refused."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.from_numpy(FLOAT32.copy()).to(getattr(torch, name))
    bits = tensor.view(torch.uint16).numpy() if name == "bfloat16" else tensor.numpy()
    assert drawn(tensor) == drawn(bits)
    assert drawn(tensor[1], 1) == drawn(bits[1], 1)
    assert drawn(tensor[::2], 2) == drawn(bits[::2], 2)
    assert np.shares_memory(matrix_of(tensor, VOCAB_SIZE), bits)
    for wrong, message in (
        (tensor.T, "logits.shape"),
        (tensor.detach().clone().requires_grad_(), "gradient"),
        (tensor.to("meta"), "meta"),
        (tensor.double(), "float64"),
    ):
        with pytest.raises(LogitsError, match=message):
            matrix_of(wrong, VOCAB_SIZE)


def test_ml_dtypes():
    """Arrays of ml_dtypes.bfloat16 are read in place, with any row stride."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    matrix = FLOAT32.astype(ml_dtypes.bfloat16)
    assert drawn(matrix) == drawn(matrix.view(np.uint16))
    assert drawn(matrix[::-1]) == drawn(matrix.view(np.uint16)[::-1])
    assert np.shares_memory(matrix_of(matrix, VOCAB_SIZE), matrix)
    with pytest.raises(LogitsError, match="float8_e5m2"):
        matrix_of(FLOAT32.astype(ml_dtypes.float8_e5m2), VOCAB_SIZE)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_jax(name):
    """Jax arrays on the CPU give the same bits as numpy arrays."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    matrix = jax.numpy.asarray(FLOAT32).astype(name)
    bits = np.asarray(matrix)
    assert drawn(matrix) == drawn(bits.view(np.uint16) if name == "bfloat16" else bits)
