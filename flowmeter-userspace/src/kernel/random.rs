//! Random numbers from the kernel.

use anyhow::{Result, ensure};
use rustix::rand::{GetRandomFlags, getrandom};

/// A number that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub fn random_seed() -> Result<u64> {
    let mut seed = [0_u8; 8];
    let got = getrandom(&mut seed, GetRandomFlags::empty())?;
    ensure!(got == seed.len(), "the kernel gave {got} of {} random bytes", seed.len());
    Ok(u64::from_ne_bytes(seed))
}
