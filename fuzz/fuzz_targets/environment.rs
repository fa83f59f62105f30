//! Any environment: it is loaded or refused with reasons, and what is loaded can be served with.
#![no_main]

use app_env::PREFIX;
use http_h2::ServerParams;
use libfuzzer_sys::fuzz_target;
use proxy_http::{Connect, Replay, Server};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    sync::LazyLock,
};

static KNOWN: LazyLock<BTreeSet<OsString>> =
    LazyLock::new(|| app_env::variables().map(|variable| variable.name.into()).collect());

// Lines of `NAME=value`; the prefix is added.
fuzz_target!(|input: &[u8]| {
    let lines = input.split(|byte| *byte == b'\n').map(|line| {
        let equals = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        let name = [PREFIX.as_bytes(), &line[..equals]].concat();
        (OsString::from_vec(name), OsString::from_vec(line.get(equals + 1..).unwrap_or_default().to_vec()))
    });
    // An unknown name is compared with all known ones, which takes its time: one is enough.
    let mut unknown = 0..1;
    let vars: BTreeMap<_, _> = lines.filter(|(name, _)| KNOWN.contains(name) || unknown.next().is_some()).collect();
    match app_env::load(&vars) {
        Err(errors) => assert!(errors.to_string().contains(PREFIX)),
        Ok(loaded) => {
            let config = loaded.config;
            for direction in [&config.inbound, &config.outbound].into_iter().flatten() {
                assert_eq!(direction.endpoints.is_empty(), direction.routes.is_some());
                Server::new(&direction.server).expect("what is loaded is in range");
                Connect::<_, Replay>::new((), &direction.connect.http2).expect("what is loaded is in range");
                assert_ne!(direction.server, ServerParams::DEFAULT, "flow control is always set");
            }
            for warning in loaded.warnings {
                assert!(!warning.to_string().is_empty());
            }
            // All of it written out means the same.
            let settings = loaded.settings.into_iter().filter_map(|it| Some((it.name, it.value?)));
            let again = app_env::load(&settings.collect::<BTreeMap<_, _>>()).expect("it is what was loaded");
            assert_eq!(again.config, config);
        }
    }
});
