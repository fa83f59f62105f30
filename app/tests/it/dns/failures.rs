//! Lookups that fail, and when a name is looked up again.

use super::{HOLD, SECOND, Said, Server, UNBOUNDED, Zone, changed, check, ips, pass};
use app_env::Dns;
use hickory_resolver::proto::op::ResponseCode;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_name_that_stops_resolving_keeps_its_last_addresses() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut server = Server::start().await;
        server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
        let mut list = server.discover(&["a.test:80"], UNBOUNDED);
        changed(&mut list).await;
        server.asked().await;
        server.set("a.test", Zone::Code(code));
        // By the last question the first answers count.
        for _ in 0..4 {
            server.asked_later().await;
        }
        assert!(!list.has_changed().unwrap(), "{code}");
        check(&list, &["10.0.0.1:80", "[::1]:80"]);

        server.set_addrs("a.test", 5, &["10.0.0.2"]);
        pass(30 * SECOND).await;
        changed(&mut list).await;
        check(&list, &["10.0.0.2:80"]);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_ever_less_often() {
    let unbounded = [1, 2, 4, 8, 16, 30, 30];
    let bounded = [1, 2, 3, 3, 3, 3, 3];
    for (max_ttl, waits) in [(None, unbounded), (Some(3 * SECOND), bounded)] {
        let mut server = Server::start().await;
        let _list = server.discover(&["a.test:80"], Dns { max_ttl, ..UNBOUNDED });
        let mut last = server.asked().await;
        for wait in waits {
            let next = server.asked_later().await;
            let wait = wait * SECOND;
            assert!((wait..wait + 2 * SECOND).contains(&(next - last)), "{:?} for {wait:?}", next - last);
            last = next;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_fails_alone_keeps_its_last_addresses() {
    let mut server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    server.asked().await;
    let failure = Said::Code(ResponseCode::ServFail);
    server.set("a.test", Zone::Families(Said::Addrs(ips(&["10.0.0.2"]), 5), failure));
    server.asked_later().await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80", "[::1]:80"]);
    // That there is none is no failure.
    server.set_addrs("a.test", 5, &["10.0.0.2"]);
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_never_resolves_holds_up_no_other() {
    let server = Server::start().await;
    server.set("bad.test", Zone::Code(ResponseCode::ServFail));
    server.set_addrs("good.test", 5, &["10.0.0.1"]);
    let mut list = server.discover(&["bad.test:80", "good.test:80", "none.test:80"], UNBOUNDED);
    changed(&mut list).await;
    check(&list, &["10.0.0.1:80"]);
    server.set_addrs("bad.test", 5, &["10.0.0.2"]);
    pass(2 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80", "10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn bounds_win_over_the_ttl_and_nothing_wins_over_a_second() {
    let bounds = |min: Option<u64>, max: Option<u64>| Dns {
        min_ttl: min.map(Duration::from_millis),
        max_ttl: max.map(Duration::from_millis),
        negative_hold: HOLD,
    };
    for (ttl, bounds, wait) in [
        (5, bounds(None, None), 5),
        (5, bounds(Some(20_000), None), 20),
        (5, bounds(Some(20_000), Some(20_000)), 20),
        (5, bounds(Some(2_000), Some(20_000)), 5),
        (50, bounds(None, Some(20_000)), 20),
        (0, bounds(None, None), 1),
        (0, bounds(Some(10), None), 1),
        (50, bounds(None, Some(0)), 1),
    ] {
        let mut server = Server::start().await;
        server.set_addrs("a.test", ttl, &["10.0.0.1"]);
        let mut list = server.discover(&["a.test:80"], bounds);
        changed(&mut list).await;
        let first = server.asked().await;
        let (waited, wait) = (server.asked_later().await - first, wait * SECOND);
        assert!((wait..wait + 2 * SECOND).contains(&waited), "TTL {ttl}, {bounds:?}: {waited:?}");
    }
}
