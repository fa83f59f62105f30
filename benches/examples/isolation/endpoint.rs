//! Endpoints of both versions, which do what requests ask them for.

use crate::{
    http1::{Length, Wire, field, length},
    kind::{Kind, TIMES, TOKEN, Token},
    transport::{self, Tls},
};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// A request of HTTP/1.1.
struct Asked {
    token: Token,
    times: usize,
    is_head: bool,
    length: Length,
}

/// What comes of a connection after a response.
enum Then {
    Next,
    /// These bytes come as soon as the next request does, and then no more.
    Owed(Vec<u8>),
    Close,
}

const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves connections for ever.
pub(crate) async fn serve(listener: TcpListener, tls: Option<Arc<Tls>>) {
    let mut connections = JoinSet::new();
    while let Ok((io, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let tls = tls.clone();
        connections.spawn(async move {
            // How it ends is no news: many end before their time.
            let _ = connection(io, tls.as_deref()).await;
        });
    }
}

async fn connection(io: TcpStream, tls: Option<&Tls>) -> io::Result<()> {
    if fastrand::u8(..4) == 0 {
        // Whatever ends it looks like a crash.
        io.set_zero_linger()?;
    }
    let (io, is_http2) = transport::accept(io, tls).await?;
    if is_http2 { http2(io).await.map_err(io::Error::other) } else { http1(Wire::new(io)).await }
}

// ---- HTTP/1.1 ----

async fn http1(mut wire: Wire) -> io::Result<()> {
    // Some do not wait for long.
    let patience = if fastrand::u8(..8) == 0 { fastrand::u64(1..30) } else { 10_000 };
    let mut first = true;
    loop {
        // Before the first request, it would be the answer to that.
        let patience = Duration::from_millis(if first { 60_000 } else { patience });
        let Ok(head) = timeout(patience, wire.head()).await else {
            wire.write(TIMED_OUT).await?;
            wire.shut_down().await;
            return Ok(());
        };
        let Some(head) = head? else { return Ok(()) };
        first = false;
        let asked = Asked::parse(&head)?;
        match asked.answer(&mut wire).await? {
            Then::Next => {}
            Then::Owed(bytes) => {
                if wire.more().await? {
                    wire.write(&bytes).await?;
                    sleep(Duration::from_millis(100)).await;
                }
                return Ok(());
            }
            Then::Close => {
                wire.shut_down().await;
                return Ok(());
            }
        }
    }
}

impl Asked {
    fn parse(head: &str) -> io::Result<Self> {
        let token =
            field(head, TOKEN).and_then(|token| Token::parse(token.as_bytes())).ok_or(io::ErrorKind::InvalidData)?;
        let times = field(head, TIMES).and_then(|times| times.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { token, times, is_head: head.starts_with("HEAD "), length: length(head, Length::Bytes(0)) })
    }

    /// A head of these fields, and the body behind it.
    fn response(&self, fields: &str) -> Vec<u8> {
        let mut rsp = format!("HTTP/1.1 200 OK\r\n{TOKEN}: {}\r\n{fields}\r\n", self.token).into_bytes();
        if !self.is_head {
            rsp.extend(self.token.body(self.times));
        }
        rsp
    }

    fn content_length(&self) -> String {
        format!("content-length: {}\r\n", self.token.body(self.times).len())
    }

    fn plain(&self) -> Vec<u8> {
        self.response(&self.content_length())
    }

    /// In chunks, which have any length. `end`: what follows the last one.
    fn chunked(&self, end: &str) -> Vec<u8> {
        let fields = "transfer-encoding: chunked\r\ntrailer: x-end\r\n";
        let mut rsp = Self { times: 0, ..*self }.response(fields);
        if !self.is_head {
            for chunk in self.token.body(self.times).chunks(fastrand::usize(1..5_000)) {
                rsp.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                rsp.extend(chunk);
                rsp.extend(b"\r\n");
            }
            rsp.extend(end.as_bytes());
        }
        rsp
    }

    async fn answer(&self, wire: &mut Wire) -> io::Result<Then> {
        let kind = self.token.kind().ok_or(io::ErrorKind::InvalidData)?;
        let early = matches!(kind, Kind::Early | Kind::EarlyClose);
        if !early {
            wire.body(self.length, &mut Vec::new()).await?;
        }
        let (plain, length) = (self.plain(), self.content_length());
        let half = plain.len() / 2;
        // What others would get, if they got it.
        let more = Self { is_head: false, ..*self }.plain();
        let instead = |from: &str, to: &str| String::from_utf8_lossy(&plain).replacen(from, to, 1).into_bytes();
        match kind {
            Kind::Plain => wire.write(&plain).await?,
            Kind::Chunked => wire.write(&self.chunked("0\r\n\r\n")).await?,
            Kind::Trailers => wire.write(&self.chunked("0\r\nx-end: 1\r\n\r\n")).await?,
            Kind::Interim => {
                wire.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await?;
                if fastrand::bool() {
                    sleep(Duration::from_millis(1)).await;
                }
                wire.write(&plain).await?;
            }
            Kind::Late => {
                sleep(Duration::from_millis(fastrand::u64(1..20))).await;
                wire.write(&plain).await?;
            }
            Kind::Slow => {
                for piece in plain.chunks(plain.len() / 5 + 1) {
                    wire.write(piece).await?;
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Kind::Early => {
                wire.write(&plain).await?;
                wire.body(self.length, &mut Vec::new()).await?;
            }
            Kind::EarlyClose | Kind::Leave => {
                wire.write(&plain).await?;
                return Ok(Then::Close);
            }
            Kind::Close => {
                wire.write(&self.response(&format!("Connection: Close\r\n{length}"))).await?;
                return Ok(Then::Close);
            }
            Kind::UntilClose => {
                wire.write(&self.response("")).await?;
                return Ok(Then::Close);
            }
            Kind::Silent => {
                sleep(Duration::from_secs(1)).await;
                return Ok(Then::Close);
            }
            Kind::Reset => return Ok(Then::Close),
            Kind::Cut => {
                wire.write(&plain[..half]).await?;
                return Ok(Then::Close);
            }
            Kind::InterimOnly => {
                wire.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await?;
                return Ok(Then::Close);
            }
            // In one write, so that it comes before another request can.
            Kind::Twice => wire.write(&[plain, more].concat()).await?,
            Kind::Behind => wire.write(&[&plain, &more[..fastrand::usize(1..30)]].concat()).await?,
            Kind::BothLengths => {
                let both = format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", more.len() + 5);
                let head = Self { times: 0, ..*self }.response(&both);
                wire.write(&[&head, &b"0\r\n\r\n"[..]].concat()).await?;
                return Ok(Then::Owed(more));
            }
            Kind::TwoCodings | Kind::ListOfCodings => {
                let codings = match kind {
                    Kind::TwoCodings => "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
                    _ => "transfer-encoding: gzip, chunked\r\n",
                };
                let head = Self { times: 0, ..*self }.response(codings);
                wire.write(&[&head, &b"0\r\n\r\n"[..]].concat()).await?;
                return Ok(Then::Owed(more));
            }
            Kind::ListOfLengths => {
                wire.write(&Self { times: 0, ..*self }.response("content-length: 0, 0\r\n")).await?;
                return Ok(Then::Owed(more));
            }
            Kind::LengthTwice => {
                wire.write(&self.response(&format!("{length}{length}"))).await?;
                return Ok(Then::Owed(more));
            }
            Kind::LineFeeds => {
                wire.write(&instead("OK\r\n", "OK\n")).await?;
                return Ok(Then::Owed(more));
            }
            Kind::EmptyLine => {
                wire.write(&[b"\r\n", &plain[..]].concat()).await?;
                return Ok(Then::Owed(more));
            }
            Kind::NoContentWithLength => {
                let fields = format!("content-length: {}\r\n", more.len());
                let head = Self { times: 0, ..*self }.response(&fields);
                wire.write(&String::from_utf8_lossy(&head).replacen("200 OK", "204 No Content", 1).into_bytes())
                    .await?;
                return Ok(Then::Owed(more));
            }
            Kind::InterimWithLength => {
                let interim = format!("HTTP/1.1 103 Early Hints\r\ncontent-length: {}\r\n\r\n", more.len());
                wire.write(&[interim.as_bytes(), &plain].concat()).await?;
                return Ok(Then::Owed(more));
            }
            Kind::OldVersion => {
                wire.write(&instead("HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n")).await?;
                return Ok(Then::Owed(more));
            }
            Kind::BadChunk => {
                wire.write(&self.chunked("-1\r\n\r\n")).await?;
                // Without chunks, nothing is wrong with it.
                return Ok(if self.is_head { Then::Next } else { Then::Owed(more) });
            }
        }
        Ok(Then::Next)
    }
}

// ---- HTTP/2 ----

async fn http2(io: transport::Io) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(io).await?;
    // Some go away, and some just go.
    let last = fastrand::usize(20..2_000);
    let rude = fastrand::bool();
    let mut streams = JoinSet::new();
    let mut count = 0;
    while let Some(accepted) = connection.accept().await {
        while streams.try_join_next().is_some() {}
        let (req, respond) = accepted?;
        streams.spawn(async move {
            let _ = stream(req, respond).await;
        });
        count += 1;
        if count == last {
            if rude {
                connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
            } else {
                connection.graceful_shutdown();
            }
        }
    }
    Ok(())
}

async fn stream(req: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let named = |name| req.headers().get(name);
    let token = named(TOKEN).and_then(|token| Token::parse(token.as_bytes()));
    let times = named(TIMES).and_then(|times| times.to_str().ok()?.parse().ok());
    let (Some(token), Some(times)) = (token, times) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return Ok(());
    };
    let kind = token.kind().unwrap_or(Kind::Plain);
    let is_head = req.method() == http::Method::HEAD;
    let mut upload = req.into_body();
    let read_all = async |upload: &mut RecvStream| -> Result<(), h2::Error> {
        while let Some(data) = upload.data().await {
            let data = data?;
            upload.flow_control().release_capacity(data.len())?;
        }
        upload.trailers().await.map(drop)
    };
    match kind {
        Kind::Early | Kind::EarlyClose => {}
        Kind::Reset => {
            respond.send_reset([Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::CANCEL][fastrand::usize(..3)]);
            return Ok(());
        }
        _ => read_all(&mut upload).await?,
    }
    match kind {
        Kind::Late => sleep(Duration::from_millis(fastrand::u64(1..20))).await,
        Kind::Silent => {
            sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        _ => {}
    }
    let mut rsp = Response::builder().header(TOKEN, token.to_string());
    let body = if is_head { Vec::new() } else { token.body(times) };
    if kind == Kind::Plain && !is_head {
        rsp = rsp.header("content-length", body.len());
    }
    let mut send = respond.send_response(rsp.body(()).expect("it has no bad field"), body.is_empty())?;
    if body.is_empty() {
        return Ok(());
    }
    if kind == Kind::Cut {
        send.send_data(Bytes::copy_from_slice(&body[..body.len() / 2]), false)?;
        send.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let trailers = kind == Kind::Trailers;
    let piece = if kind == Kind::Slow { body.len() / 5 + 1 } else { body.len() };
    let pieces = body.chunks(piece).count();
    for (index, piece) in body.chunks(piece).enumerate() {
        send.send_data(Bytes::copy_from_slice(piece), index + 1 == pieces && !trailers)?;
        if kind == Kind::Slow {
            sleep(Duration::from_millis(1)).await;
        }
    }
    if trailers {
        send.send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-end"),
            HeaderValue::from_static("1"),
        )]))?;
    }
    if kind == Kind::Early {
        read_all(&mut upload).await?;
    }
    Ok(())
}
