//! Frames that are written together: none is left behind, however few bytes the transport takes at once. Requests that are read
//! together.

use crate::{
    frames::{DATA, GET, HEADERS, Peer, SETTINGS, WINDOW_UPDATE},
    support::{Endpoint, Rig, client, collect, get},
};
use bytes::Bytes;
use h2::client;
use http_h2::{ClientParams, ServerParams};
use std::{
    future::pending,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    join,
    time::timeout,
};

/// Bytes that have not come by then never come.
const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// A pipe that counts writes, and polls for bytes to read.
struct Counted(DuplexStream, Arc<Calls>);

#[derive(Default)]
struct Calls {
    reads: AtomicUsize,
    writes: AtomicUsize,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.1.reads.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn body(len: usize) -> Bytes {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// A response in pieces of `piece` bytes, which is not ended until the client has all of it: the end would be flushed.
async fn download(client: &mut client::SendRequest<Bytes>, endpoint: &mut Endpoint, sent: &Bytes, piece: usize) {
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut stream = timeout(SECOND, endpoint.asked()).await.expect("is flushed").answer();
    let mut rest = sent.clone();
    while !rest.is_empty() {
        stream.send_data(rest.split_to(piece.min(rest.len())), false).unwrap();
    }
    let mut response = timeout(SECOND, response).await.expect("is flushed").unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let data = timeout(SECOND, response.body_mut().data()).await.expect("is flushed").unwrap().unwrap();
        response.body_mut().flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    assert!(received == *sent, "{} bytes", sent.len());
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(timeout(SECOND, collect(response.body_mut())).await.expect("is flushed").unwrap().0, b"");
}

#[tokio::test(start_paused = true)]
async fn bodies_are_whole_on_transports_that_take_any_number_of_bytes() {
    for pipe in [1, 8, 9, 10, 255, 300, 16_384, 16_393, 100_000, MIB] {
        let mut rig = Rig::defaults();
        let (io, _) = rig.connect(pipe);
        let (mut client, mut endpoint) = join!(client(io), rig.endpoint());
        let largest = if pipe < 300 { 40_000 } else { 300_000 };
        for len in [1, 255, 256, 257, 2_047, 2_048, 2_304, 16_383, 16_384, 16_385, 40_000, 131_072, 300_000] {
            if len <= largest {
                download(&mut client, &mut endpoint, &body(len), usize::MAX).await;
                download(&mut client, &mut endpoint, &body(len), (len / 7).max(1)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mebibyte_takes_few_writes() {
    let mut rig = Rig::defaults();
    let (near, far) = tokio::io::duplex(4 * MIB);
    let calls = Arc::<Calls>::default();
    let (server, proxy, counted) = (rig.server.clone(), rig.proxy.clone(), Counted(far, Arc::clone(&calls)));
    tokio::spawn(async move { server.serve(counted, proxy, pending()).await });
    let mut builder = client::Builder::new();
    builder.initial_window_size(4 << 20).initial_connection_window_size(1 << 24);
    let ((mut client, connection), mut endpoint) =
        join!(async { builder.handshake(near).await.unwrap() }, rig.endpoint());
    tokio::spawn(connection);
    download(&mut client, &mut endpoint, &body(MIB), usize::MAX).await;
    let before = calls.writes.load(Relaxed);
    download(&mut client, &mut endpoint, &body(4 * MIB), usize::MAX).await;
    let writes = calls.writes.load(Relaxed) - before;
    // 64 frames in each; a turn of the endpoint's connection brings 128 KiB.
    assert!(writes <= 4 * 24, "{writes}");
}

/// h2 reads before each request that it hands out.
#[tokio::test(start_paused = true)]
async fn requests_that_come_together_take_few_reads() {
    const REQUESTS: usize = 64;
    let mut rig = Rig::defaults();
    let (near, far) = tokio::io::duplex(MIB);
    let calls = Arc::<Calls>::default();
    let (server, proxy, counted) = (rig.server.clone(), rig.proxy.clone(), Counted(far, Arc::clone(&calls)));
    tokio::spawn(async move { server.serve(counted, proxy, pending()).await });
    let (mut client, mut endpoint) = join!(client(near), rig.endpoint());
    for _ in 0..3 {
        let before = calls.reads.load(Relaxed);
        let responses: Vec<_> = (0..REQUESTS).map(|_| client.send_request(get(), true).unwrap().0).collect();
        for _ in 0..REQUESTS {
            endpoint.asked().await.answer().send_data(Bytes::new(), true).unwrap();
        }
        for response in responses {
            let _ = timeout(SECOND, response).await.expect("is read").unwrap();
        }
        let reads = calls.reads.load(Relaxed) - before;
        assert!(reads < REQUESTS / 2, "{reads}");
    }
}

/// A client's SETTINGS, and a GET.
async fn ask(peer: &mut Peer, max_frame: u32, window: u32) {
    let settings = [&[0, 4][..], &window.to_be_bytes(), &[0, 5], &max_frame.to_be_bytes()].concat();
    peer.send(SETTINGS, 0, 0, &settings).await;
    peer.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes()).await;
    peer.send(HEADERS, 5, 1, GET).await;
}

#[tokio::test(start_paused = true)]
async fn frames_are_as_large_as_the_client_takes() {
    let sent = body(300_000);
    for (max_frame, largest) in [(16_384, 16_384), (20_000, 20_000), (65_536, 65_536), ((1 << 24) - 1, 65_536)] {
        let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
        ask(&mut peer, max_frame, MIB as u32).await;
        let mut endpoint = rig.endpoint().await;
        endpoint.asked().await.answer().send_data(sent.clone(), true).unwrap();
        let (mut received, mut seen) = (Vec::new(), 0);
        while received.len() < sent.len() {
            let data = timeout(SECOND, peer.until(DATA)).await.expect("is flushed").expect("the connection goes on");
            seen = seen.max(data.len());
            received.extend(data);
        }
        assert!(received == sent, "{max_frame}");
        assert_eq!(seen, largest, "{max_frame}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_large_frames_may_grant_a_small_window() {
    const WINDOW: usize = 20_000;
    let sent = body(300_000);
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    ask(&mut peer, 65_536, WINDOW as u32).await;
    let mut endpoint = rig.endpoint().await;
    endpoint.asked().await.answer().send_data(sent.clone(), true).unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let before = received.len();
        let most = WINDOW.min(sent.len() - before);
        while received.len() < before + most {
            received.extend(timeout(SECOND, peer.until(DATA)).await.expect("all that has window").unwrap());
        }
        assert_eq!(received.len() - before, most);
        peer.send(WINDOW_UPDATE, 0, 1, &(WINDOW as u32).to_be_bytes()).await;
    }
    assert!(received == sent);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_a_batch_stalls() {
    const STALL: Duration = Duration::from_secs(7);
    let server = ServerParams { write_stall_timeout: Some(STALL), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, crate::support::PROXY);
    let (mut io, mut served) = rig.connect(1 << 10);
    // The client's preface, SETTINGS, and a GET that ends its request.
    let request = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let head = [[0, 0, 14, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 9].as_slice(), b"a.example"].concat();
    tokio::io::AsyncWriteExt::write_all(&mut io, &[request, head].concat()).await.unwrap();
    let mut endpoint = rig.endpoint().await;
    // All of it fits into a batch, and h2 has nothing more to send.
    endpoint.asked().await.answer().send_data(body(40_000), true).unwrap();
    assert!(timeout(STALL - SECOND, &mut served).await.is_err(), "is given time");
    timeout(2 * SECOND, served).await.expect("is closed").unwrap().unwrap();
}
