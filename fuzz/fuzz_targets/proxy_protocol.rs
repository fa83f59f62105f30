//! Any first bytes of a connection that has to begin with a PROXY protocol header: pieces of any size give the same as the whole, and
//! a header that is read is written such that it is read again.
#![no_main]

// `app` keeps it to itself.
#[path = "../../app/src/proxy_protocol/header.rs"]
mod header;

use app_env::ProxyProtocol;
use header::{Addresses, Invalid, MAX, Partial, encode};
use libfuzzer_sys::fuzz_target;
use std::iter;

/// The bytes that the header has taken, and its addresses once it is whole.
type Outcome = Result<(usize, Option<Option<Addresses>>), Invalid>;

// The size of pieces, less one, and the bytes.
fuzz_target!(|input: &[u8]| {
    let Some((size, sent)) = input.split_first() else { return };
    let size = usize::from(*size) + 1;
    let whole = read(iter::once(sent));
    assert_eq!(read(sent.chunks(1)), whole, "in single bytes");
    assert_eq!(read(sent.chunks(size)), whole, "in pieces of {size}");
    let (first, second) = sent.split_at(size.min(sent.len()));
    assert_eq!(read([first, second].into_iter()), whole, "in two pieces, the first of {size}");
    match whole {
        Ok((taken, Some(addresses))) => {
            assert!(taken <= MAX);
            assert_eq!(read(iter::once(&sent[..taken])), whole, "what follows does not count");
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let written = encode(version, addresses);
                assert_eq!(read(iter::once(&*written)), Ok((written.len(), Some(addresses))), "written as {version:?}");
            }
        }
        Ok((taken, None)) => assert_eq!(taken, sent.len(), "no byte is left while the header is not whole"),
        Err(_) => {}
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut partial = Partial::default();
    assert!(partial.is_empty());
    let mut total = 0;
    for piece in pieces {
        total += partial.push(piece)?;
        if let Some(parsed) = partial.parse() {
            return Ok((total, Some(parsed?)));
        }
    }
    Ok((total, None))
}
