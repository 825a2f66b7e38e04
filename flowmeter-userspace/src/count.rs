//! Numbers with their nouns, as people say them: "1 capture", "2 captures".

use std::fmt::{self, Display, Formatter};

/// So many of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    number: u64,
    thing: &'static str,
}

/// So many of a thing whose plural ends in s.
pub const fn count(number: u64, thing: &'static str) -> Count {
    Count { number, thing }
}

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { number, thing } = self;
        write!(f, "{number} {thing}{}", if *number == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let said: Vec<String> = [0, 1, 2].map(|number| count(number, "capture").to_string()).into();
        assert_eq!(said, ["0 captures", "1 capture", "2 captures"]);
    }
}
