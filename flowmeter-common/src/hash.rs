//! The keyed hash of flow keys, and names that stand for them.
//!
//! NH (UMAC, RFC 4418 section 5.2): the halves of each word are added to secrets of the word's own and multiplied. Two
//! keys that an attacker has chosen share a hash with a probability of 2^-32, whatever they look like. With one secret
//! for all words, addresses that differ in the same bit at both ends shared one for half of all secrets.

use crate::key::KEY_WORDS;

/// The secrets: one for each word of a flow's key, and one for the sum.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKeys {
    /// By word.
    pub words: [u64; KEY_WORDS],
    /// What the sum begins with.
    pub sum: u64,
}

impl HashKeys {
    /// No secrets: what stands in the kernel programs until the agent sets them.
    pub const ZERO: Self = Self { words: [0; KEY_WORDS], sum: 0 };
    /// Bytes of all secrets.
    pub const BYTES: usize = size_of::<Self>();

    /// Secrets drawn from the system's random source.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut keys = Self::ZERO;
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let mut buffer = [0; 8];
            buffer.copy_from_slice(word);
            let target = if i < KEY_WORDS { &mut keys.words[i] } else { &mut keys.sum };
            *target = u64::from_ne_bytes(buffer);
        }
        keys
    }

    /// The same secrets for the same number, told apart by splitmix64: for captures, whose results must not change from
    /// run to run, and for tests.
    pub const fn expand(seed: u64) -> Self {
        let mut keys = Self::ZERO;
        let mut i = 0;
        while i < KEY_WORDS {
            keys.words[i] = splitmix(seed.wrapping_add(i as u64));
            i += 1;
        }
        keys.sum = splitmix(seed.wrapping_add(KEY_WORDS as u64));
        keys
    }

    /// The hash of a flow key's words. They are multiplied independently of each other, so that a processor does it at
    /// once, and mixed at the end: each bit of the hash depends on all.
    #[inline(always)]
    pub const fn hash(&self, words: &[u64; KEY_WORDS]) -> u64 {
        let mut h = self.sum;
        let mut i = 0;
        while i < KEY_WORDS {
            let (word, key) = (words[i], self.words[i]);
            let low = (word as u32).wrapping_add(key as u32);
            let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
            h = h.wrapping_add((low as u64).wrapping_mul(high as u64));
            i += 1;
        }
        h ^= h >> 32;
        h = h.wrapping_mul(MIX);
        h ^= h >> 32;
        h = h.wrapping_mul(MIX);
        h ^ h >> 32
    }
}

/// Multiplier of the last mix (Steele, Vigna: "Computationally easy, spectrally good multipliers", 2021).
const MIX: u64 = 0xd6e8_feb8_6659_fd93;

/// The output of splitmix64 for the `n`-th state.
const fn splitmix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Secrets of names that are compared in place of keys: two hashes of 64 bits with secrets of their own, so that two keys
/// share a name with a probability of 2^-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameKeys([HashKeys; 2]);

impl NameKeys {
    /// See [`HashKeys::expand`].
    pub const fn expand(seed: u64) -> Self {
        Self([HashKeys::expand(seed), HashKeys::expand(!seed)])
    }

    /// Names with these secrets.
    pub const fn new(keys: [HashKeys; 2]) -> Self {
        Self(keys)
    }

    /// The name of a flow key's words.
    pub fn name(&self, words: &[u64; KEY_WORDS]) -> u128 {
        u128::from(self.0[0].hash(words)) << 64 | u128::from(self.0[1].hash(words))
    }

    /// Half of the name: a hash.
    pub fn hash(&self, words: &[u64; KEY_WORDS]) -> u64 {
        self.0[0].hash(words)
    }
}
