//! Values of a line: texts with escapes, numbers and times.

use app_env::AccessLogFormat as Format;
use std::{
    cell::Cell,
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// All two-digit numbers.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value as usize] = [b'0' + value / 10, b'0' + value % 10];
        value += 1;
    }
    pairs
};

/// A value, at most `max` bytes of it, with escapes for all but printable ASCII.
pub(super) fn escaped(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    if value.len() <= max && are_plain(value) {
        line.extend_from_slice(value);
    } else {
        escape(format, line, value, max);
    }
}

#[cold]
fn escape(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    let (value, is_cut) = value.split_at_checked(max).map_or((value, false), |(start, rest)| (start, !rest.is_empty()));
    if format == Format::Json {
        for chunk in value.utf8_chunks() {
            for char in chunk.valid().chars() {
                match u8::try_from(char) {
                    Ok(byte) if is_plain(byte) => line.push(byte),
                    Ok(byte @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', byte]),
                    _ => {
                        char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| push(line, format_args!("\\u{unit:04x}")))
                    }
                }
            }
            if !chunk.invalid().is_empty() {
                line.extend_from_slice(b"\\ufffd");
            }
        }
    } else {
        for byte in value {
            match *byte {
                b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
                byte if is_plain(byte) => line.push(byte),
                byte => push(line, format_args!("\\x{byte:02x}")),
            }
        }
    }
    if is_cut {
        line.extend_from_slice(b"...");
    }
}

/// Whether a byte needs no escape.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\'
}

/// [`is_plain`] for all bytes, eight at a time.
fn are_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Sets the high bit of each ASCII byte below `limit`, and maybe of the bytes that follow one: of none if no byte is below.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word | below(word, b' '.into()) | is(word, b'"') | is(word, b'\\') | is(word, 0x7f)
    };
    // The last word overlaps the one before.
    let Some(last) = bytes.last_chunk() else { return bytes.iter().all(|byte| is_plain(*byte)) };
    bytes.as_chunks().0.iter().fold(special(last), |found, word| found | special(word)) & HIGH == 0
}

fn push(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes all.
    let _ = line.write_fmt(text);
}

/// A number in decimal.
pub(super) fn digits(line: &mut Vec<u8>, value: u64) {
    const EIGHT: u64 = 100_000_000;
    if value < 10 {
        line.push(b'0' + value as u8);
        return;
    }
    if value >= EIGHT {
        digits(line, value / EIGHT);
        line.extend_from_slice(&eight_digits(value % EIGHT).to_le_bytes());
        return;
    }
    let text = eight_digits(value);
    let zeros = (text - ZEROS).trailing_zeros() / 8;
    // A copy of eight bytes, and not of a number that is not known, which would be a call.
    line.extend_from_slice(&(text >> (8 * zeros)).to_le_bytes());
    line.truncate(line.len() - zeros as usize);
}

/// Eight times the digit zero.
const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// The digits of a value below 100,000,000, the first one in the lowest byte. It is halved three times, and the halves are
/// divided all at once, each in a part of the word of its own.
fn eight_digits(value: u64) -> u64 {
    let fours = ((value % 10_000) << 32) | (value / 10_000);
    // n / 100 for n < 10,000, and n / 10 for n < 100.
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = ((fours - hundreds * 100) << 16) | hundreds;
    let tens = ((twos * 103) >> 10) & 0xf_000f_000f_000f;
    (((twos - tens * 10) << 8) | tens) + ZEROS
}

/// A time in UTC to the microsecond, as RFC 3339 has it.
pub(super) fn timestamp(line: &mut Vec<u8>, time: SystemTime) {
    thread_local! {
        /// The last second that was written, since 1970, and its text.
        static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00.")) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        text = date_and_time(second);
        SECOND.set((second, text));
    }
    line.extend_from_slice(&text);
    let micros = since.subsec_micros();
    let mut fraction = *b"000000Z";
    for (pair, value) in fraction.chunks_exact_mut(2).zip([micros / 10_000, micros / 100 % 100, micros % 100]) {
        pair.copy_from_slice(&PAIRS[value as usize]);
    }
    line.extend_from_slice(&fraction);
}

/// A second since 1970, up to the point before its fraction.
fn date_and_time(second: u64) -> [u8; 20] {
    let (days, second) = (second / 86_400, second % 86_400);
    // Years start in March, so that the leap day is the last one; 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let mut text = *b"0000-00-00T00:00:00.";
    let parts = [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, date),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
    ];
    for (at, value) in parts {
        text[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bytes_that_need_an_escape_are_found_at_any_place() {
        for byte in 0..=u8::MAX {
            for (len, around) in (0..20).flat_map(|len| b" !#a[]~".map(|around| (len, around))) {
                for at in 0..len {
                    let mut value = vec![around; len];
                    value[at] = byte;
                    assert_eq!(are_plain(&value), is_plain(byte), "{value:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_decimal() {
        let powers = (0..20).map(|power| 10_u64.pow(power)).flat_map(|power| [power - 1, power, power + 1]);
        for value in
            powers.chain([u64::MAX, 1_234_567_890]).chain(0..20_000).chain((0..10_000).map(|high| high * 10_000))
        {
            let mut line = Vec::new();
            digits(&mut line, value);
            assert_eq!(String::from_utf8(line).unwrap(), value.to_string());
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (68_169_599, "1972-02-28T23:59:59.000000Z"),
            (68_169_600, "1972-02-29T00:00:00.000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut line = Vec::new();
            timestamp(&mut line, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }
}
