//! csrc/example.c in Rust: ten tokens from a buffer of logits, with the bindings that bindgen makes of decoding.h.

#[allow(dead_code, deref_nullptr, non_camel_case_types, non_snake_case)]
mod decoding; // bindgen decoding.h -o decoding.rs

use std::ffi::CStr;
use std::mem::{size_of, zeroed};

const VOCAB_SIZE: usize = 1000;

fn main() {
    let logits: Vec<f32> = (0..VOCAB_SIZE).map(|i| ((i * 7919) % 997) as f32 / 100.0).collect();

    // All zeros is a valid value: numbers, and pointers that point to nothing.
    let mut row: decoding::decoding_row = unsafe { zeroed() };
    row.struct_size = size_of::<decoding::decoding_row>() as u32;
    row.seed = 42;
    row.temperature = 0.8;
    row.top_p = 0.95;
    row.top_k = 50;
    row.typical_p = 1.0;
    row.top_n_sigma = f32::INFINITY;
    row.repetition_penalty = 1.0;
    row.top_h = 1.0;
    row.tfs = 1.0;
    row.min_k = f32::INFINITY;
    row.logprobs_modes[0] = decoding::DECODING_LOGPROBS_RAW as i32;

    let workspace_size = unsafe { decoding::decoding_workspace_size(VOCAB_SIZE as i32, 0) } as usize;
    let mut workspace = vec![0u8; workspace_size];
    let mut result: decoding::decoding_result = unsafe { zeroed() };
    let mut batch: decoding::decoding_batch = unsafe { zeroed() };
    batch.struct_size = size_of::<decoding::decoding_batch>() as u32;
    batch.dtype = decoding::DECODING_FLOAT32 as i32;
    batch.vocab_size = VOCAB_SIZE as i32;
    batch.num_valid_tokens = VOCAB_SIZE as i32;
    batch.num_rows = 1;
    batch.logits = logits.as_ptr().cast();
    batch.results = &mut result;
    batch.workspace = workspace.as_mut_ptr().cast();
    batch.workspace_size = workspace_size as _;

    println!("instruction set: {}", unsafe { CStr::from_ptr(decoding::decoding_active_isa()) }.to_str().unwrap());
    for position in 0..10 {
        row.position = position;
        let rows = [&row as *const _];
        batch.rows = rows.as_ptr();
        assert_eq!(unsafe { decoding::decoding_sample(&batch) }, decoding::DECODING_OK as i32);
        print!("{} ({:.4}) ", result.token_id, result.logprobs[0]);
    }
    println!();
}
