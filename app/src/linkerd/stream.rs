//! A stream of messages of the control plane, which is opened again when it ends.

use super::control::{Client, Control, Registered, is_rejection};
use proxy_http::balance::Backoff;
use std::{future::Future, time::Duration};
use tokio::time::{sleep, timeout};
use tonic::{Response, Status, Streaming};

/// An event of a stream.
pub(super) enum Event<M> {
    /// A message, and whether it is the stream's first one.
    Message { message: M, is_first: bool },
    /// The stream ended, or could not be opened; it is opened again.
    Failed(Status),
}

/// Opens a stream with `open` again and again, and passes on its `events`. Returns only if the control plane rejects the question:
/// asked again, it would do so again.
pub(super) async fn follow<M, O>(
    control: &Control,
    registered: &Registered,
    backoff: Backoff,
    open: impl Fn(Client) -> O,
    mut events: impl FnMut(Event<M>),
) -> Status
where
    O: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let mut failures = 0;
    loop {
        let client = control.client();
        let (mut is_first, mut open_stream) = (true, None);
        let ended = run(control, &client, &open, |message| {
            registered.status.update();
            open_stream.get_or_insert_with(|| registered.open_stream());
            events(Event::Message { message, is_first });
            control.count_update();
            (is_first, failures) = (false, 0);
        });
        let Some(status) = ended.await else { continue };
        drop(open_stream);
        control.count_end(&status);
        if is_rejection(&status) {
            return status;
        }
        events(Event::Failed(status));
        sleep(backoff.pause(failures)).await;
        failures += 1;
    }
}

/// Reads one stream to its end. `None`: it has been silent for long, so that it is to be opened anew.
async fn run<M, O>(
    control: &Control,
    client: &Client,
    open: impl Fn(Client) -> O,
    mut on_message: impl FnMut(M),
) -> Option<Status>
where
    O: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let first = async {
        let mut stream = open(client.clone()).await?.into_inner();
        let message = next(&mut stream).await?;
        Ok((stream, message))
    };
    let settings = &control.settings;
    let (mut stream, message) = match timeout(settings.initial_timeout, first).await {
        Ok(Ok(first)) => first,
        Ok(Err(status)) => return Some(status),
        Err(_) => {
            // Nothing else tells a connection that is silent from one that works.
            control.replace(client);
            return Some(silent(settings.initial_timeout));
        }
    };
    on_message(message);
    loop {
        match timeout(settings.idle_timeout, next(&mut stream)).await {
            Ok(Ok(message)) => on_message(message),
            Ok(Err(status)) => return Some(status),
            Err(_) => return None,
        }
    }
}

async fn next<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    stream.message().await?.ok_or_else(|| Status::ok("the stream ended"))
}

fn silent(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer in {limit:?}"))
}
