//! Numbers with a unit: durations, and sizes as people write them.

use std::time::Duration;

/// Units by name and length in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The number that text of nothing but ASCII digits stands for; `str::parse` takes a sign, too.
pub(super) fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The bytes that text of digits and a unit stands for, as `10MiB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let unit = unit.to_ascii_lowercase();
    // Kubernetes leaves the B out.
    let (prefix, step) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('i')) {
        Some(prefix) => (prefix, 1_024_u64),
        None => (unit.strip_suffix('b')?, 1_000),
    };
    let power = match prefix {
        "" if step == 1_000 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        _ => return None,
    };
    number.checked_mul(step.pow(power))
}

/// The number and the letters behind it. `None`: the text has another form.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    const LONGEST: usize = 12;
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit());
    let number = text[..text.len() - unit.len()].parse().ok()?;
    (unit.len() <= LONGEST && unit.bytes().all(|byte| byte.is_ascii_alphabetic())).then_some((number, unit))
}

/// The duration that text of digits and a unit stands for; 0 needs none.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    if unit.is_empty() {
        return (number == 0).then_some(Duration::ZERO);
    }
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*millis).map(Duration::from_millis)
}

/// Why a text of digits and letters is no duration. `None`: it has another form.
pub(super) fn duration_fault(text: &str) -> Option<String> {
    match split_unit(text)? {
        (number, "") => Some(format!("has no unit: did you mean {number}s?")),
        (_, unit) if UNITS.iter().any(|(name, _)| *name == unit) => None,
        (_, unit) => {
            let units: Vec<_> = UNITS.iter().rev().map(|(name, _)| *name).collect();
            Some(format!("has the unit {unit}: units are {}", units.join(", ")))
        }
    }
}

/// Prints in the longest unit that holds the duration without a rest.
pub(super) fn print_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let exact = UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(u128::from(*unit)));
    exact.map_or_else(|| "0".to_owned(), |(name, unit)| format!("{}{name}", millis / u128::from(*unit)))
}
