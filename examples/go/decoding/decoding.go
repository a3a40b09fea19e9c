// Package decoding draws tokens from rows of logits, through cgo. pkg-config finds the installed library.
package decoding

// #cgo pkg-config: decoding
// #include <stdlib.h>
// #include "decoding.h"
//
// // cgo forbids a batch in C memory that points to Go memory, so the logits are an argument of each call.
// static int32_t sample(const decoding_batch *batch, const float *logits) {
//   decoding_batch call = *batch;
//   call.logits = logits;
//   return decoding_sample(&call);
// }
//
// static int32_t check(const decoding_batch *batch, const float *logits, int32_t *row, const char **field) {
//   decoding_batch call = *batch;
//   call.logits = logits;
//   return decoding_check_batch(&call, row, field);
// }
import "C"

import (
	"fmt"
	"math"
	"unsafe"
)

// Off is the value of TopK that turns top-k off.
const Off = math.MaxInt32

// Params are the parameters of a row. NewParams returns neutral values.
type Params struct {
	Seed        uint64
	Temperature float32
	TopP        float32
	TopK        int32
}

// NewParams returns neutral parameters with a seed.
func NewParams(seed uint64) Params { return Params{Seed: seed, Temperature: 1, TopP: 1, TopK: Off} }

// Result is a token with its raw log-probability.
type Result struct {
	TokenID int32
	Logprob float32
}

// Sampler draws one token per row and call; only one goroutine may use it at a time. Close frees it.
type Sampler struct {
	vocabSize int
	batch     *C.decoding_batch
	rows      []*C.decoding_row
	pointers  unsafe.Pointer
	results   unsafe.Pointer
	workspace unsafe.Pointer
}

// InstructionSet returns the name of the active instruction set.
func InstructionSet() string { return C.GoString(C.decoding_active_isa()) }

// NewSampler returns a sampler with a row per element of params. It returns an error for a library of another ABI, or
// one whose compiler options change the arithmetic.
func NewSampler(vocabSize int, params []Params) (*Sampler, error) {
	if abi := C.decoding_abi_version(); abi != C.DECODING_ABI_VERSION {
		return nil, fmt.Errorf("the library has ABI %d, the header %d", abi, C.DECODING_ABI_VERSION)
	}
	size := C.decoding_workspace_size(C.int32_t(vocabSize), 0)
	if smallest := C.decoding_workspace_size(1000, 0); size < smallest {
		size = smallest
	}
	n := C.size_t(len(params))
	s := &Sampler{
		vocabSize: vocabSize,
		batch:     (*C.decoding_batch)(C.calloc(1, C.sizeof_decoding_batch)),
		pointers:  C.calloc(n, C.size_t(unsafe.Sizeof(uintptr(0)))),
		results:   C.calloc(n, C.sizeof_decoding_result),
		workspace: C.malloc(size),
	}
	for i, p := range params {
		row := (*C.decoding_row)(C.malloc(C.sizeof_decoding_row))
		C.decoding_row_init(row)
		row.seed, row.temperature, row.top_p = C.uint64_t(p.Seed), C.float(p.Temperature), C.float(p.TopP)
		row.top_k = C.int32_t(p.TopK)
		row.logprobs_modes[0] = C.DECODING_LOGPROBS_RAW
		unsafe.Slice((**C.decoding_row)(s.pointers), len(params))[i] = row
		s.rows = append(s.rows, row)
	}
	s.fill(size)
	if status := C.decoding_self_test(s.workspace, size); status != C.DECODING_OK {
		s.Close()
		return nil, fmt.Errorf("%s", C.GoString(C.decoding_status_message(status)))
	}
	return s, nil
}

func (s *Sampler) fill(workspaceSize C.size_t) {
	s.batch.struct_size = C.sizeof_decoding_batch
	s.batch.dtype = C.DECODING_FLOAT32
	s.batch.vocab_size, s.batch.num_valid_tokens = C.int32_t(s.vocabSize), C.int32_t(s.vocabSize)
	s.batch.num_rows = C.int32_t(len(s.rows))
	s.batch.row_stride = C.int64_t(4 * s.vocabSize)
	s.batch.rows = (**C.decoding_row)(s.pointers)
	s.batch.results = (*C.decoding_result)(s.results)
	s.batch.workspace, s.batch.workspace_size = s.workspace, workspaceSize
}

// Sample draws one token per row of logits [rows, vocabulary] and moves each row to its next position. The error names
// the row and the field.
func (s *Sampler) Sample(logits []float32) ([]Result, error) {
	if len(logits) != len(s.rows)*s.vocabSize || len(logits) == 0 {
		return nil, fmt.Errorf("logits: must be %d numbers", len(s.rows)*s.vocabSize)
	}
	first := (*C.float)(unsafe.Pointer(&logits[0]))
	status := C.sample(s.batch, first)
	found := unsafe.Slice((*C.decoding_result)(s.results), len(s.rows))
	if status == C.DECODING_ROW_FAILED {
		return nil, failure(found)
	}
	if status != C.DECODING_OK {
		return nil, s.refusal(first)
	}
	results := make([]Result, len(found))
	for i, result := range found {
		results[i] = Result{int32(result.token_id), float32(result.logprobs[0])}
		s.rows[i].position++
	}
	return results, nil
}

func failure(results []C.decoding_result) error {
	for i, result := range results {
		if result.status != C.DECODING_OK {
			return fmt.Errorf("row %d, logits: %s", i, C.GoString(C.decoding_status_message(result.status)))
		}
	}
	return nil
}

func (s *Sampler) refusal(logits *C.float) error {
	var row C.int32_t
	var field *C.char
	status := C.check(s.batch, logits, &row, &field)
	return fmt.Errorf("row %d, %s: %s", row, C.GoString(field), C.GoString(C.decoding_status_message(status)))
}

// Close frees the memory of the sampler.
func (s *Sampler) Close() {
	for _, row := range s.rows {
		C.free(unsafe.Pointer(row))
	}
	for _, memory := range []unsafe.Pointer{unsafe.Pointer(s.batch), s.pointers, s.results, s.workspace} {
		C.free(memory)
	}
}
