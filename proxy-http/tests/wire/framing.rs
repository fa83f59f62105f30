//! Requests that come in as HTTP/1.1 go out as the same requests, to a reader that forgives nothing.

use crate::{
    raw::Raw,
    support::{Rig, endpoint_params},
};
use proxy_http::Protocol;
use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    time::timeout,
};

/// A request as it is on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Read {
    line: String,
    body: Vec<u8>,
}

/// The bytes that follow the last request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    Nothing,
    Part,
    Nonsense,
}

/// Reads all requests as RFC 9112 has them, with none of the leniencies that it allows.
pub(crate) fn read(mut bytes: &[u8]) -> (Vec<Read>, Rest) {
    let mut requests = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        if bytes.is_empty() {
            return (requests, Rest::Nothing);
        }
        match read_one(&mut bytes) {
            Ok(request) => requests.push(request),
            Err(rest) => return (requests, rest),
        }
    }
}

fn read_one(bytes: &mut &[u8]) -> Result<Read, Rest> {
    let line = line(bytes)?;
    let words: Vec<_> = line.split(' ').collect();
    if words.len() != 3 || !is_token(words[0]) || !words[1].starts_with('/') || words[2] != "HTTP/1.1" {
        return Err(Rest::Nonsense);
    }
    let fields = fields(bytes)?;
    let of = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let body = match (&of("content-length")[..], &of("transfer-encoding")[..], &of("host")[..]) {
        ([], [], [_]) => Vec::new(),
        ([length], [], [_]) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            exactly(bytes, length.parse().map_err(|_| Rest::Nonsense)?)?
        }
        ([], [coding], [_]) if coding.eq_ignore_ascii_case("chunked") => chunks(bytes)?,
        _ => return Err(Rest::Nonsense),
    };
    Ok(Read { line, body })
}

fn chunks(bytes: &mut &[u8]) -> Result<Vec<u8>, Rest> {
    let mut body = Vec::new();
    loop {
        let line = line(bytes)?;
        let digits = line.split(';').next().unwrap();
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Rest::Nonsense);
        }
        match usize::from_str_radix(digits, 16).unwrap() {
            0 => break,
            size => body.extend(exactly(bytes, size)?),
        }
        if exactly(bytes, 2)? != b"\r\n" {
            return Err(Rest::Nonsense);
        }
    }
    fields(bytes)?;
    Ok(body)
}

fn fields(bytes: &mut &[u8]) -> Result<Vec<(String, String)>, Rest> {
    let mut fields = Vec::new();
    loop {
        let line = line(bytes)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(Rest::Nonsense)?;
        if !is_token(name) || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err(Rest::Nonsense);
        }
        fields.push((name.to_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// A line that ends with CR and LF, neither of which is in it.
fn line(bytes: &mut &[u8]) -> Result<String, Rest> {
    let end = bytes.iter().position(|byte| [b'\r', b'\n', 0].contains(byte)).ok_or(Rest::Part)?;
    let line = &bytes[..end];
    match bytes[end..] {
        [b'\r', b'\n', ..] => {
            *bytes = &bytes[end + 2..];
            Ok(String::from_utf8(line.to_vec()).unwrap())
        }
        [b'\r'] => Err(Rest::Part),
        _ => Err(Rest::Nonsense),
    }
}

fn exactly(bytes: &mut &[u8], n: usize) -> Result<Vec<u8>, Rest> {
    let (taken, rest) = bytes.split_at_checked(n).ok_or(Rest::Part)?;
    *bytes = rest;
    Ok(taken.to_vec())
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

const HIDDEN: &str = "GET /hidden HTTP/1.1|host: a||";

/// Bytes that may be requests: right ones, nearly right ones, and others hidden in their bodies.
fn message(random: &mut fastrand::Rng) -> String {
    let mut text = String::new();
    let chunked = format!("{:x}|{HIDDEN}|0||", HIDDEN.replace('|', "\r\n").len());
    let sized = HIDDEN.replace('|', "\r\n").len();
    let lengths = [sized.to_string(), "0".to_owned(), (sized + 1).to_string(), "5".to_owned(), format!("0{sized}")];
    let length = &lengths[if random.bool() { 0 } else { random.usize(..lengths.len()) }];
    let clean = random.u8(..4) > 0;
    let mut framing: Vec<String> = match random.u8(..5) {
        0 => vec![],
        1 | 2 => vec![format!("Content-Length: {length}")],
        _ => vec!["Transfer-Encoding: chunked".to_owned()],
    };
    if !clean {
        let odd = [
            "Transfer-Encoding: chunked",
            "transfer-encoding:chunked",
            "Transfer-Encoding: \tCHUNKED ",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "X: y\nTransfer-Encoding: chunked",
            "X: y\rTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, x",
            "Transfer-Encoding:",
            "Transfer-Encoding:| chunked",
            "Transfer-Encoding\0: chunked",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length : 5",
            "X: y\nContent-Length: 5",
            "Content-Length: 5\n",
            "Content-Length: 0",
            "Content-Length: 1",
            "content-length:\t5\t",
            "Connection: Content-Length",
            "Connection: Transfer-Encoding",
            "Connection: x, Host",
            "Expect: 100-continue",
            "X-Fill: ",
            "Host: b",
            "\x0bTransfer-Encoding: chunked",
        ];
        for _ in 0..random.usize(1..3) {
            framing.push(odd[random.usize(..odd.len())].to_owned());
        }
    }
    framing.push("Host: a".to_owned());
    random.shuffle(&mut framing);
    let methods = ["POST", "GET", "PUT", "DELETE"];
    let _ = write!(text, "{} /open HTTP/1.1|{}||", methods[random.usize(..methods.len())], framing.join("|"));
    let bodies =
        [HIDDEN, &chunked, &format!("0||{HIDDEN}"), "", "5;a=b|abcde|0|x: y||", &format!("0|x: y\n\n{HIDDEN}")];
    let fitting = if framing.iter().any(|field| field.starts_with("Transfer")) { 1 } else { 0 };
    text += bodies[if random.u8(..4) > 0 { fitting } else { random.usize(..bodies.len()) }];
    text = text.replace('|', "\r\n");
    if random.u8(..8) == 0 {
        // One byte is changed.
        let at = random.usize(..text.len());
        let other = ["\n", "\r", "\0", " ", ":", ";", "0", "", "\r\n"][random.usize(..9)];
        if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
            text.replace_range(at..=at, other);
        }
    }
    text
}

/// Answers each request as soon as it is whole, and notes it.
async fn answer(io: DuplexStream, seen: Arc<Mutex<Vec<Read>>>) {
    let mut raw = Raw::new(io);
    let mut answered = 0;
    while raw.more().await {
        let (requests, rest) = read(&raw.read);
        assert_ne!(rest, Rest::Nonsense, "{:?}", String::from_utf8_lossy(&raw.read));
        for request in &requests[answered..] {
            seen.lock().unwrap().push(request.clone());
            let _ = raw.io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
        answered = requests.len();
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_out_is_what_a_strict_reader_sees_come_in() {
    let (mut whole, mut refused, mut hidden) = (0, 0, 0);
    for seed in 0..1_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sent = String::new();
        for _ in 0..random.usize(1..4) {
            sent += &message(&mut random);
        }
        sent += "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (expected, rest) = read(sent.as_bytes());

        let mut rig = Rig::to(Protocol::Http1, endpoint_params());
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let seen = Arc::<Mutex<Vec<Read>>>::default();
        let endpoints = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut answering = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        Some(io) = rig.endpoint_ios.recv() => { answering.spawn(answer(io, Arc::clone(&seen))); }
                        Some(answered) = answering.join_next() => answered.unwrap(),
                        else => return,
                    }
                }
            }
        });
        let mut left = sent.as_str();
        while !left.is_empty() {
            let (piece, rest) = left.split_at(random.usize(1..=left.len()));
            // It may be closed by now.
            let _ = client.io.write_all(piece.as_bytes()).await;
            tokio::task::yield_now().await;
            left = rest;
        }
        // Where something is missing, nothing comes any more.
        let _ = timeout(Duration::from_secs(60), async { while client.more().await {} }).await;
        // Each clone of the proxy keeps its connections.
        drop((client, rig.proxy, rig.server, rig.endpoints));
        timeout(Duration::from_secs(60), endpoints).await.expect("the proxy is gone").unwrap();

        let seen = seen.lock().unwrap().clone();
        let context = format!("seed {seed}: {sent:?}\nseen: {seen:?}\nexpected: {expected:?}");
        assert!(expected.starts_with(&seen), "{context}");
        if rest == Rest::Nothing {
            assert_eq!(seen, expected, "{context}");
            whole += 1;
        } else {
            refused += 1;
        }
        hidden += seen.iter().filter(|request| request.line.contains("/hidden")).count();
    }
    // All kinds were there; a hidden request that is in no body is a request.
    assert!(whole > 150 && refused > 150 && hidden > 50, "{whole}, {refused}, {hidden}");
}
