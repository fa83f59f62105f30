//! Any file of routes: it is read, or refused with places in it, and routes that are read name only backends that there are.
#![no_main]

use app_env::{Connect, routes::Routes};
use libfuzzer_sys::fuzz_target;
use std::{collections::BTreeMap, sync::LazyLock};

static CONNECT: LazyLock<Connect> = LazyLock::new(|| {
    let vars = BTreeMap::from([("LINKERD2_PROXY_OUTBOUND_ROUTES", "routes.yaml")]);
    app_env::load(&vars).expect("it is a path").config.outbound.expect("it is on").connect
});

fuzz_target!(|text: &str| {
    // The end of a text without a line break is a line of its own.
    let lines = text.matches(['\n', '\r']).count() + 2;
    match Routes::parse(text, &CONNECT) {
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| (1..=lines).contains(&error.line) && error.column > 0), "{errors:?}");
        }
        Ok((Routes { backends, routes, .. }, warnings)) => {
            assert!(warnings.iter().all(|warning| (1..=lines).contains(&warning.line)), "{warnings:?}");
            assert!(backends.values().all(|backend| !backend.endpoints.is_empty()));
            for rule in routes.iter().flat_map(|route| &route.rules) {
                assert!(!rule.matches.is_empty() && !rule.backend_refs.is_empty());
                assert!(rule.backend_refs.iter().all(|to| backends.contains_key(&to.name)));
            }
        }
    }
});
