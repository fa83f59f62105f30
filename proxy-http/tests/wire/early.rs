//! Responses that are whole before their requests are (RFC 9113 section 8.1), and the DATA of such requests that comes late.

use crate::{
    frames::{
        DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, POST, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    },
    support::{PROXY, Rig, collect, get, post},
};
use h2::Reason;
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{proxy, stats::Peer as Side};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{sleep, timeout};

const ACK: u8 = 1;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A client with so many streams at once has them all open for so many more.
pub(crate) const STREAMS: usize = 200;
pub(crate) const PIECE: usize = 8 << 10;

/// Whose requests are all answered by the proxy itself, with 431, at once.
async fn refused(params: &ServerParams) -> (Peer, Rig) {
    let proxy = proxy::Params { max_headers_count: 0, ..PROXY };
    let mut rig = Rig::new(params, &ClientParams::DEFAULT, proxy);
    let (mut peer, _) = Peer::greet(rig.client_io.take().unwrap()).await;
    // From now on windows have the announced sizes.
    peer.send(SETTINGS, ACK, 0, &[]).await;
    (peer, rig)
}

pub(crate) fn ids() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

impl Peer {
    /// Opens an upload, and waits for the whole response; other frames are kept.
    async fn refused(&mut self, id: u32, seen: &mut Seen) {
        let head = [POST, &[0, 1, b'a', 1, b'b']].concat();
        self.send(HEADERS, END_HEADERS, id, &head).await;
        while !seen.answered.contains(&id) {
            seen.frame(timeout(PATIENCE, self.frame()).await.expect("it is answered").expect("it is open"));
        }
    }

    /// When all that was sent before has had its effect.
    pub(crate) async fn settled(&mut self, seen: &mut Seen) {
        // The first PING may be answered before that.
        for ping in [1, 2] {
            self.send(PING, 0, 0, &[ping; 8]).await;
            loop {
                let frame = timeout(PATIENCE, self.frame()).await.expect("it is served").expect("it is open");
                if frame.kind == PING && frame.payload == [ping; 8] {
                    break;
                }
                seen.frame(frame);
            }
        }
    }
}

/// The frames that a client has got.
#[derive(Default)]
pub(crate) struct Seen {
    answered: BTreeSet<u32>,
    pub(crate) reset: BTreeMap<u32, Reason>,
    /// Window that streams were given.
    windows: Vec<usize>,
}

impl Seen {
    #[track_caller]
    pub(crate) fn frame(&mut self, Frame { kind, flags, stream, payload }: Frame) {
        match kind {
            HEADERS => assert!(self.answered.insert(stream) && flags & END_STREAM != 0),
            RST_STREAM => {
                let code = u32::from_be_bytes(payload.try_into().unwrap());
                assert_eq!(self.reset.insert(stream, code.into()), None, "{stream} is reset once");
            }
            WINDOW_UPDATE if stream > 0 => {
                self.windows.push(u32::from_be_bytes(payload.try_into().unwrap()) as usize);
            }
            GOAWAY => panic!("the connection ends: {payload:?}"),
            _ => {}
        }
    }
}

/// The code is NO_ERROR.
#[track_caller]
fn check_reset(seen: &Seen, ids: impl IntoIterator<Item = u32>) {
    let expected: Vec<_> = ids.into_iter().map(|id| (id, Reason::NO_ERROR)).collect();
    assert_eq!(seen.reset.iter().map(|(id, code)| (*id, *code)).collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_refused_uploads_do_not_end_the_connection() {
    let (mut peer, _rig) = refused(&ServerParams::DEFAULT).await;
    let mut seen = Seen::default();
    for (index, id) in ids().take(5_000).enumerate() {
        peer.refused(id, &mut seen).await;
        // Each is sent to its end, but late: so many others are answered in between.
        if let Some(late) = (index + 1).checked_sub(STREAMS - 1) {
            let late = 2 * late as u32 + 1;
            peer.send(DATA, 0, late, &[0; PIECE]).await;
            peer.send(DATA, END_STREAM, late, &[0; PIECE]).await;
        }
    }
    peer.settled(&mut seen).await;
    check_reset(&seen, []);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_upload() {
    let params = ServerParams { max_concurrent_streams: Some(1), ..ServerParams::DEFAULT };
    for trailers in [false, true] {
        let (mut peer, _rig) = refused(&params).await;
        let mut seen = Seen::default();
        for id in ids().take(3) {
            peer.refused(id, &mut seen).await;
            peer.send(DATA, 0, id, &[0; PIECE]).await;
            if trailers {
                peer.send(HEADERS, END_HEADERS | END_STREAM, id, &[0, 1, b'a', 1, b'b']).await;
            } else {
                peer.send(DATA, END_STREAM, id, &[]).await;
            }
        }
        sleep(2 * SECOND).await;
        peer.settled(&mut seen).await;
        check_reset(&seen, []);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_goes_on_for_a_second_is_reset() {
    let (mut peer, _rig) = refused(&ServerParams::DEFAULT).await;
    let mut seen = Seen::default();
    // Each has its second.
    for id in [1, 3] {
        peer.refused(id, &mut seen).await;
        sleep(SECOND / 2).await;
        peer.send(DATA, 0, 1, b"more").await;
    }
    sleep(Duration::from_millis(2)).await;
    peer.settled(&mut seen).await;
    check_reset(&seen, [1]);
    sleep(SECOND / 2).await;
    peer.settled(&mut seen).await;
    check_reset(&seen, [1, 3]);
    // Later frames are ignored.
    for id in [1, 3] {
        peer.send(DATA, 0, id, b"late").await;
        peer.send(HEADERS, END_HEADERS | END_STREAM, id, &[0, 1, b'a', 1, b'b']).await;
    }
    peer.settled(&mut seen).await;
    check_reset(&seen, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_uses_up_its_window_is_reset() {
    const WINDOW: u32 = 20_000;
    // That of the connection is used up by each few of them.
    let windows = FlowControl::Fixed { initial_stream_window_size: WINDOW, initial_connection_window_size: 65_535 };
    let params = ServerParams { flow_control: Some(windows), ..ServerParams::DEFAULT };
    let (mut peer, _rig) = refused(&params).await;
    let mut seen = Seen::default();
    for (index, id) in ids().take(100).enumerate() {
        peer.refused(id, &mut seen).await;
        for _ in 0..3 {
            peer.send(DATA, 0, id, &[0; WINDOW as usize / 4]).await;
        }
        peer.settled(&mut seen).await;
        assert_eq!(seen.reset.len(), index, "the rest of the window may be all that is to come");
        peer.send(DATA, 0, id, &[0; WINDOW as usize / 4]).await;
        peer.settled(&mut seen).await;
        check_reset(&seen, ids().take(index + 1));
    }
    assert_eq!(seen.windows, [], "none is given back");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_given_back_in_part_is_used_up_too() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    let mut seen = Seen::default();
    // HTTP/2's own, since this client ignores the server's SETTINGS.
    let mut window = 65_535;
    peer.send(HEADERS, END_HEADERS, 1, POST).await;
    peer.send(DATA, 0, 1, &[0; 16_000]).await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap().len(), 16_000);
    asked.respond.send_response(http::Response::new(()), true).unwrap();
    drop(asked);
    window -= 16_000;
    while seen.reset.is_empty() {
        window += seen.windows.drain(..).sum::<usize>();
        let piece = window.min(1_000);
        assert!(piece > 0, "it has no window, and is not reset");
        peer.send(DATA, 0, 1, &vec![0; piece]).await;
        window -= piece;
        peer.settled(&mut seen).await;
    }
    check_reset(&seen, [1]);
    assert_eq!((window, &seen.windows[..]), (0, &[][..]));
}

#[tokio::test(start_paused = true)]
async fn uploads_that_are_read_no_more_hold_up_no_others() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    let mut seen = Seen::default();
    // Nearly all of their windows: three times that of the connection.
    for id in ids().take(50) {
        peer.send(HEADERS, END_HEADERS, id, POST).await;
        endpoint.asked().await.respond.send_response(http::Response::new(()), true).unwrap();
        for _ in 0..4 {
            peer.send(DATA, 0, id, &[0; 16_000]).await;
        }
        peer.settled(&mut seen).await;
    }
    check_reset(&seen, []);
    peer.send(HEADERS, END_HEADERS, 101, POST).await;
    peer.send(DATA, END_STREAM, 101, &[0; 16_000]).await;
    let mut asked = endpoint.asked().await;
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0.len(), 16_000);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_never_end_are_no_more_than_the_streams_that_are_allowed() {
    let (mut peer, rig) = refused(&ServerParams::DEFAULT).await;
    let mut seen = Seen::default();
    let mut opened = ids();
    for round in 1..=30 {
        for id in opened.by_ref().take(STREAMS) {
            peer.refused(id, &mut seen).await;
        }
        assert_eq!(seen.reset.len(), (round - 1) * (STREAMS + 1), "they are open");
        // One more is refused.
        peer.send(HEADERS, END_HEADERS, opened.next().unwrap(), POST).await;
        peer.settled(&mut seen).await;
        let refused = seen.reset.values().filter(|code| **code == Reason::REFUSED_STREAM).count();
        assert_eq!(refused, round);
        sleep(SECOND + Duration::from_millis(2)).await;
        peer.settled(&mut seen).await;
        assert_eq!(seen.reset.len(), round * (STREAMS + 1), "they are reset");
    }
    assert_eq!(rig.stats.transport(Side::Client).resets().map(|(_, count)| count).sum::<u64>(), 0);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_an_endpoint_refuses_are_read_to_their_end() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let mut uploads = Vec::new();
    for _ in 0..2_000 {
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        upload.send_data("part".into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        let response_head = http::Response::builder().status(404).body(()).unwrap();
        asked.respond.send_response(response_head, true).unwrap();
        // Of the rest it wants to hear no more.
        drop(asked);
        assert_eq!(response.await.unwrap().status(), 404);
        uploads.push(upload);
        if uploads.len() == STREAMS / 2 {
            for mut upload in uploads.drain(..) {
                upload.send_data("rest".into(), true).expect("it is not reset");
            }
        }
    }
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data("alive".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"alive");
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
}
