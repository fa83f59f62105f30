//! Who resets a stream with which code, and what the other side sees.

use crate::support::{Others, Rig, codes, collect, get, post, reset};
use h2::Reason;

/// What a client sees of an endpoint's code.
fn from_endpoint(code: Reason) -> Reason {
    match code {
        Reason::NO_ERROR | Reason::PROTOCOL_ERROR | Reason::HTTP_1_1_REQUIRED => Reason::INTERNAL_ERROR,
        code => code,
    }
}

#[tokio::test]
async fn endpoint_resets_before_headers() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        // One that is refused is sent again, but not for ever.
        let times = if code == Reason::REFUSED_STREAM { 6 } else { 1 };
        for _ in 0..times {
            endpoint.asked().await.respond.send_reset(code);
        }
        assert_eq!(reset(response.await), from_endpoint(code), "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn endpoint_resets_mid_body() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let mut body = asked.answer();
        body.send_data("part".into(), false).unwrap();
        let mut rsp = response.await.unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "part");
        body.send_reset(code);
        assert_eq!(reset(collect(rsp.body_mut()).await), from_endpoint(code), "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_while_it_waits() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (_response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        stream.send_reset(code);
        let seen = std::future::poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
        assert_eq!(seen, Reason::CANCEL, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_mid_upload() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (_response, mut stream) = client.send_request(post(), false).unwrap();
        stream.send_data("part".into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "part");
        stream.send_reset(code);
        let expected = if code == Reason::NO_ERROR { Reason::CANCEL } else { code };
        assert_eq!(reset(collect(asked.request.body_mut()).await), expected, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_mid_response() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let mut body = asked.answer();
        body.send_data("part".into(), false).unwrap();
        let mut rsp = response.await.unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "part");
        stream.send_reset(code);
        let seen = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(seen, Reason::CANCEL, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_that_is_lost_cancels_its_streams() {
    let mut rig = Rig::defaults();
    let (mut client, connection) = h2::client::handshake(rig.client_io.take().unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut endpoint = rig.endpoint().await;
    let (_waiting, _) = client.send_request(get(), true).unwrap();
    let (_uploading, mut stream) = client.send_request(post(), false).unwrap();
    stream.send_data(bytes::Bytes::from("part"), false).unwrap();
    let mut waiting = endpoint.asked().await;
    let mut uploading = endpoint.asked().await;
    assert_eq!(uploading.request.body_mut().data().await.unwrap().unwrap(), "part");
    connection.abort();
    let seen = std::future::poll_fn(|cx| waiting.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(seen, Reason::CANCEL);
    assert_eq!(reset(collect(uploading.request.body_mut()).await), Reason::CANCEL);
}
