//! Clients that do not behave, and a system that has nothing to give.

use crate::support::{App, Endpoint, admin, body, connect, get};
use app::{LogLevel, Process};
use std::{collections::HashMap, process::Command, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};

#[tokio::test]
async fn running_out_of_descriptors_neither_spins_nor_ends_the_listener() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start_with_descriptors(&["-n 40"], endpoint.addr);
    let mut client = connect(app.proxy).await;
    assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");

    let mut connections = Vec::new();
    for _ in 0..60 {
        connections.push(TcpStream::connect(app.proxy).await.unwrap());
    }
    // Requests on open connections go on meanwhile; half a second of them, and little of it is the listener's.
    let (before, started) = (app.cpu_time(), Instant::now());
    while started.elapsed() < Duration::from_millis(500) {
        assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spent = app.cpu_time() - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} of CPU in half a second");

    drop(connections);
    let mut late = connect(app.proxy).await;
    assert_eq!(body(late.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
}

#[tokio::test]
async fn the_admin_server_answers_when_clients_have_all_descriptors() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start_with_descriptors(&["-n 64"], endpoint.addr);
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(TcpStream::connect(app.proxy).await.unwrap());
    }
    // The last ones that the system accepts are still on their way.
    app.logged(&["cannot accept connections"]).await;
    for _ in 0..10 {
        let asked = timeout(Duration::from_secs(20), admin(app.admin, "GET", "/live", ""));
        assert_eq!(asked.await.expect("/live answers").0, 200);
    }
    let (status, metrics) = admin(app.admin, "GET", "/metrics", "").await;
    assert!(status == 200 && metrics.contains("process_max_fds 64"), "{metrics}");
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let endpoint = Endpoint::start().await;
    let app = App::start_with_descriptors(&["-Sn 64", "-Hn 1000"], endpoint.addr);
    app.counted("process_max_fds 1000").await;
}

#[test]
fn a_limit_of_connections_that_descriptors_do_not_suffice_for_is_a_warning() {
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().args(["-c", "ulimit -n 200 && exec \"$0\" check", env!("CARGO_BIN_EXE_app")]);
    shell.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
    let warned = |shell: &mut Command| String::from_utf8(shell.output().unwrap().stderr).unwrap();
    let warning = "warning: LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS: 100000 connections";
    assert!(warned(&mut shell).starts_with(warning), "{}", warned(&mut shell));
    assert_eq!(warned(shell.env("LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS", "150")), "");
}

#[tokio::test]
async fn silent_clients_and_garbage_do_not_disturb_others() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let _silent = TcpStream::connect(app.proxy).await.unwrap();
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff", &[0; 100]]
    {
        let mut stream = TcpStream::connect(app.proxy).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        // The proxy hangs up.
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    }
}

#[tokio::test]
async fn both_directions_at_once() {
    let (inner, outer) = (Endpoint::start().await, Endpoint::start().await);
    let (inner_addr, outer_addr) = (inner.addr.to_string(), outer.addr.to_string());
    let env = HashMap::from([
        ("LINKERD2_PROXY_INBOUND_ENDPOINTS", inner_addr.as_str()),
        ("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", outer_addr.as_str()),
        ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
    ]);
    let process = Process::start(app_env::load(&env).unwrap(), LogLevel::fixed()).unwrap();
    let addrs = [process.inbound_addr().unwrap(), process.outbound_addr().unwrap()];
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(process.run(async { stopped.await.unwrap_or("the test is over") }));
    for (addr, mut endpoint) in addrs.into_iter().zip([inner, outer]) {
        let mut client = connect(addr).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked.recv().await.unwrap();
        endpoint.answer.send_replace(true);
        assert_eq!(body(response).await.unwrap(), b"answer");
    }
    drop(stop);
    running.await.unwrap();
}
