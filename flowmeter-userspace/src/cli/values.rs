//! How times, shares and numbers are typed.

use std::time::Duration;

/// A time with its unit: 500ms, 90s, 15m, 1h; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(invalid_duration(text)),
    };
    let number: f64 = number.parse().map_err(|_| invalid_duration(text))?;
    let seconds = number * scale;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(format!("invalid duration {text:?}: expected 1ms to 1h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn invalid_duration(text: &str) -> String {
    format!("invalid duration {text:?}: expected 500ms, 90s, 15m or 1h")
}

/// A share, above 0 and below 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err(format!(
            "invalid share {text:?}: expected 0.001 for one in a thousand, 0.05 for one in twenty"
        )),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("invalid number {text:?}: expected a number above 0, such as 20")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(duration("120"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        for wrong in ["", "s", "2d", "-1s", "0", "2h", "1e3"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a time");
        }
    }
}
