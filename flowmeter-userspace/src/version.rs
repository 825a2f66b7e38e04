//! What `flowmeter --version` prints: from which commit, with which kernel programs and which feature sets.

use std::sync::LazyLock;

use crate::features::SETS;

/// The version, and what else tells two binaries apart, a line each.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let sets: Vec<&str> = SETS.iter().map(|set| set.id).collect();
        format!(
            "{}\ncommit: {}\nkernel programs: sha256:{}\nfeature sets: {}",
            env!("CARGO_PKG_VERSION"),
            env!("FLOWMETER_COMMIT"),
            env!("FLOWMETER_BPF_SHA256"),
            sets.join(", ")
        )
    });
    &LONG
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_hash_is_that_of_the_object() {
        let object = include_bytes!("../bpf/flowmeter.bpf.o");
        let hash: String = Sha256::digest(object).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(env!("FLOWMETER_BPF_SHA256"), hash);
    }
}
