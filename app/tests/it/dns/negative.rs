//! Answers that there is no such name, or that it has no address: news, once they have lasted for the hold time.

use super::{HOLD, SECOND, Said, Server, UNBOUNDED, Zone, check, families::time_until, ips, pass_slowly, settle};
use crate::support::{App, PATIENCE, admin};
use app::dns::{Discovery, NameState, Status};
use app_env::Dns;
use hickory_resolver::proto::op::ResponseCode;
use proxy_http::proxy::Absence;
use std::time::Duration;
use tokio::time::timeout;

fn status(found: &Discovery) -> Status {
    found.names.status()[0].1
}

/// The two answers, the second one also with an SOA.
fn none() -> [Zone; 3] {
    let no_data = || Said::NoData(5);
    [ResponseCode::NXDomain, ResponseCode::NoError]
        .map(Zone::Code)
        .into_iter()
        .chain([Zone::Families(no_data(), no_data())])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_loses_its_addresses_after_the_hold_time() {
    for zone in none() {
        for hold in [Duration::ZERO, SECOND / 100, 5 * SECOND, HOLD] {
            let server = Server::start().await;
            server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
            let found = server.follow(&["a.test:80", "10.9.9.9:1"], Dns { negative_hold: hold, ..UNBOUNDED });
            assert_eq!(status(&found), Status { state: NameState::Unresolved, addresses: 0 });
            time_until(&found.list, &["10.0.0.1:80", "[::1]:80", "10.9.9.9:1"]).await;
            assert_eq!(status(&found), Status { state: NameState::Resolved, addresses: 2 });
            server.set("a.test", zone.clone());
            if hold > 3 * SECOND {
                pass_slowly(7 * SECOND).await;
                assert_eq!(status(&found), Status { state: NameState::Held, addresses: 2 });
                check(&found.list, &["10.0.0.1:80", "[::1]:80", "10.9.9.9:1"]);
            }
            let passed = if hold > 3 * SECOND { 7 * SECOND } else { Duration::ZERO };
            // Held from the end of the TTL on; a name is looked up once a second at most.
            let waited = passed + time_until(&found.list, &["10.9.9.9:1"]).await;
            let expect = 5 * SECOND + hold..=5 * SECOND + hold.max(SECOND) + SECOND;
            assert!(expect.contains(&(waited + SECOND / 2)), "{zone:?}, {hold:?}: {waited:?}");
            assert_eq!(status(&found), Status { state: NameState::Gone, addresses: 0 });

            // It comes back within the longest pause.
            server.set_addrs("a.test", 5, &["10.0.0.2"]);
            time_until(&found.list, &["10.0.0.2:80", "10.9.9.9:1"]).await;
            assert_eq!(status(&found), Status { state: NameState::Resolved, addresses: 1 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_comes_back_within_the_hold_time_keeps_its_addresses() {
    for zone in none() {
        for away in [1, 10, 27] {
            let server = Server::start().await;
            server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
            let mut found = server.follow(&["a.test:80"], UNBOUNDED);
            time_until(&found.list, &["10.0.0.1:80", "[::1]:80"]).await;
            found.list.borrow_and_update();
            // Twice, so that the time of the first is not held against the second.
            for _ in 0..2 {
                server.set("a.test", zone.clone());
                pass_slowly(6 * SECOND).await;
                assert_eq!(status(&found).state, NameState::Held);
                pass_slowly(away * SECOND).await;
                server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
                pass_slowly(18 * SECOND).await;
                assert_eq!(status(&found).state, NameState::Resolved, "{zone:?}, {away}");
            }
            assert!(!found.list.has_changed().unwrap(), "{zone:?}, {away}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_name_servers_keep_addresses_for_ever_also_after_news() {
    for said in [Said::Code(ResponseCode::ServFail), Said::Code(ResponseCode::Refused), Said::Nothing] {
        let failure = Zone::Families(said.clone(), said);
        for none_first in [false, true] {
            let server = Server::start().await;
            server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
            let found = server.follow(&["a.test:80"], UNBOUNDED);
            time_until(&found.list, &["10.0.0.1:80", "[::1]:80"]).await;
            if none_first {
                server.set("a.test", Zone::Code(ResponseCode::NXDomain));
                pass_slowly(10 * SECOND).await;
            }
            server.set("a.test", failure.clone());
            pass_slowly(150 * SECOND).await;
            check(&found.list, &["10.0.0.1:80", "[::1]:80"]);
            let state = if none_first { NameState::Held } else { NameState::Kept };
            assert_eq!(status(&found), Status { state, addresses: 2 }, "{failure:?}");
            // That the name is gone counts from the first answer that says so.
            server.set("a.test", Zone::Code(ResponseCode::NXDomain));
            let hold = if none_first { Duration::ZERO } else { HOLD };
            let waited = time_until(&found.list, &[]).await;
            assert!((hold..hold + 38 * SECOND).contains(&waited), "{failure:?}, {none_first}: {waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_family_that_is_gone_has_the_other_looked_up() {
    // The other one's TTL of an hour is not waited for: the hold time of both begins now.
    for (zone, addrs) in [
        (
            Zone::Families(Said::Addrs(ips(&["10.0.0.1"]), 5), Said::Addrs(ips(&["::1"]), 3600)),
            ["10.0.0.1:80", "[::1]:80"],
        ),
        (
            Zone::Families(Said::Addrs(ips(&["10.0.0.1"]), 3600), Said::Addrs(ips(&["::1"]), 5)),
            ["10.0.0.1:80", "[::1]:80"],
        ),
    ] {
        let server = Server::start().await;
        server.set("a.test", zone);
        let found = server.follow(&["a.test:80"], UNBOUNDED);
        time_until(&found.list, &addrs).await;
        server.set("a.test", Zone::Code(ResponseCode::NXDomain));
        pass_slowly(15 * SECOND).await;
        check(&found.list, &addrs);
        assert_eq!(status(&found), Status { state: NameState::Held, addresses: 2 });
        assert!(time_until(&found.list, &[]).await < 22 * SECOND);
        assert_eq!(status(&found), Status { state: NameState::Gone, addresses: 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_known_that_there_is_no_address_as_long_as_servers_say_so() {
    for zone in none() {
        let server = Server::start().await;
        server.set("a.test", zone.clone());
        let mut found = server.follow(&["a.test:80"], UNBOUNDED);
        assert_eq!(*found.absence.borrow(), None);
        let known = found.absence.wait_for(Option::is_some);
        let reason = timeout(PATIENCE, known).await.expect("the answer is known").unwrap().clone();
        assert_eq!(
            reason.as_ref().map(Absence::reason),
            Some("a.test: there is no such name, or it has no address"),
            "{zone:?}"
        );
        server.set_addrs("a.test", 5, &["10.0.0.1"]);
        time_until(&found.list, &["10.0.0.1:80"]).await;
        settle().await;
        assert_eq!(*found.absence.borrow(), None);
    }
    // Neither is it known of a name that cannot be looked up, nor if there is another endpoint.
    let server = Server::start().await;
    let failed = || Said::Code(ResponseCode::ServFail);
    server.set("a.test", Zone::Families(failed(), failed()));
    for endpoints in [&["a.test:80"][..], &["gone.test:80", "10.0.0.1:80"]] {
        let found = server.follow(endpoints, UNBOUNDED);
        pass_slowly(3 * SECOND).await;
        assert_eq!(*found.absence.borrow(), None, "{endpoints:?}");
    }
}

#[tokio::test]
async fn ready_and_the_metrics_tell_of_names_without_addresses() {
    // RFC 6761 section 6.4: there is nothing under `invalid`; whether that is known depends on the system's resolv.conf.
    let app = App::start_to("gone.invalid.:80,localhost:1", &[]);
    app.counted("dns_name_addresses{direction=\"outbound\",endpoint=\"gone.invalid.:80\"} 0").await;
    app.counted("dns_names{direction=\"outbound\",name_state=\"resolved\"} 1").await;
    app.counted("dns_names{direction=\"outbound\",name_state=\"held\"} 0").await;
    let (status, body) = admin(app.admin, "GET", "/ready", "").await;
    assert_eq!(status, 503);
    assert!(body.contains("\noutbound: gone.invalid.:80 has no address: "), "{body}");
    assert!(!body.contains("localhost"), "{body}");
}
