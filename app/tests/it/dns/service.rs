//! Services by SRV records: priorities, weights, TTLs, and answers that there is none.

use super::{HOLD, List, SECOND, Said, Server, UNBOUNDED, Zone, addrs, families::time_until, pass_slowly};
use crate::support::PATIENCE;
use app::dns::{Discovery, NameState, discover_service, is_service};
use app_env::Dns;
use hickory_resolver::proto::op::ResponseCode;
use proxy_http::proxy::Absence;
use std::time::Duration;
use tokio::time::timeout;

const NAME: &str = "_grpc._tcp.shop.test";
/// Nothing is held.
const AT_ONCE: Dns = Dns { negative_hold: Duration::ZERO, ..UNBOUNDED };

/// Records of priority, weight, port and target.
fn services(records: &[(u16, u16, u16, &str)], ttl: u32) -> Zone {
    Zone::Services {
        records: records.iter().map(|&(priority, weight, port, of)| (priority, weight, port, of.to_owned())).collect(),
        ttl,
    }
}

fn follow(server: &Server, dns: Dns) -> Discovery {
    discover_service(NAME, false, dns, &server.resolver)
}

fn state(found: &Discovery) -> NameState {
    found.names.status().iter().find(|(name, _)| name == NAME).unwrap().1.state
}

/// The endpoints of the lowest number of the priorities, with their weights.
fn weights(list: &List) -> Vec<(String, u32)> {
    let list = list.borrow();
    let first = list.iter().map(|endpoint| endpoint.priority).min();
    let list = list.iter().filter(|endpoint| Some(endpoint.priority) == first);
    list.map(|endpoint| (endpoint.addr.to_string(), endpoint.weight.get())).collect()
}

async fn wait_for_weights(list: &mut List, expect: &[(&str, u32)]) {
    let expect: Vec<_> = expect.iter().map(|(addr, weight)| ((*addr).to_owned(), *weight)).collect();
    let found = async {
        while weights(list) != expect {
            list.changed().await.unwrap();
        }
    };
    let found = timeout(PATIENCE, found).await;
    assert!(found.is_ok(), "{:?} instead of {expect:?}", weights(list));
}

#[tokio::test(start_paused = true)]
async fn endpoints_have_the_priorities_and_weights_of_their_records() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "10.0.0.2"]);
    server.set_addrs("b.test", 5, &["10.0.1.1"]);
    server.set_addrs("c.test", 5, &["10.0.2.1", "::2"]);
    server.set(
        NAME,
        services(
            &[(20, 7, 80, "c.test."), (10, 60, 8080, "a.test."), (10, 0, 8081, "b.test."), (5, 1, 1, "gone.test.")],
            3600,
        ),
    );
    let mut found = follow(&server, AT_ONCE);
    // A target's weight is that of all its addresses, and zero beside others is next to nothing.
    let expect = [("10.0.0.1:8080", 30_000), ("10.0.0.2:8080", 30_000), ("10.0.1.1:8081", 1)];
    wait_for_weights(&mut found.list, &expect).await;
    let all: Vec<_> = found.list.borrow().iter().map(|one| (one.addr.to_string(), one.priority)).collect();
    let expect =
        [("10.0.0.1:8080", 10), ("10.0.0.2:8080", 10), ("10.0.1.1:8081", 10), ("10.0.2.1:80", 20), ("[::2]:80", 20)];
    assert_eq!(all, expect.map(|(addr, priority)| (addr.to_owned(), priority)));
    assert_eq!(state(&found), NameState::Resolved);
    let names: Vec<_> = found.names.status().into_iter().map(|(name, status)| (name, status.addresses)).collect();
    let expect = [(NAME, 5), ("a.test.:8080", 2), ("b.test.:8081", 1), ("c.test.:80", 2), ("gone.test.:1", 0)];
    assert_eq!(names, expect.map(|(name, addresses)| (name.to_owned(), addresses)));
    // Addresses change without the records being looked up again.
    server.set("a.test", Zone::Code(ResponseCode::NXDomain));
    server.set("b.test", Zone::Code(ResponseCode::NXDomain));
    pass_slowly(15 * SECOND).await;
    wait_for_weights(&mut found.list, &[("10.0.2.1:80", 3_500), ("[::2]:80", 3_500)]).await;
}

#[tokio::test(start_paused = true)]
async fn weights_of_zero_alone_are_equal_shares_and_one_address_has_the_sum() {
    let server = Server::start().await;
    server.set_addrs("a.test", 3600, &["10.0.0.1"]);
    server.set_addrs("b.test", 3600, &["10.0.1.1"]);
    server.set(NAME, services(&[(0, 0, 80, "a.test."), (0, 0, 81, "b.test.")], 5));
    let mut found = follow(&server, UNBOUNDED);
    wait_for_weights(&mut found.list, &[("10.0.0.1:80", 1_000), ("10.0.1.1:81", 1_000)]).await;
    server.set_addrs("c.test", 3600, &["10.0.1.1"]);
    server.set(NAME, services(&[(0, 1, 80, "a.test."), (0, 65535, 81, "b.test."), (0, 2, 81, "c.test.")], 5));
    pass_slowly(7 * SECOND).await;
    wait_for_weights(&mut found.list, &[("10.0.0.1:80", 1_000), ("10.0.1.1:81", 65_537_000)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_the_root_means_no_service() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1"]);
    server.set(NAME, services(&[(0, 0, 80, "a.test.")], 5));
    let mut found = follow(&server, UNBOUNDED);
    wait_for_weights(&mut found.list, &[("10.0.0.1:80", 1_000)]).await;
    assert_eq!(*found.absence.borrow(), None);
    server.set(NAME, services(&[(0, 0, 0, ".")], 5));
    // There is nothing to hold.
    assert!(time_until(&found.list, &[]).await < 8 * SECOND);
    assert_eq!(state(&found), NameState::Gone);
    assert!(found.absence.borrow().as_ref().is_some_and(|absence| absence.reason().starts_with(NAME)));
    server.set(NAME, services(&[(0, 0, 81, "a.test.")], 5));
    assert!(time_until(&found.list, &["10.0.0.1:81"]).await < 8 * SECOND);
    assert_eq!(*found.absence.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_gone_is_held_and_failures_keep_it() {
    let server = Server::start().await;
    server.set_addrs("a.test", 3600, &["10.0.0.1"]);
    server.set(NAME, services(&[(0, 0, 80, "a.test.")], 5));
    let mut found = follow(&server, UNBOUNDED);
    wait_for_weights(&mut found.list, &[("10.0.0.1:80", 1_000)]).await;
    let failed = || Said::Code(ResponseCode::ServFail);
    server.set(NAME, Zone::Families(failed(), failed()));
    pass_slowly(100 * SECOND).await;
    assert_eq!((state(&found), addrs(&found.list).len()), (NameState::Kept, 1));
    server.set(NAME, Zone::Code(ResponseCode::NXDomain));
    let waited = time_until(&found.list, &[]).await;
    assert!((HOLD..HOLD + 38 * SECOND).contains(&waited), "{waited:?}");
    assert!(state(&found) == NameState::Gone && found.absence.borrow().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_exist_is_known_at_once() {
    for zone in [Zone::Code(ResponseCode::NXDomain), services(&[(0, 0, 80, "gone.test.")], 5)] {
        let server = Server::start().await;
        server.set(NAME, zone);
        let mut found = follow(&server, UNBOUNDED);
        let known = found.absence.wait_for(Option::is_some);
        let reason = timeout(PATIENCE, known).await.expect("the answer is known").unwrap().clone();
        assert_eq!(
            reason.as_ref().map(Absence::reason),
            Some(&*format!("{NAME}: there is no such name, or it has no address"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_truncated_is_asked_for_over_tcp() {
    let server = Server::start().await;
    let targets: Vec<_> = (0..60).map(|index| format!("target-with-a-long-name-{index}.test.")).collect();
    let addrs: Vec<_> = (0..60).map(|index| format!("10.0.0.{index}")).collect();
    for (target, addr) in targets.iter().zip(&addrs) {
        server.set_addrs(target.trim_end_matches('.'), 5, &[addr]);
    }
    server.set(NAME, services(&targets.iter().map(|target| (0, 1, 80, &**target)).collect::<Vec<_>>(), 5));
    let found = follow(&server, UNBOUNDED);
    let all: Vec<_> = addrs.iter().map(|addr| format!("{addr}:80")).collect();
    time_until(&found.list, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_a_target_has_the_name_of_the_domain() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1"]);
    server.set(NAME, services(&[(0, 0, 80, "a.test.")], 5));
    assert!(is_service(NAME));
    let mut found = discover_service(NAME, true, UNBOUNDED, &server.resolver);
    wait_for_weights(&mut found.list, &[("10.0.0.1:80", 1_000)]).await;
    assert_eq!(found.list.borrow()[0].addr.host.as_deref(), Some("shop.test"));
}
