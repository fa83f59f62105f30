//! The connection to the control plane: lost, told to go away, silent.

use super::{
    IDLE, IDLE_TIMEOUT, INITIAL_TIMEOUT, Rig, WEB, answered, first,
    mock::{Mock, weighted},
};
use crate::{destinations::endpoint, support::admin};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::net::TcpListener;

const WEB_NAME: &str = "web.example:8080";

#[tokio::test]
async fn the_last_endpoints_stay_while_the_control_plane_is_away() {
    let mut mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    rig.streams(WEB_NAME, 1).await;
    mock.kill();
    rig.streams(WEB_NAME, 0).await;
    rig.app.logged(&["a stream of the control plane has ended"]).await;
    assert_eq!(rig.ask(WEB).await, answered(200, "a"));
    let page = admin(rig.app.admin, "GET", "/metrics", "").await.1;
    let age = format!("control_destination_update_age_seconds{{direction=\"outbound\",destination=\"{WEB_NAME}\"}} ");
    assert!(page.lines().any(|line| line.starts_with(&age)), "{page}");

    let mock = Mock::start_on(mock.addr).await;
    let asked = mock.asked().await;
    assert_eq!(asked.path(), WEB_NAME);
    // It has added nothing yet that could be removed.
    asked.remove(&[a]);
    rig.updated(2).await;
    assert_eq!(rig.ask(WEB).await, answered(200, "a"));
    // The first endpoints of the new stream are all that there are.
    asked.add([weighted(b)]);
    rig.only(WEB, "b").await;
    rig.streams(WEB_NAME, 1).await;
}

#[tokio::test]
async fn without_a_control_plane_requests_are_told_so() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rig = Rig::start(closed, &[("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "300ms")]).await;
    let (status, by) = rig.ask(WEB).await;
    assert!(status == 503 && by.contains("the control plane cannot be asked"), "{status} {by}");
    // It may come later.
    let a = endpoint("a").await;
    let mock = Mock::start_on(closed).await;
    mock.asked().await.add([weighted(a)]);
}

#[tokio::test]
async fn streams_go_on_after_goaway_and_new_ones_are_opened_elsewhere() {
    let mut old = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(old.addr, &[]).await;
    let (sent, on_old) = first(&rig, &old, WEB).await;
    on_old.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    old.go_away();
    let new = Mock::start_on(old.addr).await;
    on_old.add([weighted(b)]);
    on_old.remove(&[a]);
    rig.only(WEB, "b").await;
    let (sent, asked) = first(&rig, &new, "http://other.example/").await;
    assert_ne!(asked.from, on_old.from);
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    drop(on_old);
    let asked = new.asked().await;
    assert_eq!(asked.path(), WEB_NAME);
    assert_eq!(rig.ask(WEB).await, answered(200, "b"));
}

#[tokio::test]
async fn a_question_without_an_answer_is_asked_again_on_another_connection() {
    let mock = Arc::new(Mock::start().await);
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(INITIAL_TIMEOUT, "500ms")]).await;
    let (sent, silent) = first(&rig, &mock, WEB).await;
    let next = mock.asked().await;
    assert_ne!(next.from, silent.from);
    silent.ended().await;
    let answering = Arc::clone(&mock);
    tokio::spawn(async move {
        let mut asked = next;
        loop {
            // One that is asked again by now needs no answer.
            let _ = asked.try_add(weighted(a));
            asked.ended().await;
            asked = answering.asked().await;
        }
    });
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}

#[tokio::test]
async fn a_connection_that_is_silent_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let a = endpoint("a").await;
    let rig = Rig::start(addr, &[(INITIAL_TIMEOUT, "500ms")]).await;
    let sent = rig.send(WEB);
    let (_first, _) = listener.accept().await.unwrap();
    let (_second, _) = listener.accept().await.unwrap();
    drop(listener);
    let mock = Mock::start_on(addr).await;
    let asked = mock.asked().await;
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}

#[tokio::test]
async fn a_stream_without_news_is_opened_anew() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(IDLE_TIMEOUT, "200ms")]).await;
    let (sent, mut asked) = first(&rig, &mock, WEB).await;
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    let from = asked.from;
    for _ in 0..3 {
        asked = mock.asked().await;
        assert_eq!(asked.from, from, "the connection works");
        assert_eq!(rig.ask(WEB).await, answered(200, "a"));
        let _ = asked.try_add(weighted(a));
    }
    assert!(!rig.app.log().iter().any(|line| line.contains("a stream of the control plane has ended")));
}

#[tokio::test]
async fn a_stream_ends_with_the_last_use_of_its_destination() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(IDLE, "100ms")]).await;
    for _ in 0..2 {
        let (sent, asked) = first(&rig, &mock, WEB).await;
        asked.add([weighted(a)]);
        assert_eq!(sent.await.unwrap(), answered(200, "a"));
        asked.ended().await;
        rig.app.counted("http_destinations{direction=\"outbound\"} 0").await;
    }
    let page = admin(rig.app.admin, "GET", "/metrics", "").await.1;
    let of_control = page.lines().find(|line| line.starts_with("control_") && line.contains(WEB_NAME));
    assert_eq!(of_control, None);
}

#[tokio::test]
async fn one_that_closes_each_connection_is_not_flooded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            drop(stream);
        }
    });
    let started = Instant::now();
    let rig = Rig::start(addr, &[("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1s")]).await;
    let asked: Vec<_> = (0..50).map(|index| rig.send(&format!("http://web{index}.example:8080/"))).collect();
    for sent in asked {
        let (status, by) = sent.await.unwrap();
        assert!(status == 503 && by.contains("the control plane cannot be asked: "), "{status} {by}");
    }
    let most = started.elapsed().as_millis() / 100 + 1;
    let connections = connections.load(Relaxed);
    assert!(connections > 0 && u128::from(connections) <= most, "{connections} connections, not {most}");
}
