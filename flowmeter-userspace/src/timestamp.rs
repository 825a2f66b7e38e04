//! Times as people and logs read them.

/// RFC 3339 in UTC, to the nanosecond where there are any.
pub fn timestamp(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| "invalid".to_owned(), |t| t.to_string())
}
