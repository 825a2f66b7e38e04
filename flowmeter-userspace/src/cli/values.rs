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
        other => return Err(format!("unknown unit {other:?}; use ms, s, m or h, as in 90s")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no time; write it like 500ms, 90s, 15m or 1h"))?;
    let seconds = number * scale;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(format!("{text:?} lies outside of 1ms to 1h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A share, above 0 and below 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = positive(text)?;
    if share < 1.0 {
        Ok(share)
    } else {
        Err(format!("{text:?} is no share; write 0.001 for one in a thousand"))
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is no number above 0")),
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
