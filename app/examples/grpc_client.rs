//! tonic's client, for `scripts/grpc-clients`: makes calls as it is told, by the lines that `scripts/grpc_callers.py` says.

use bytes::{Buf as _, BufMut as _, Bytes};
use serde_json::{Value, json};
use std::{collections::HashMap, io::BufRead as _, sync::Arc, time::Duration};
use tokio::{runtime::Runtime, sync::Notify};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataKey},
    transport::{Channel, Endpoint},
};

/// Messages that are bytes.
#[derive(Clone, Copy, Default)]
struct Identity;

/// The parameters of a call.
struct Call {
    id: u64,
    path: String,
    is_unary: bool,
    timeout: Option<Duration>,
    metadata: Vec<(MetadataKey<Ascii>, String)>,
    message: Bytes,
    /// Notified when the call is to be read behind its first message. `None`: it is read at once.
    read: Option<Arc<Notify>>,
}

/// A message of `google.protobuf.BytesValue`.
const MESSAGE: Bytes = Bytes::from_static(b"\x0a\x02ab");

fn main() {
    let runtime = Runtime::new().expect("the runtime starts");
    let mut channels: HashMap<u64, Channel> = HashMap::new();
    let mut held: HashMap<u64, Arc<Notify>> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let task: Value = serde_json::from_str(&line.expect("stdin can be read")).expect("a line is JSON");
        if let Some(id) = task["read"].as_u64() {
            held[&id].notify_one();
            continue;
        }
        let call = Call::new(&task);
        held.extend(call.read.clone().map(|read| (call.id, read)));
        let port = task["port"].as_u64().expect("port");
        let _guard = runtime.enter();
        let connect = || Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URI").connect_lazy();
        let channel = channels.entry(port).or_insert_with(connect).clone();
        runtime.spawn(async move {
            let (id, ended) = (call.id, call.run(channel).await);
            let status = ended.err().unwrap_or_else(|| Status::ok(""));
            println!("{}", json!({"id": id, "code": code(&status), "details": status.message()}));
        });
    }
}

/// The code as gRPC spells it.
fn code(status: &Status) -> String {
    let name = format!("{:?}", status.code());
    let mut spelt = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() && name != "Ok" {
            spelt.push('_');
        }
        spelt.push(letter.to_ascii_uppercase());
    }
    spelt
}

// === impl Call ===

impl Call {
    fn new(task: &Value) -> Self {
        let pairs = task["metadata"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        Self {
            id: task["id"].as_u64().expect("id"),
            path: text(&task["path"]),
            is_unary: task["kind"] == "unary",
            timeout: task["timeout"].as_f64().map(Duration::from_secs_f64),
            metadata: pairs.map(|pair| (text(&pair[0]).parse().expect("a name"), text(&pair[1]))).collect(),
            message: task["size"].as_u64().map_or(MESSAGE, |size| vec![0; size as usize].into()),
            read: (task["hold"] == true).then(Arc::default),
        }
    }

    async fn run(self, channel: Channel) -> Result<(), Status> {
        let Self { id, path, is_unary, timeout, metadata, message, read } = self;
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut request = Request::new(message);
        timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
        for (name, value) in metadata {
            request.metadata_mut().append(name, value.parse().expect("a value"));
        }
        let path = path.parse().expect("a path");
        if is_unary {
            client.unary(request, path, Identity).await?;
            println!("{}", json!({"id": id, "message": true}));
            return Ok(());
        }
        let mut messages = client.server_streaming(request, path, Identity).await?.into_inner();
        let mut read = read;
        while messages.message().await?.is_some() {
            println!("{}", json!({"id": id, "message": true}));
            if let Some(read) = read.take() {
                read.notified().await;
            }
        }
        Ok(())
    }
}

// === impl Identity ===

impl Codec for Identity {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Identity {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Identity {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
