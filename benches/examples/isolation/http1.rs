//! HTTP/1.1 by hand, for both ends.

use crate::transport::Io;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A connection, and what has come that is not used yet.
pub(crate) struct Wire {
    io: Io,
    pub(crate) read: Vec<u8>,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Length {
    Bytes(usize),
    Chunked,
    /// To the end of the connection.
    Close,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(io: Io) -> Self {
        Self { io, read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    pub(crate) async fn shut_down(&mut self) {
        let _ = self.io.shutdown().await;
    }

    /// Reads some more; false at the end.
    pub(crate) async fn more(&mut self) -> io::Result<bool> {
        Ok(self.io.read_buf(&mut self.read).await? > 0)
    }

    /// Up to the first `end`, and with it. `None`: nothing more comes.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.read.drain(..at + end.len()).collect()));
            }
            if !self.more().await? {
                return if self.read.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub(crate) async fn head(&mut self) -> io::Result<Option<String>> {
        let head = self.until(b"\r\n\r\n").await?;
        Ok(head.map(|head| String::from_utf8_lossy(&head).into_owned()))
    }

    /// Appends what comes of a body to `body`, so that it is there even if the rest does not come.
    pub(crate) async fn body(&mut self, length: Length, body: &mut Vec<u8>) -> io::Result<()> {
        match length {
            Length::Bytes(bytes) => self.exactly(bytes, body).await,
            Length::Close => loop {
                body.append(&mut self.read);
                if !self.more().await? {
                    return Ok(());
                }
            },
            Length::Chunked => loop {
                let size = self.until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = String::from_utf8_lossy(&size);
                let size = usize::from_str_radix(size.trim_end(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    // Trailers, if any, and an empty line.
                    while self.until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)? != b"\r\n" {}
                    return Ok(());
                }
                self.exactly(size, body).await?;
                self.exactly(2, &mut Vec::new()).await?;
            },
        }
    }

    async fn exactly(&mut self, mut bytes: usize, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let taken = bytes.min(self.read.len());
            body.extend(self.read.drain(..taken));
            bytes -= taken;
            if bytes == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The value of a field.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// How long the body behind a head is. `none`: where nothing says so.
pub(crate) fn length(head: &str, none: Length) -> Length {
    if field(head, "transfer-encoding").is_some() {
        Length::Chunked
    } else {
        field(head, "content-length").and_then(|length| length.parse().ok()).map_or(none, Length::Bytes)
    }
}
