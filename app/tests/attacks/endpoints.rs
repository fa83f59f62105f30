//! Endpoints that are hostile, or broken. The victim's is another one: what is bad about one must not show at others,
//! though the same worker serves both.

use crate::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY,
        PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, STATUS_200, UNKNOWN, frame, get, ids, literal, post, setting,
        window_update,
    },
    rig::{Rig, Settings, factor},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::sleep,
};

/// Frames of one attack.
fn frames() -> usize {
    20_000 * factor()
}

/// A rig before an endpoint that does this with each of its connections; and how many it got.
async fn hostile<F>(serve: impl Fn(Peer) -> F + Send + Sync + 'static) -> (Rig, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            if let Some(peer) = Peer::server(stream).await {
                tokio::spawn(serve(peer));
            }
        }
    });
    (Rig::with(Settings { hostile: Some(addr), ..Settings::default() }).await, connections)
}

/// Waits for a request, and returns its stream.
async fn asked(peer: &mut Peer) -> Option<u32> {
    while let Some(frame) = peer.from.next().await {
        if frame.kind == HEADERS {
            return Some(frame.stream);
        }
    }
    None
}

/// One request, to the answer's head, its reset, or the connection's end.
async fn ask(rig: &Rig) -> Option<u8> {
    let mut client = Peer::client(rig.outbound.unwrap(), &[]).await;
    client.send(get(1, "/")).await;
    loop {
        let frame = client.from.next().await?;
        if matches!(frame.kind, HEADERS | RST_STREAM) && frame.stream == 1 {
            return Some(frame.kind);
        }
    }
}

/// An endpoint that answers each request with these frames, on the request's stream, and no more, and reads nothing more.
async fn answers(with: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static, mib: u64) {
    let (rig, _) = hostile(move |mut peer| {
        let with = with.clone();
        async move {
            let Some(id) = asked(&mut peer).await else { return };
            peer.send(with(id)).await;
            // So that the attack ends when all of it is read.
            let _ = peer.to.shutdown().await;
            // Waits for the proxy to hang up or the test to end.
            std::future::pending().await
        }
    })
    .await;
    let asking = async {
        // Not answered, perhaps, for as long as the endpoint likes.
        let _ = tokio::time::timeout(Duration::from_secs(2), ask(&rig)).await;
    };
    rig.beside(asking).await;
    rig.costs_at_most(mib);
}

#[tokio::test]
async fn floods_of_control_frames() {
    let kinds = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]),
        window_update(0, 1),
        frame(UNKNOWN, 0, 0, &[0; 8]),
    ];
    for kind in kinds {
        answers(move |_| kind.repeat(frames()), 32).await;
    }
}

#[tokio::test]
async fn flood_of_informational_heads() {
    // 103, whose status is in no table.
    let head = [&[0x08, 3][..], b"103", &literal("link", &[b'a'; 100])].concat();
    answers(move |id| frame(HEADERS, END_HEADERS, id, &head).repeat(frames()), 32).await;
}

#[tokio::test]
async fn flood_of_continuations() {
    answers(|id| [frame(HEADERS, 0, id, &[STATUS_200]), frame(CONTINUATION, 0, id, &[]).repeat(frames())].concat(), 32)
        .await;
}

#[tokio::test]
async fn head_of_sixty_kibibytes() {
    answers(
        |id| {
            let fields = literal("field", &[b'a'; 1000]).repeat(15);
            let first = frame(HEADERS, 0, id, &[&[STATUS_200][..], &fields].concat());
            let more = frame(CONTINUATION, 0, id, &fields).repeat(2);
            [first, more, frame(CONTINUATION, END_HEADERS, id, &fields)].concat()
        },
        32,
    )
    .await;
}

#[tokio::test]
async fn pushes_that_nobody_asked_for() {
    answers(
        |id| {
            let push = |promised: u32| [&promised.to_be_bytes()[..], &crate::frames::request(0x82, "/")].concat();
            (2..).step_by(2).take(frames() / 10).flat_map(|p| frame(PUSH_PROMISE, END_HEADERS, id, &push(p))).collect()
        },
        32,
    )
    .await;
}

/// The client's window is its own; bytes that the endpoint has beyond it stay with the endpoint.
#[tokio::test]
async fn data_that_the_client_does_not_read() {
    answers(
        |id| [frame(HEADERS, END_HEADERS, id, &[STATUS_200]), frame(DATA, 0, id, &[0; 1]).repeat(frames())].concat(),
        32,
    )
    .await;
}

/// Each connection is told off as soon as it is made, or as soon as something is asked.
#[tokio::test]
async fn storms_of_goaways() {
    let (rig, connections) = hostile(|mut peer| async move {
        let go_away = frame(GOAWAY, 0, 0, &[0; 8]);
        peer.send(&go_away).await;
        while let Some(frame) = peer.from.next().await {
            if frame.kind == HEADERS {
                peer.send(&go_away).await;
            }
        }
    })
    .await;
    let before = connections.load(Relaxed);
    let asking = async {
        for _ in 0..10 * factor() {
            assert!(ask(&rig).await.is_some(), "the client is answered");
        }
    };
    rig.beside(asking).await;
    let made = connections.load(Relaxed) - before;
    assert!(made <= 100 * factor(), "{made} connections");
    rig.costs_at_most(32);
}

/// Uploads wait in its windows, in the clients' windows and in the sockets, and nowhere else.
#[tokio::test]
async fn never_reads() {
    let (rig, _) = hostile(|mut peer| async move {
        // Window for everything.
        let settings = frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, u32::MAX >> 1));
        peer.send([settings, frame(SETTINGS, ACK, 0, &[]), window_update(0, (u32::MAX >> 1) - 65_535)].concat()).await;
        std::future::pending().await
    })
    .await;
    const STREAMS: usize = 20;
    let mut client = Peer::client(rig.outbound.unwrap(), &[]).await;
    let upload = async {
        client.send(ids().take(STREAMS).flat_map(|id| post(id, "/")).collect::<Vec<_>>()).await;
        // As much of them as the proxy gives window for, turn by turn, until it gives no more.
        let (mut connection, mut sent) = (65_535_i64, 0);
        let mut streams: std::collections::BTreeMap<u32, i64> = ids().take(STREAMS).map(|id| (id, 65_535)).collect();
        loop {
            for (id, window) in &mut streams {
                let most = connection.min(*window).min(16_384);
                if most > 0 && client.send(frame(DATA, 0, *id, &vec![0; usize::try_from(most).unwrap()])).await {
                    (connection, *window, sent) = (connection - most, *window - most, sent + most);
                }
            }
            let Ok(read) = tokio::time::timeout(Duration::from_secs(1), client.from.next()).await else { return sent };
            let Some(frame) = read else { return sent };
            if frame.kind == crate::frames::WINDOW_UPDATE {
                let more = i64::from(crate::frames::code(&frame.payload));
                match frame.stream {
                    0 => connection += more,
                    id => *streams.get_mut(&id).unwrap() += more,
                }
            }
        }
    };
    let sent = rig.beside(upload).await;
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    rig.costs_at_most(64);
    drop(client);
    let open = || rig.metric("tcp_open_connections", "direction=\"outbound\",peer=\"src\"");
    while open().await > 0 {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Its client waits for the final response, however long that takes.
#[tokio::test]
async fn flood_of_informational_heads_in_http1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let flood = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(5 * frames());
                    let _ = stream.write_all(&flood).await;
                    let _ = stream.shutdown().await;
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let variables = &[("OUTBOUND_CONNECT_PROTOCOL", "http1")];
    let rig = Rig::with(Settings { hostile: Some(addr), variables, ..Settings::default() }).await;
    let asking = async {
        let mut client = Peer::client(rig.outbound.unwrap(), &[]).await;
        client.send(get(1, "/")).await;
        while let Some(frame) = client.from.next().await {
            if frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0) {
                break;
            }
        }
    };
    rig.beside(asking).await;
    rig.costs_at_most(32);
}
