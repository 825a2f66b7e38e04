//! The one ONNX Runtime that FlowMeter loads, pinned by version, size and SHA-256 for each architecture.
//!
//! `flowmeter setup` fetches it, and whoever scores loads it. A library that was cut short ends the process with SIGBUS
//! when it is mapped, hence its size and hash are looked at before it is loaded.

/// The version of ONNX Runtime.
pub const VERSION: &str = "1.32.0";

/// The file name of the shared library, as the wheel has it and as it is looked for beside the `flowmeter` binary.
pub const LIBRARY_FILE: &str = "libonnxruntime.so.1.32.0";

/// Where the library lies inside the wheel. A wheel is a ZIP archive.
pub const LIBRARY_IN_WHEEL: &str = "onnxruntime/capi/libonnxruntime.so.1.32.0";

/// The CPython the wheel is made for. The library inside does not depend on it; the choice only has to be fixed.
pub const WHEEL_PYTHON: &str = "3.12";

pub use by_architecture::*;

#[cfg(target_arch = "x86_64")]
mod by_architecture {
    /// Size of the shared library in bytes.
    pub const LIBRARY_SIZE: u64 = 34_824_680;
    /// SHA-256 of the shared library, in lower-case hexadecimal.
    pub const LIBRARY_SHA256: &str = "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f";
    /// The platform tag of the wheel: glibc 2.28 or newer.
    pub const WHEEL_PLATFORM: &str = "manylinux_2_28_x86_64";
    /// The file name of the wheel.
    pub const WHEEL_FILE: &str = "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl";
    /// Size of the wheel in bytes.
    pub const WHEEL_SIZE: u64 = 27_780_211;
    /// SHA-256 of the wheel, in lower-case hexadecimal.
    pub const WHEEL_SHA256: &str = "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8";
}

#[cfg(target_arch = "aarch64")]
mod by_architecture {
    /// Size of the shared library in bytes.
    pub const LIBRARY_SIZE: u64 = 27_165_936;
    /// SHA-256 of the shared library, in lower-case hexadecimal.
    pub const LIBRARY_SHA256: &str = "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a";
    /// The platform tag of the wheel: glibc 2.28 or newer.
    pub const WHEEL_PLATFORM: &str = "manylinux_2_28_aarch64";
    /// The file name of the wheel.
    pub const WHEEL_FILE: &str = "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl";
    /// Size of the wheel in bytes.
    pub const WHEEL_SIZE: u64 = 23_196_724;
    /// SHA-256 of the wheel, in lower-case hexadecimal.
    pub const WHEEL_SHA256: &str = "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054";
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "ONNX Runtime is pinned for x86_64 and aarch64 only: add this architecture's wheel to onnxruntime_pin.rs"
);
