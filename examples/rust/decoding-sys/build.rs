//! Finds or builds the library, and makes the bindings of its header with the program `bindgen`. Nothing is downloaded.
//!
//! DECODING_PREFIX: where the library is installed (`cmake --install build --prefix ...`). Without it, CMake builds the
//! sources in DECODING_CSRC, or ../../../csrc.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
}

fn built(csrc: &Path, out: &Path) -> PathBuf {
    let (build, prefix) = (out.join("build"), out.join("prefix"));
    run(Command::new("cmake").arg("-S").arg(csrc).arg("-B").arg(&build).arg("-DCMAKE_BUILD_TYPE=Release"));
    run(Command::new("cmake").arg("--build").arg(&build).arg("--parallel"));
    run(Command::new("cmake").arg("--install").arg(&build).arg("--prefix").arg(&prefix));
    println!("cargo:rerun-if-changed={}", csrc.display());
    prefix
}

fn main() {
    println!("cargo:rerun-if-env-changed=DECODING_PREFIX");
    println!("cargo:rerun-if-env-changed=DECODING_CSRC");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let prefix = env::var_os("DECODING_PREFIX").map(PathBuf::from).unwrap_or_else(|| {
        let beside = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../../csrc");
        built(&env::var_os("DECODING_CSRC").map(PathBuf::from).unwrap_or(beside), &out)
    });
    run(Command::new("bindgen").arg(prefix.join("include/decoding.h")).arg("-o").arg(out.join("bindings.rs")));
    for folder in ["lib", "lib64"] {
        println!("cargo:rustc-link-search=native={}", prefix.join(folder).display());
    }
    println!("cargo:rustc-link-lib=static=decoding");
    println!("cargo:rustc-link-lib=m");
}
