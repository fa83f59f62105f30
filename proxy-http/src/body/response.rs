//! The bodies of responses that the proxy forwards.

use crate::{
    body::{error::Error, outcome::Backpressure, source::Source},
    message::answer::Answer,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// The body of a forwarded response. The exchange ends with it, or when it is dropped.
#[derive(Debug)]
pub struct ResponseBody(Box<dyn Exchange>);

/// An exchange whose response head has been forwarded, as the body of that response.
pub(crate) trait Exchange: Body<Data = Bytes, Error = Error> + Source + Unpin + fmt::Debug {}

impl<T: Body<Data = Bytes, Error = Error> + Source + Unpin + fmt::Debug> Exchange for T {}

// === impl ResponseBody ===

impl ResponseBody {
    pub(crate) fn new(exchange: Box<dyn Exchange>) -> Self {
        Self(exchange)
    }
}

impl Source for ResponseBody {
    fn buffer(&mut self, cx: &mut Context<'_>) -> Backpressure {
        self.0.buffer(cx)
    }

    fn cut(&mut self, cause: &Answer) -> Option<HeaderMap> {
        self.0.cut(cause)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut *self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
