//! Profiles: the canonical name of a destination, its only endpoint, or that it takes no HTTP.

use super::{
    INITIAL_TIMEOUT, Rig, answered,
    mock::{Mock, weighted},
};
use crate::destinations::endpoint;
use linkerd2_proxy_api::destination::DestinationProfile;
use std::time::{Duration, Instant};
use tonic::Status;

const SHOP: &str = "http://web.shop.svc.cluster.local/";
const SHOP_NAME: &str = "web.shop.svc.cluster.local:80";

fn named(name: &str) -> DestinationProfile {
    DestinationProfile { fully_qualified_name: name.to_owned(), ..DestinationProfile::default() }
}

#[tokio::test]
async fn a_profile_names_the_service_whose_endpoints_are_followed() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let sent = rig.send(SHOP);
    let profile = mock.asked_profile().await;
    assert_eq!((profile.path(), &*profile.question.context_token), (SHOP_NAME, r#"{"ns":"shop"}"#));
    assert!(mock.was_asked().await.is_none());
    profile.send(named("web-2.shop.svc.cluster.local"));
    let second = mock.asked().await;
    assert_eq!(second.path(), "web-2.shop.svc.cluster.local:80");
    second.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    // The same again changes nothing, another name does; until its endpoints come the old ones are used.
    profile.send(named("web-2.shop.svc.cluster.local"));
    profile.send(named("web-3.shop.svc.cluster.local."));
    let third = mock.asked().await;
    assert_eq!(third.path(), "web-3.shop.svc.cluster.local:80");
    second.ended().await;
    assert_eq!(rig.ask(SHOP).await, answered(200, "a"));
    third.add([weighted(b)]);
    rig.until(SHOP, 200, "b").await;
    // Without a name it is the destination's own.
    profile.send(DestinationProfile::default());
    assert_eq!(mock.asked().await.path(), SHOP_NAME);
}

#[tokio::test]
async fn an_opaque_destination_gets_no_requests() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[]).await;
    let sent = rig.send(SHOP);
    let profile = mock.asked_profile().await;
    profile.send(DestinationProfile { opaque_protocol: true, ..named("web.shop.svc.cluster.local") });
    let (status, by) = sent.await.unwrap();
    assert!(status == 503 && by.contains("opaque TCP"), "{status} {by}");
    assert!(mock.was_asked().await.is_none());
    profile.send(named("web.shop.svc.cluster.local"));
    mock.asked().await.add([weighted(a)]);
    rig.until(SHOP, 200, "a").await;
}

#[tokio::test]
async fn an_endpoint_of_a_profile_is_the_only_one() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let sent = rig.send(SHOP);
    let profile = mock.asked_profile().await;
    let to = |addr| DestinationProfile { endpoint: Some(weighted(addr)), ..DestinationProfile::default() };
    profile.send(to(a));
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    profile.send(to(b));
    rig.until(SHOP, 200, "b").await;
    assert!(mock.was_asked().await.is_none());
    rig.streams(SHOP_NAME, 1).await;
}

#[tokio::test]
async fn without_a_profile_the_destinations_own_name_is_followed() {
    for status in [Status::invalid_argument(""), Status::unimplemented("")] {
        let mock = Mock::start().await;
        let a = endpoint("a").await;
        let rig = Rig::start(mock.addr, &[]).await;
        let sent = rig.send(SHOP);
        let code = status.code();
        mock.asked_profile().await.reject(status);
        let asked = mock.asked().await;
        assert_eq!(asked.path(), SHOP_NAME);
        asked.add([weighted(a)]);
        assert_eq!(sent.await.unwrap(), answered(200, "a"));
        if code == tonic::Code::Unimplemented {
            // One that comes later counts.
            mock.asked_profile().await.send(named("web-2.shop.svc.cluster.local"));
            assert_eq!(mock.asked().await.path(), "web-2.shop.svc.cluster.local:80");
        }
    }
}

#[tokio::test]
async fn a_question_for_a_profile_that_is_cut_says_nothing_of_it() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(INITIAL_TIMEOUT, "60s")]).await;
    let sent = rig.send(SHOP);
    for status in [Status::unavailable(""), Status::cancelled(""), Status::internal(""), Status::ok("")] {
        mock.asked_profile().await.reject(status);
    }
    mock.asked_profile().await.send(named("web-2.shop.svc.cluster.local"));
    let asked = mock.asked().await;
    assert_eq!(asked.path(), "web-2.shop.svc.cluster.local:80");
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}

#[tokio::test]
async fn while_the_control_plane_is_away_there_may_be_a_profile() {
    const LIMIT: Duration = Duration::from_secs(1);
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(INITIAL_TIMEOUT, "1s")]).await;
    let sent = rig.send(SHOP);
    let started = Instant::now();
    while started.elapsed() < 2 * LIMIT {
        mock.asked_profile().await.reject(Status::unavailable(""));
    }
    mock.asked_profile().await.send(named("web-2.shop.svc.cluster.local"));
    let asked = mock.asked().await;
    assert_eq!(asked.path(), "web-2.shop.svc.cluster.local:80", "its own name was not asked for");
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}

#[tokio::test]
async fn a_profile_that_cannot_be_asked_for_is_not_waited_for_for_long() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(INITIAL_TIMEOUT, "500ms")]).await;
    let sent = rig.send(SHOP);
    let asked = tokio::select! {
        asked = mock.asked() => asked,
        () = async { loop { mock.asked_profile().await.reject(Status::internal("")) } } => unreachable!(),
    };
    assert_eq!(asked.path(), SHOP_NAME);
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}
