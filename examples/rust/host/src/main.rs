//! csrc/example.c in Rust: ten tokens from a buffer of logits; then a wrong parameter, by its name.

use decoding_sys::DECODING_LOGPROBS_RAW;
use host::{instruction_set, Error, Row, Sampler};

const VOCAB_SIZE: usize = 1000;

fn main() -> Result<(), Error> {
    let logits: Vec<f32> = (0..VOCAB_SIZE).map(|i| ((i * 7919) % 997) as f32 / 100.0).collect();
    let mut sampler = Sampler::new(VOCAB_SIZE)?;
    let mut rows = [Row::new(42)];
    rows[0].set(|row| {
        row.temperature = 0.8;
        row.top_p = 0.95;
        row.top_k = 50;
        row.logprobs_modes[0] = DECODING_LOGPROBS_RAW as i32;
    });
    println!("instruction set: {}", instruction_set());
    for _ in 0..10 {
        let result = sampler.sample(&logits, &mut rows)?[0];
        print!("{} ({:.4}) ", result.token_id, result.logprobs[0]);
    }
    println!();
    rows[0].set(|row| row.top_p = 1.5);
    println!("{}", sampler.sample(&logits, &mut rows).unwrap_err());
    Ok(())
}
