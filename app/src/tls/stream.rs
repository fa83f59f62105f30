//! TLS that is written in batches.
//!
//! Encryption copies the bytes in any case, so all bytes up to a flush are sent at once: one system call, and fewer packets.

use rustls::Writer;
use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    /// In a box, since its kilobyte would be in each future that it is handed to on its way, as long as the task lives.
    inner: Box<S>,
    /// Whether writes wait for a flush.
    batches: bool,
    /// Bytes that were encrypted since all was written.
    taken: usize,
}

/// Either side of TLS.
pub(crate) trait Session: AsyncRead + AsyncWrite + Unpin {
    /// Encrypts, and keeps the result until it is flushed.
    fn writer(&mut self) -> Writer<'_>;

    /// Sets how many bytes the writer may keep.
    fn set_limit(&mut self, bytes: usize);
}

/// Bytes that are kept before they are written: four DATA frames of the usual size, and as much as the kernel takes at
/// once.
const BATCH: usize = 64 << 10;
/// Room for the batch, another frame and the overhead of encryption.
const LIMIT: usize = BATCH + (32 << 10);

// === impl Stream ===

impl<S: Session> Stream<S> {
    /// `http2`: only h2 will write to it.
    pub(crate) fn new(mut inner: S, http2: bool) -> Self {
        if http2 {
            inner.set_limit(LIMIT);
        }
        Self { inner: Box::new(inner), batches: http2, taken: 0 }
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.inner).poll_flush(cx))?;
        self.taken = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: Session> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<S: Session> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.batches {
            return Pin::new(&mut *this.inner).poll_write_vectored(cx, bufs);
        }
        if this.taken >= BATCH {
            ready!(this.poll_write_all(cx))?;
        }
        let n = this.inner.writer().write_vectored(bufs)?;
        this.taken += n;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_shutdown(cx)
    }
}

// === impl Session ===

impl<I: AsyncRead + AsyncWrite + Unpin> Session for server::TlsStream<I> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }

    fn set_limit(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Session for client::TlsStream<I> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }

    fn set_limit(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::provider;
    use bytes::Bytes;
    use futures_util::future::poll_fn;
    use http::{Request, Response};
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        time::Duration,
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::timeout,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// Bytes that have not come by then never come.
    const SECOND: Duration = Duration::from_secs(1);

    /// A pipe that counts writes.
    struct Pipe {
        inner: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored_in(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored_in(cx, bufs)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    impl Pipe {
        fn poll_write_vectored_in(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            let n = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
            self.writes.fetch_add(1, Relaxed);
            Poll::Ready(Ok(n))
        }
    }

    /// A client's end, and a server's that writes in batches if `http2`, with the bytes that it has written so far.
    async fn pair(
        capacity: usize,
        http2: bool,
    ) -> (client::TlsStream<DuplexStream>, Stream<server::TlsStream<Pipe>>, Arc<AtomicUsize>) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["a.example".into()]).unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = duplex(capacity);
        let far = Pipe { inner: far, writes: Arc::default() };
        let writes = Arc::clone(&far.writes);
        let name = ServerName::try_from("a.example").unwrap();
        let connecting = TlsConnector::from(Arc::new(client)).connect(name, near);
        let (near, far) = tokio::join!(connecting, TlsAcceptor::from(Arc::new(server)).accept(far));
        (near.unwrap(), Stream::new(far.unwrap(), http2), writes)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_h2_sends_is_left_behind() {
        const SIZES: [usize; 12] =
            [1, 255, 256, 257, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 70_000, 1_000_000];
        let (near, far, _) = pair(4 << 20, true).await;
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let mut size = SIZES.into_iter();
            let mut open = Vec::new();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(vec![7; size.next().unwrap()].into(), false).unwrap();
                // The end of the stream would be flushed.
                open.push(stream);
            }
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(2 << 20).initial_connection_window_size(8 << 20);
        let handshake = builder.handshake::<_, Bytes>(near);
        let (mut send, connection) = timeout(SECOND, handshake).await.expect("is flushed").unwrap();
        let connection = tokio::spawn(connection);
        for size in SIZES {
            let (rsp, _) = send.send_request(Request::new(()), true).unwrap();
            let mut body = timeout(SECOND, rsp).await.expect("is flushed").unwrap().into_body();
            let mut received = 0;
            while received < size {
                let data = timeout(SECOND, body.data()).await.expect("is flushed").unwrap().unwrap();
                assert!(data.iter().all(|byte| *byte == 7));
                received += data.len();
            }
            assert_eq!(received, size);
        }
        drop(send);
        connection.await.unwrap().unwrap();
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn writes_without_a_flush_are_sent_together() {
        const FRAMES: usize = 64;
        let (mut near, mut far, writes) = pair(4 << 20, true).await;
        let before = writes.load(Relaxed);
        for _ in 0..FRAMES {
            far.write_all(&[5; 16_393]).await.unwrap();
        }
        far.flush().await.unwrap();
        let mut read = vec![0; FRAMES * 16_393];
        timeout(SECOND, near.read_exact(&mut read)).await.expect("is flushed").unwrap();
        assert!(read.iter().all(|byte| *byte == 5));
        let writes = writes.load(Relaxed) - before;
        assert!(writes <= 1 + read.len() / BATCH, "{writes}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_bounded() {
        let frame = [3; 16_384];
        let (mut near, mut far, _) = pair(1_000, true).await;
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < 4 * BATCH {
                match Pin::new(&mut far).poll_write_vectored(cx, &[IoSlice::new(&[3; 9]), IoSlice::new(&frame)])? {
                    Poll::Ready(n) => sent += n,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(io::Result::Ok(()))
        })
        .await
        .unwrap();
        assert!((BATCH..BATCH + 2 * frame.len()).contains(&sent), "{sent}");
        let reading = async {
            let mut read = vec![0; sent];
            timeout(SECOND, near.read_exact(&mut read)).await.expect("is flushed").unwrap();
            assert!(read.iter().all(|byte| *byte == 3));
        };
        tokio::join!(reading, async { far.flush().await.unwrap() });
    }

    #[tokio::test(start_paused = true)]
    async fn others_flush_when_they_say_so() {
        let (mut near, mut far, _) = pair(1 << 20, false).await;
        let n =
            poll_fn(|cx| Pin::new(&mut far).poll_write_vectored(cx, &[IoSlice::new(b"head"), IoSlice::new(b"body")]));
        assert_eq!(n.await.unwrap(), 8);
        far.flush().await.unwrap();
        let mut read = [0; 8];
        timeout(SECOND, near.read_exact(&mut read)).await.expect("is flushed").unwrap();
        assert_eq!(&read, b"headbody");
    }
}
