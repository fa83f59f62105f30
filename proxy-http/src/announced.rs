//! What an endpoint says that h2 keeps to itself: what its first SETTINGS announce, and that it sends interim responses.

use crate::{activity::Activity, interim::Scan};
use pin_project_lite::pin_project;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A transport from an endpoint, the first frame of which is looked at, and the start of others.
    ///
    /// The first is its SETTINGS (RFC 9113 section 3.4). What it announces later is not seen: endpoints do so once.
    #[derive(Debug)]
    pub(crate) struct Announced<I> {
        #[pin]
        inner: I,
        // What has come of the frame. `None`: all of it, or it is none.
        first: Option<Vec<u8>>,
        // `None`: there was an interim response.
        scan: Option<Scan>,
        activity: Arc<Activity>,
    }
}

const FRAME_HEAD: usize = 9;
/// The largest frame that an endpoint may send unasked.
const MAX_FRAME: usize = 16_384;
const SETTINGS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

// === impl Announced ===

impl<I> Announced<I> {
    /// Notes on `activity` what comes.
    pub(crate) fn new(inner: I, activity: &Arc<Activity>) -> Self {
        Self { inner, first: Some(Vec::new()), scan: Some(Scan::default()), activity: Arc::clone(activity) }
    }
}

impl<I: AsyncRead> AsyncRead for Announced<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.inner.poll_read(cx, buf))?;
        if let Some(scan) = this.scan
            && scan.read(&buf.filled()[before..])
        {
            this.activity.open_streams().expect_interim();
            *this.scan = None;
        }
        if let Some(first) = this.first {
            first.extend_from_slice(&buf.filled()[before..]);
            match settings(first) {
                Settings::More => {}
                Settings::None => *this.first = None,
                Settings::Whole(settings) => {
                    for setting in settings.chunks_exact(6) {
                        let (id, value) = (u16::from_be_bytes([setting[0], setting[1]]), &setting[2..]);
                        if id == MAX_HEADER_LIST_SIZE {
                            let size = u32::from_be_bytes([value[0], value[1], value[2], value[3]]);
                            this.activity.set_max_header_list(usize::try_from(size).unwrap_or(usize::MAX));
                        }
                    }
                    *this.first = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite> AsyncWrite for Announced<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

enum Settings<'a> {
    More,
    /// Something else, which h2 will refuse.
    None,
    Whole(&'a [u8]),
}

fn settings(first: &[u8]) -> Settings<'_> {
    let Some((head, payload)) = first.split_at_checked(FRAME_HEAD) else { return Settings::More };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    match payload.get(..length) {
        _ if head[3] != SETTINGS || length > MAX_FRAME => Settings::None,
        None => Settings::More,
        Some(settings) => Settings::Whole(settings),
    }
}
