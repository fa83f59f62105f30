use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A row: the fields of a request, and the ones that are sent on, where `C` and `S` are our spans; `None`: they stay as they are.
type Row<'a> = (&'a [(&'static str, &'a str)], Option<&'a [&'a str]>);

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    fields.iter().map(field).collect()
}

fn digits(id: &[u8]) -> String {
    String::from_utf8(hex(id)).unwrap()
}

fn check((fields, expected): Row<'_>) -> Option<Trace> {
    let mut changed = headers(fields);
    let trace = Trace::resume(&mut changed);
    assert_eq!(trace.is_some(), expected.is_some(), "{fields:?}");
    let (Some(trace), Some(expected)) = (&trace, expected) else {
        assert_eq!(changed, headers(fields));
        return None;
    };
    let expected: Vec<_> = expected
        .iter()
        .map(|value| value.replace('C', &digits(&trace.client)).replace('S', &digits(&trace.server)))
        .collect();
    let found: Vec<_> = fields.iter().map(|(name, _)| changed[*name].to_str().unwrap()).collect();
    assert_eq!(found, expected);
    assert_eq!(changed.len(), fields.len(), "{changed:?}");
    assert_eq!(digits(&trace.parent), PARENT);
    assert_ne!(trace.client, trace.server);
    Some(trace.clone())
}

#[test]
fn contexts_of_the_w3c_are_continued_where_they_are_sampled() {
    let row = |value: &str, expected: Option<&str>| {
        check((&[("traceparent", value)], expected.as_ref().map(std::slice::from_ref)))
    };
    let of = |version: &str, end: &str| format!("{version}-{TRACE}-{PARENT}-{end}");
    let to = |end: &str| format!("00-{TRACE}-C-{end}");
    let trace = row(&of("00", "01"), Some(&to("01"))).unwrap();
    assert_eq!((digits(&trace.id).as_str(), trace.flags), (TRACE, 1));
    // Flags that are not known stay.
    assert_eq!(row(&of("00", "ff"), Some(&to("ff"))).unwrap().flags, 0xff);
    // Later versions are turned into this one.
    row(&of("01", "01"), Some(&to("01")));
    row(&of("cc", "03-more"), Some(&to("01")));
    for (version, end) in [
        ("00", "00"),
        ("00", "02"),
        ("00", "1"),
        ("00", "0g"),
        ("00", "01-more"),
        ("00", "01 "),
        ("01", "01.more"),
        ("ff", "01"),
        ("0", "01"),
        ("000", "01"),
        ("+0", "01"),
    ] {
        row(&of(version, end), None);
    }
    let zeros = "0".repeat(32);
    for malformed in [
        "",
        "00",
        &"-".repeat(55),
        &"\u{e9}".repeat(28),
        &format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        &format!("00-{zeros}-{PARENT}-01"),
        &format!("00-{TRACE}-{}-01", &zeros[..16]),
        &format!("00-{TRACE}-{PARENT}_01"),
        &format!("00-{}g-{PARENT}-01", &TRACE[..31]),
    ] {
        row(malformed, None);
    }
}

#[test]
fn a_context_that_is_there_twice_is_none() {
    let value = HeaderValue::try_from(format!("00-{TRACE}-{PARENT}-01")).unwrap();
    let mut twice = HeaderMap::new();
    twice.append(&TRACEPARENT, value.clone());
    twice.append(&TRACEPARENT, value);
    let before = twice.clone();
    assert_eq!(Trace::resume(&mut twice), None);
    assert_eq!(twice, before);
}

#[test]
fn contexts_of_b3_are_continued_in_their_own_form() {
    let short = &TRACE[..16];
    let b3 =
        |value: &str, expected: Option<&str>| check((&[("b3", value)], expected.as_ref().map(std::slice::from_ref)));
    let long = b3(&format!("{TRACE}-{PARENT}-1"), Some(&format!("{TRACE}-C-1"))).unwrap();
    assert_eq!((digits(&long.id).as_str(), long.flags), (TRACE, 1));
    let trace = b3(&format!("{short}-{PARENT}-d"), Some(&format!("{short}-C-d"))).unwrap();
    assert_eq!(digits(&trace.id), format!("{}{short}", "0".repeat(16)));
    b3(&format!("{TRACE}-{PARENT}-1-{PARENT}"), Some(&format!("{TRACE}-C-1-S")));
    for value in ["0", "1", "d", ""] {
        b3(value, None);
    }
    for end in ["", "-0", "-2", "-1-x", "-1-", "-", &format!("-1-{PARENT}-1")] {
        b3(&format!("{TRACE}-{PARENT}{end}"), None);
    }
    let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", PARENT)];
    let multi = |more: &[(&'static str, &'static str)], expected: Option<&[&str]>| {
        let fields = [&ids, more].concat();
        let expected = expected.map(|more| [&[TRACE, "C"], more].concat());
        check((&fields, expected.as_deref()))
    };
    multi(&[("x-b3-sampled", "1")], Some(&["1"]));
    multi(&[("x-b3-sampled", "true"), ("x-b3-parentspanid", TRACE)], Some(&["true", "S"]));
    multi(&[("x-b3-flags", "1")], Some(&["1"]));
    for more in [&[][..], &[("x-b3-sampled", "0")], &[("x-b3-sampled", "yes")], &[("x-b3-flags", "0")]] {
        multi(more, None);
    }
    check((&[("x-b3-traceid", TRACE), ("x-b3-sampled", "1")], None));
    check((&[("x-b3-traceid", "xyz"), ("x-b3-spanid", PARENT), ("x-b3-sampled", "1")], None));
}

#[test]
fn the_first_well_formed_context_counts_and_all_of_its_trace_are_changed() {
    let other = "463ac35c9f6413ad48485a3953bb6124";
    let (w3c, b3) = (|trace, end| format!("00-{trace}-{PARENT}-{end}"), |trace| format!("{trace}-{PARENT}-1"));
    let both = |w3c: &str, b3: &str, expected: Option<[&str; 2]>| {
        check((&[("traceparent", w3c), ("b3", b3)], expected.as_ref().map(<[_; 2]>::as_slice)))
    };
    both(&w3c(TRACE, "01"), &b3(TRACE), Some([&format!("00-{TRACE}-C-01"), &format!("{TRACE}-C-1")]));
    both(&w3c(TRACE, "01"), &b3(other), Some([&format!("00-{TRACE}-C-01"), &b3(other)]));
    both("malformed", &b3(TRACE), Some(["malformed", &format!("{TRACE}-C-1")]));
    both(&w3c(TRACE, "00"), &b3(TRACE), None);
}

#[test]
fn the_state_is_passed_on_as_it_is_and_kept_in_part() {
    let malformed = "a=1,,b=\u{e9},=,  c";
    for (states, expected) in [
        (&["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"][..], "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (&["a=1", "=b"], "a=1,=b"),
        (&["a=1", malformed], "a=1"),
        (&[&format!("a=1,b={}", "x".repeat(600))], "a=1"),
        (&[&"x".repeat(600)], ""),
        (&[], ""),
    ] {
        let mut headers = headers(&[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
        for state in states {
            headers.append(&TRACESTATE, HeaderValue::from_bytes(state.as_bytes()).unwrap());
        }
        assert_eq!(Trace::resume(&mut headers).unwrap().state, expected);
        let passed: Vec<_> = headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(passed, states.iter().map(|state| state.as_bytes()).collect::<Vec<_>>());
    }
}

#[test]
fn digits_are_of_base_16() {
    for byte in 0..=u8::MAX {
        let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        assert_eq!(bytes(&[b'f', byte]), digit.map(|digit| [0xf0 | digit]), "{byte}");
        assert_eq!(bytes(&[byte, b'0']), digit.map(|digit| [digit << 4]), "{byte}");
    }
    assert_eq!(bytes::<2>(b"0a1"), None);
    assert_eq!(bytes::<1>(b"0a1b"), None);
}
