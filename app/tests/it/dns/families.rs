//! IPv4 and IPv6: each has its own answer, its own deadline and its own TTL.

use super::{HOLD, List, SECOND, Said, Server, UNBOUNDED, Zone, addrs, check, ips, next, pass, pass_slowly, settle};
use app::dns::NameState;
use hickory_resolver::proto::op::ResponseCode;
use std::time::Duration;
use tokio::time::Instant;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Lets time pass, in steps of 5 ms at first, 50 ms after 0.1 s and 250 ms after 2 s, until the list has these addresses, and tells how long that took.
pub(super) async fn time_until(list: &List, expect: &[&str]) -> Duration {
    let expect: Vec<std::net::SocketAddr> = expect.iter().map(|addr| addr.parse().unwrap()).collect();
    let start = Instant::now();
    loop {
        settle().await;
        let passed = Instant::now() - start;
        if addrs(list) == expect {
            return passed;
        }
        assert!(passed < 100 * SECOND, "{:?} for {expect:?}", addrs(list));
        let step = match passed.as_millis() {
            ..100 => 5,
            100..2_000 => 50,
            _ => 250,
        };
        pass((step - 1) * MILLISECOND).await;
    }
}

fn one(addr: &str, ttl: u32) -> Said {
    Said::Addrs(ips(&[addr]), ttl)
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_never_answered_holds_up_the_other_for_50_ms_at_most() {
    let v4_alone = |addr| Zone::Families(one(addr, 1), Said::Nothing);
    let v6_alone = |addr| Zone::Families(Said::Nothing, one(addr, 1));
    let v4 = [("10.0.0.1:80", v4_alone("10.0.0.1")), ("10.0.0.2:80", v4_alone("10.0.0.2"))];
    let v6 = [("[::1]:80", v6_alone("::1")), ("[::2]:80", v6_alone("::2"))];
    for zones in [v4, v6] {
        let server = Server::start().await;
        server.set("a.test", zones[0].1.clone());
        let list = server.discover(&["a.test:80"], UNBOUNDED);
        let waited = time_until(&list, &[zones[0].0]).await;
        assert!(waited <= 60 * MILLISECOND, "{waited:?}");
        // And so does each change, for as long as the other is silent: at its TTL of a second.
        for (addr, zone) in zones.iter().cycle().skip(1).take(20) {
            server.set("a.test", zone.clone());
            let waited = time_until(&list, &[addr]).await;
            assert!(waited <= 1_200 * MILLISECOND, "{waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_comes_late_is_added_when_it_comes() {
    let mut server = Server::start().await;
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), Said::Nothing));
    let list = server.discover(&["a.test:80"], UNBOUNDED);
    time_until(&list, &["10.0.0.1:80"]).await;
    server.asked().await;
    // The query's retransmission is answered.
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), one("::1", 1_000)));
    let waited = time_until(&list, &["10.0.0.1:80", "[::1]:80"]).await;
    assert!(waited <= SECOND, "{waited:?}");
    assert!(server.names().is_empty(), "the other family is asked for once");
}

#[tokio::test(start_paused = true)]
async fn a_family_that_was_silent_is_asked_for_again() {
    let server = Server::start().await;
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), Said::Nothing));
    let list = server.discover(&["a.test:80"], UNBOUNDED);
    time_until(&list, &["10.0.0.1:80"]).await;
    pass_slowly(50 * SECOND).await;
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), one("::1", 1_000)));
    let waited = time_until(&list, &["10.0.0.1:80", "[::1]:80"]).await;
    assert!(waited <= 36 * SECOND, "a time-out and the longest pause: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn each_family_is_looked_up_when_its_own_ttl_is_over() {
    let soon_and_late = Zone::Families(one("10.0.0.1", 5), one("::1", 60));
    let late_and_soon = Zone::Families(one("10.0.0.1", 60), one("::1", 5));
    let no_data = Zone::Families(one("10.0.0.1", 5), Said::NoData(60));
    for (zone, v4_wait, v6_wait) in [(soon_and_late, 5, 60), (late_and_soon, 60, 5), (no_data, 5, 60)] {
        let mut server = Server::start().await;
        server.set("a.test", zone.clone());
        let _list = server.discover(&["a.test:80"], UNBOUNDED);
        let mut asked = [Vec::new(), Vec::new()];
        for _ in 0..4 * 150 {
            settle().await;
            while let Ok((_, when)) = server.asked.try_recv() {
                asked[0].push(when);
            }
            while let Ok((_, when)) = server.asked_v6.try_recv() {
                asked[1].push(when);
            }
            pass(SECOND / 4).await;
        }
        for (asked, wait) in asked.iter().zip([v4_wait, v6_wait]) {
            // An answer of no data may come before the one that says that there is other data.
            let waits: Vec<_> = asked.windows(2).map(|two| two[1] - two[0]).filter(|wait| *wait > 3 * SECOND).collect();
            assert!(waits.len() >= 2, "{zone:?}: {waits:?}");
            let expect = wait * SECOND..(wait + 1) * SECOND;
            assert!(waits.iter().all(|wait| expect.contains(wait)), "{zone:?}: {waits:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_denies_the_name_for_one_family_alone_is_not_believed() {
    // RFC 4074 section 4.2 has such servers.
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::NotImp] {
        let mut server = Server::start().await;
        let zone = |addr| Zone::Families(one(addr, 5), Said::Code(code));
        server.set("a.test", zone("10.0.0.1"));
        let found = server.follow(&["a.test:80"], UNBOUNDED);
        time_until(&found.list, &["10.0.0.1:80"]).await;
        for _ in 0..20 {
            next(&mut server.asked).await;
            check(&found.list, &["10.0.0.1:80"]);
        }
        assert_eq!(found.names.status()[0].1.state, NameState::Resolved, "{code}");
        server.set("a.test", zone("10.0.0.2"));
        assert!(time_until(&found.list, &["10.0.0.2:80"]).await <= 6 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_there_no_more_goes_at_once_if_the_other_stays() {
    let server = Server::start().await;
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), one("::1", 5)));
    let list = server.discover(&["a.test:80"], UNBOUNDED);
    time_until(&list, &["10.0.0.1:80", "[::1]:80"]).await;
    server.set("a.test", Zone::Families(one("10.0.0.1", 1_000), Said::NoData(5)));
    let waited = time_until(&list, &["10.0.0.1:80"]).await;
    assert!(waited < 7 * SECOND && waited < HOLD, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn families_of_two_names_of_the_search_list_are_not_mixed() {
    let mut server = Server::start_with("search one.test two.test", "").await;
    server.set("web.one.test", Zone::Families(one("10.0.0.1", 5), Said::NoData(5)));
    server.set("web.two.test", Zone::Families(Said::NoData(5), one("::2", 5)));
    let list = server.discover(&["web:80"], UNBOUNDED);
    for _ in 0..20 {
        time_until(&list, &["10.0.0.1:80"]).await;
        next(&mut server.asked).await;
    }
    // The first name is gone, and the second one takes its place; the first one comes back with the other family.
    server.set("web.one.test", Zone::Code(ResponseCode::NXDomain));
    time_until(&list, &["[::2]:80"]).await;
    server.set("web.one.test", Zone::Families(Said::NoData(5), one("::1", 5)));
    time_until(&list, &["[::1]:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_family_keeps_the_other_from_no_name_of_the_search_list() {
    let server = Server::start_with("search one.test two.test", "").await;
    server.set("web.one.test", Zone::Families(Said::Code(ResponseCode::NXDomain), Said::Nothing));
    server.set("web.two.test", Zone::Families(one("10.0.0.1", 5), Said::Nothing));
    let list = server.discover(&["web:80"], UNBOUNDED);
    let waited = time_until(&list, &["10.0.0.1:80"]).await;
    assert!(waited <= 60 * MILLISECOND, "{waited:?}");
}
