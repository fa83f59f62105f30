//! HTTP/1.1 by hand: bytes as they are on the wire.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, error::TryRecvError},
    },
    time::timeout,
};

/// One end of a pipe.
pub(crate) struct Raw {
    pub(crate) io: DuplexStream,
    pub(crate) read: Vec<u8>,
    /// Where the pipe comes from, as soon as anything is asked of it. `None`: it is there.
    opened: Option<Opened>,
}

/// The far ends of the pipes that a proxy opens, in order; clones share them.
#[derive(Clone)]
pub(crate) struct Opened(Arc<Mutex<UnboundedReceiver<DuplexStream>>>);

impl Opened {
    pub(crate) fn new(opened: UnboundedReceiver<DuplexStream>) -> Self {
        Self(Arc::new(Mutex::new(opened)))
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) -> Option<DuplexStream> {
        self.0.lock().await.recv().await
    }

    /// The next one, if it is there.
    pub(crate) fn try_recv(&mut self) -> Result<DuplexStream, TryRecvError> {
        self.0.try_lock().unwrap().try_recv()
    }

    /// Whether there is none that nobody has taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.try_lock().unwrap().is_empty()
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<DuplexStream>> {
        self.0.try_lock().unwrap().poll_recv(cx)
    }

    /// Refuses all that are opened from now on.
    pub(crate) fn close(&mut self) {
        self.0.try_lock().unwrap().close();
    }
}

/// A response as it is on the wire, its chunks put together.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) fields: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Raw {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self { io, read: Vec::new(), opened: None }
    }

    /// The far end of the pipe that a proxy opens next. It opens none before there is a request for it.
    pub(crate) fn next(opened: &Opened) -> Self {
        Self { io: tokio::io::duplex(1).0, read: Vec::new(), opened: Some(opened.clone()) }
    }

    /// Waits for the pipe, if it is not there yet.
    pub(crate) async fn opened(&mut self) {
        if let Some(mut opened) = self.opened.take() {
            self.io = opened.recv().await.unwrap();
        }
    }

    /// Sends text, in which `|` stands for a line's end.
    pub(crate) async fn send(&mut self, text: &str) {
        self.opened().await;
        self.io.write_all(text.replace('|', "\r\n").as_bytes()).await.unwrap();
    }

    /// Says that nothing more comes.
    pub(crate) async fn shut_down(&mut self) {
        self.opened().await;
        self.io.shutdown().await.unwrap();
    }

    pub(crate) async fn more(&mut self) -> bool {
        self.opened().await;
        self.io.read_buf(&mut self.read).await.is_ok_and(|n| n > 0)
    }

    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let text = self.read.drain(..at + end.len()).collect();
                return String::from_utf8(text).unwrap();
            }
            assert!(self.more().await, "no {end:?} in {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub(crate) async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            assert!(self.more().await, "{n} bytes, but {}", self.read.len());
        }
        self.read.drain(..n).collect()
    }

    pub(crate) async fn head(&mut self) -> Received {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap();
        assert!(status.starts_with("HTTP/1."), "{status:?}");
        let fields = lines.map(|line| line.split_once(": ").unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let status = status[9..12].parse().unwrap();
        Received { status, fields: fields.collect(), body: Vec::new(), trailers: String::new() }
    }

    pub(crate) async fn receive(&mut self) -> Received {
        let mut rsp = self.head().await;
        if rsp.fields.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            loop {
                let size = self.until("\r\n").await;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                if size == 0 {
                    break;
                }
                rsp.body.extend(self.exactly(size).await);
                assert_eq!(self.exactly(2).await, b"\r\n");
            }
            loop {
                let line = self.until("\r\n").await;
                if line == "\r\n" {
                    break;
                }
                rsp.trailers += &line;
            }
        } else {
            let length = rsp.fields.get("content-length").expect("a response on a connection that stays has a length");
            rsp.body = self.exactly(length.parse().unwrap()).await;
        }
        rsp
    }

    /// All that comes until the connection is closed.
    pub(crate) async fn rest(mut self) -> String {
        timeout(Duration::from_secs(3_600), async { while self.more().await {} }).await.expect("it is closed");
        String::from_utf8(self.read).unwrap()
    }
}
