//! A safe sampler for one thread: rows of f32 logits to tokens, each row with its own parameters.

use std::ffi::CStr;
use std::fmt;
use std::mem::{size_of, zeroed};
use std::os::raw::c_char;
use std::ptr::null;

use decoding_sys as sys;

/// Parameters and position of a sequence: the fields of `decoding_row` that are not pointers.
pub struct Row(sys::decoding_row);

impl Row {
    /// A neutral row: every stage is off, the temperature is 1.
    pub fn new(seed: u64) -> Row {
        let mut row = Row(unsafe { zeroed() });
        unsafe { sys::decoding_row_init(&mut row.0) };
        row.0.seed = seed;
        row
    }

    /// Change fields. `Sampler::sample` checks the numbers; pointers must stay null.
    pub fn set(&mut self, change: impl FnOnce(&mut sys::decoding_row)) {
        change(&mut self.0);
    }
}

/// A refused call or a failed row.
#[derive(Debug)]
pub struct Error {
    pub message: String,
    /// Index of the row; -1 if the fault is in the batch.
    pub row: i32,
    /// Name of the wrong field, if there is one.
    pub field: String,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "row {}, {}: {}", self.row, self.field, self.message)
    }
}

impl std::error::Error for Error {}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// The name of the active instruction set.
pub fn instruction_set() -> String {
    text(unsafe { sys::decoding_active_isa() })
}

pub struct Sampler {
    vocab_size: usize,
    workspace: Vec<u8>,
}

impl Sampler {
    /// Return a sampler, or an error if the library has another ABI or its compiler options change the arithmetic.
    pub fn new(vocab_size: usize) -> Result<Sampler, Error> {
        let size = unsafe { sys::decoding_workspace_size(vocab_size.max(1000) as i32, 0) } as usize;
        let mut workspace = vec![0u8; size];
        let abi = unsafe { sys::decoding_abi_version() };
        let status = unsafe { sys::decoding_self_test(workspace.as_mut_ptr().cast(), size as _) };
        if abi != sys::DECODING_ABI_VERSION as i32 || status != sys::DECODING_OK as i32 {
            let message = text(unsafe { sys::decoding_status_message(status) });
            return Err(Error { message: format!("ABI {abi}: {message}"), row: -1, field: String::new() });
        }
        Ok(Sampler { vocab_size, workspace })
    }

    /// Draw one token per row of `logits` [rows, vocab_size], and move each row to its next position.
    pub fn sample(&mut self, logits: &[f32], rows: &mut [Row]) -> Result<Vec<sys::decoding_result>, Error> {
        assert_eq!(logits.len(), rows.len() * self.vocab_size);
        let pointers: Vec<*const sys::decoding_row> = rows.iter().map(|row| &row.0 as *const _).collect();
        let mut results: Vec<sys::decoding_result> = rows.iter().map(|_| unsafe { zeroed() }).collect();
        let mut batch: sys::decoding_batch = unsafe { zeroed() };
        batch.struct_size = size_of::<sys::decoding_batch>() as u32;
        batch.dtype = sys::DECODING_FLOAT32 as i32;
        batch.vocab_size = self.vocab_size as i32;
        batch.num_valid_tokens = self.vocab_size as i32;
        batch.num_rows = rows.len() as i32;
        batch.logits = logits.as_ptr().cast();
        batch.row_stride = (self.vocab_size * size_of::<f32>()) as i64;
        batch.rows = pointers.as_ptr() as _;
        batch.results = results.as_mut_ptr();
        batch.workspace = self.workspace.as_mut_ptr().cast();
        batch.workspace_size = self.workspace.len() as _;
        match unsafe { sys::decoding_sample(&batch) } as u32 {
            sys::DECODING_OK => {
                rows.iter_mut().for_each(|row| row.0.position += 1);
                Ok(results)
            }
            sys::DECODING_ROW_FAILED => Err(Self::failed(&results)),
            status => Err(Self::refused(&batch, status as i32)),
        }
    }

    fn failed(results: &[sys::decoding_result]) -> Error {
        let row = results.iter().position(|result| result.status != sys::DECODING_OK as i32).unwrap();
        let message = text(unsafe { sys::decoding_status_message(results[row].status) });
        Error { message, row: row as i32, field: "logits".into() }
    }

    fn refused(batch: &sys::decoding_batch, status: i32) -> Error {
        let (mut row, mut field) = (-1, null());
        unsafe { sys::decoding_check_batch(batch, &mut row, &mut field) };
        Error { message: text(unsafe { sys::decoding_status_message(status) }), row, field: text(field) }
    }
}
