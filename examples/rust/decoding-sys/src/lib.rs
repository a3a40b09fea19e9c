//! Bindings of decoding.h by bindgen. Zeroed structs are valid values; constants are u32, statuses are i32.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
