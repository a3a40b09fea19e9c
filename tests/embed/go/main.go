// csrc/example.c in Go: ten tokens from a buffer of logits, through cgo.
package main

// #cgo pkg-config: decoding
// #include <stdlib.h>
// #include "decoding.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"
)

const vocabSize = 1000

// A batch points to memory, and Go's rules forbid that it points to memory of Go: so all of it is C's.
func allocate(size C.size_t) unsafe.Pointer { return C.calloc(1, size) }

func main() {
	logits := (*[vocabSize]C.float)(allocate(vocabSize * C.sizeof_float))
	for i := range logits {
		logits[i] = C.float((i*7919)%997) / 100
	}

	row := (*C.decoding_row)(allocate(C.sizeof_decoding_row))
	row.struct_size = C.sizeof_decoding_row
	row.seed = 42
	row.temperature = 0.8
	row.top_p = 0.95
	row.top_k = 50
	row.typical_p = 1
	row.top_n_sigma = C.float(math.Inf(1))
	row.repetition_penalty = 1
	row.top_h = 1
	row.tfs = 1
	row.min_k = C.float(math.Inf(1))
	row.logprobs_modes[0] = C.DECODING_LOGPROBS_RAW

	rows := (*[1]*C.decoding_row)(allocate(C.size_t(unsafe.Sizeof(row))))
	rows[0] = row
	result := (*C.decoding_result)(allocate(C.sizeof_decoding_result))
	batch := (*C.decoding_batch)(allocate(C.sizeof_decoding_batch))
	batch.struct_size = C.sizeof_decoding_batch
	batch.dtype = C.DECODING_FLOAT32
	batch.vocab_size = vocabSize
	batch.num_valid_tokens = vocabSize
	batch.num_rows = 1
	batch.logits = unsafe.Pointer(logits)
	batch.rows = &rows[0]
	batch.results = result
	batch.workspace_size = C.decoding_workspace_size(vocabSize, 0)
	batch.workspace = allocate(batch.workspace_size)

	fmt.Printf("instruction set: %s\n", C.GoString(C.decoding_active_isa()))
	for ; row.position < 10; row.position++ {
		if status := C.decoding_sample(batch); status != C.DECODING_OK {
			panic(C.GoString(C.decoding_status_message(status)))
		}
		fmt.Printf("%d (%.4f) ", result.token_id, float32(result.logprobs[0]))
	}
	fmt.Println()
}
