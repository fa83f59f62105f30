//! Clients of both versions, which check what they get, and often do not wait for all of it.

use crate::{
    http1::{Length, Wire, field, length},
    kind::{Kind, TIMES, TOKEN, Token},
    tally::{Cell, Seen, Tally},
    transport::{self, Tls},
};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{Method, Request};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// A request that is to be made.
struct Ask {
    token: Token,
    method: Method,
    /// Of the token in the response.
    times: usize,
    /// Pieces of the request's body, with a pause between them if there is one.
    pieces: usize,
    pause: bool,
    /// After which the client gives up. `None`: it waits.
    cancel: Option<Duration>,
}

/// Streams of a connection of HTTP/2 at once.
const STREAMS: usize = 6;
const PIECE: usize = 1_000;
/// For what takes no end.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a connection that could not be used.
const PAUSE: Duration = Duration::from_millis(5);

// === impl Ask ===

impl Ask {
    fn random() -> Self {
        let token = Token::new(Kind::random());
        let method = [Method::GET, Method::GET, Method::POST, Method::PUT, Method::HEAD][fastrand::usize(..5)].clone();
        let uploads = matches!(method, Method::POST | Method::PUT);
        let times = match fastrand::u8(..20) {
            0 => fastrand::usize(1_000..8_000),
            1..=4 => fastrand::usize(50..500),
            _ => fastrand::usize(1..20),
        };
        let pieces = if uploads { fastrand::usize(..4) } else { 0 };
        let cancel = (fastrand::u8(..20) == 0).then(|| Duration::from_micros(fastrand::u64(..5_000)));
        Self { token, method, times, pieces, pause: fastrand::u8(..8) == 0, cancel }
    }
}

// ---- HTTP/1.1 ----

/// One request after the other, until the time is up.
pub(crate) async fn http1(addr: SocketAddr, tls: Option<Arc<Tls>>, tally: Arc<Tally>, cell: Cell, until: Instant) {
    while Instant::now() < until {
        let Ok(Ok(io)) = timeout(PATIENCE, transport::connect(addr, tls.as_deref(), false)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut wire = Wire::new(io);
        for _ in 0..fastrand::usize(1..40) {
            // Several at once are answered in their order.
            let asks: Vec<_> = (0..if fastrand::u8(..10) == 0 { 3 } else { 1 }).map(|_| Ask::random()).collect();
            let patience = asks.iter().filter_map(|ask| ask.cancel).min().unwrap_or(PATIENCE);
            let goes_on = timeout(patience, exchange(&mut wire, &asks, &tally, cell)).await;
            if !matches!(goes_on, Ok(Ok(true))) || Instant::now() >= until {
                break;
            }
        }
    }
}

/// Whether the connection goes on.
async fn exchange(wire: &mut Wire, asks: &[Ask], tally: &Tally, cell: Cell) -> io::Result<bool> {
    for Ask { token, method, times, pieces, pause, .. } in asks {
        let framing = match pieces {
            0 => String::new(),
            _ if *pause => "transfer-encoding: chunked\r\n".to_owned(),
            _ => format!("content-length: {}\r\n", pieces * PIECE),
        };
        let head =
            format!("{method} / HTTP/1.1\r\nhost: test\r\n{TOKEN}: {token}\r\n{TIMES}: {times}\r\n{framing}\r\n");
        wire.write(head.as_bytes()).await?;
        for _ in 0..*pieces {
            if *pause {
                wire.write(format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE)).as_bytes()).await?;
                sleep(Duration::from_millis(1)).await;
            } else {
                wire.write(&[b'x'; PIECE]).await?;
            }
        }
        if *pieces > 0 && *pause {
            wire.write(b"0\r\n\r\n").await?;
        }
    }
    for (index, Ask { token, method, .. }) in asks.iter().enumerate() {
        let Some(head) = wire.head().await? else {
            tally.other();
            return Ok(false);
        };
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let named = field(&head, TOKEN).map(|token| token.as_bytes().to_vec());
        let mut seen = Seen { status, token: named, ..Seen::default() };
        let none = *method == Method::HEAD || matches!(status, 204 | 304);
        let length = if none { Length::Bytes(0) } else { length(&head, Length::Close) };
        let ended = wire.body(length, &mut seen.body).await;
        if index + 1 == asks.len() && ended.is_ok() {
            seen.behind.append(&mut wire.read);
        }
        tally.check(cell, *token, &seen);
        ended?;
        if length == Length::Close || field(&head, "connection").is_some_and(|value| value.contains("close")) {
            return Ok(false);
        }
    }
    Ok(true)
}

// ---- HTTP/2 ----

/// Some requests at once on one connection, until the time is up.
pub(crate) async fn http2(addr: SocketAddr, tls: Option<Arc<Tls>>, tally: Arc<Tally>, cell: Cell, until: Instant) {
    while Instant::now() < until {
        let made = timeout(PATIENCE, async {
            let io = transport::connect(addr, tls.as_deref(), true).await?;
            h2::client::handshake(io).await.map_err(io::Error::other)
        });
        let Ok(Ok((client, connection))) = made.await else {
            sleep(PAUSE).await;
            continue;
        };
        let driven = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let (client, tally) = (client.clone(), Arc::clone(&tally));
            streams.spawn(async move {
                while Instant::now() < until
                    && !matches!(stream(client.clone(), &tally, cell).await, Err(error) if !error.is_reset())
                {
                }
            });
        }
        drop(client);
        while streams.join_next().await.is_some() {}
        driven.abort();
    }
}

async fn stream(client: SendRequest<Bytes>, tally: &Tally, cell: Cell) -> Result<(), h2::Error> {
    let ask = Ask::random();
    let mut client = client.ready().await?;
    let req = Request::builder()
        .method(ask.method.clone())
        .uri("http://test/")
        .header(TOKEN, ask.token.to_string())
        .header(TIMES, ask.times);
    let req = req.body(()).expect("it has no bad field");
    let (response, mut upload) = client.send_request(req, ask.pieces == 0)?;
    let mut seen = Seen::default();
    let patience = ask.cancel.unwrap_or(PATIENCE);
    let received = timeout(patience, async {
        for piece in 1..=ask.pieces {
            // It has been reset, perhaps because there is a response.
            if upload.send_data(Bytes::from_static(&[b'x'; PIECE]), piece == ask.pieces).is_err() {
                break;
            }
            if ask.pause {
                sleep(Duration::from_millis(1)).await;
            }
        }
        let (head, mut body) = response.await?.into_parts();
        seen.status = head.status.as_u16();
        seen.token = head.headers.get(TOKEN).map(|token| token.as_bytes().to_vec());
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            seen.body.extend(data);
        }
        Ok(())
    })
    .await;
    if seen.status == 0 {
        tally.other();
    } else {
        tally.check(cell, ask.token, &seen);
    }
    upload.send_reset(Reason::CANCEL);
    received.unwrap_or(Ok(()))
}
