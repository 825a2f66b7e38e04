//! Random numbers from the kernel.

use anyhow::{Result, ensure};
use flowmeter_common::hash::HashKeys;
use rustix::rand::{GetRandomFlags, getrandom};

/// A number that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub fn random_seed() -> Result<u64> {
    random().map(u64::from_ne_bytes)
}

/// Secrets for a hash that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub fn random_keys() -> Result<HashKeys> {
    random::<{ HashKeys::BYTES }>().map(|bytes| HashKeys::from_bytes(&bytes))
}

/// So many random bytes: up to 256 the kernel gives at once or not at all.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    let got = getrandom(&mut bytes, GetRandomFlags::empty())?;
    ensure!(got == N, "the kernel gave {got} of {N} random bytes");
    Ok(bytes)
}
