//! Upgrades by SIGUSR2: another process gets the listeners, and the one before drains.

use crate::{
    support::{App, Endpoint, PATIENCE, admin, body, command, connect, get},
    tls::pki::Files,
};
use bytes::Bytes;
use h2::server;
use http::Response;
use std::{
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, time::timeout};

/// The binary by a path at which another can be put.
struct Installed {
    files: Files,
}

const STARTED: &str = "SIGUSR2, started a process that is to take over";
const TOOK_OVER: &str = "took over, accepting connections";

/// Processes that a log tells of; they are ended with the value.
struct Started<'a>(&'a App);

impl Installed {
    fn new() -> Self {
        let files = Files::new();
        symlink(env!("CARGO_BIN_EXE_app"), files.path("app")).unwrap();
        Self { files }
    }

    fn start(&self, endpoint: SocketAddr, settings: &[(&str, &str)]) -> App {
        let mut command = Command::new(self.files.path("app"));
        command.env_clear();
        App::start_by(command, endpoint, settings)
    }

    /// Puts a script in the binary's place. A shell writes it: a file that this process has open for writing may be inherited by
    /// a process that another test starts, and could not be executed then (ETXTBSY).
    fn replace(&self, script: &str) {
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0""#;
        let path = self.files.path("app");
        assert!(Command::new("/bin/sh").args(["-c", write, &path, script]).status().unwrap().success());
    }
}

/// The processes that upgrades have started, as lines of the log with `message` tell.
fn processes(app: &App, message: &str) -> Vec<u64> {
    let lines = app.log().into_iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
    let told = lines.filter(|line| line["fields"]["message"] == message);
    told.map(|line| line["fields"]["pid"].as_u64().unwrap()).collect()
}

/// The process that an upgrade of the first one has started last.
fn started(app: &App) -> Option<u64> {
    processes(app, STARTED).pop()
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        for pid in [processes(self.0, STARTED), processes(self.0, TOOK_OVER)].concat() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

fn runs(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn ask(app: &App) {
    let mut client = connect(app.proxy).await;
    assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
}

#[tokio::test]
async fn requests_in_flight_end_on_the_old_process_and_new_ones_go_to_the_new() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let response = tokio::spawn(body(client.send_request(get(), true).unwrap().0));
    endpoint.asked.recv().await.unwrap();
    app.signal("-USR2");
    let old = app.pid();
    app.logged(&["took over"]).await;
    {
        let _started = Started(&app);
        assert_ne!(started(&app), Some(u64::from(old)));
        let mut late = connect(app.proxy).await;
        let late_response = tokio::spawn(body(late.send_request(get(), true).unwrap().0));
        endpoint.asked.recv().await.unwrap();
        // The admin port is the new process's, which has the late connection alone.
        app.counted("tcp_open_connections{direction=\"outbound\",peer=\"src\",tls=\"false\"} 1").await;
        assert_ne!(admin(app.admin, "GET", "/ready", "").await.1, "draining\n");
        endpoint.answer.send_replace(true);
        assert_eq!(response.await.unwrap().unwrap(), b"answer");
        assert_eq!(late_response.await.unwrap().unwrap(), b"answer");
    }
    assert!(app.ended().await.success());
}

#[tokio::test]
async fn a_process_that_was_upgraded_to_is_upgraded_itself() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let mut app = App::start(endpoint.addr, &[]);
    app.signal("-USR2");
    app.logged(&["took over"]).await;
    assert!(app.ended().await.success());
    let second = started(&app).unwrap();
    ask(&app).await;
    assert!(Command::new("kill").args(["-USR2", &second.to_string()]).status().unwrap().success());
    let third = async {
        while processes(&app, TOOK_OVER).len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, third).await.expect("the third process takes over");
    let _started = Started(&app);
    let [first, other] = processes(&app, TOOK_OVER)[..] else { panic!("{:?}", app.log()) };
    assert!(first == second && other != second);
    ask(&app).await;
}

#[tokio::test]
async fn a_binary_that_does_not_become_ready_is_named_with_its_end_and_the_old_goes_on() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    for (script, reason) in [
        ("exit 64", "the new process ended before it was ready: exit status: 64"),
        ("kill -KILL $$", "the new process ended before it was ready: signal: 9"),
        ("exec /does/not/exist", "the new process ended before it was ready: exit status: 127"),
    ] {
        let installed = Installed::new();
        let app = installed.start(endpoint.addr, &[]);
        installed.replace(script);
        app.signal("-USR2");
        app.logged(&["upgrade failed; this process goes on serving", reason]).await;
        ask(&app).await;
        assert_ne!(admin(app.admin, "GET", "/ready", "").await.1, "draining\n");
        // The next upgrade may be a better one.
        installed.replace(&format!("exec {}", env!("CARGO_BIN_EXE_app")));
        app.signal("-USR2");
        app.logged(&["took over"]).await;
        let _started = Started(&app);
        ask(&app).await;
    }
}

#[tokio::test]
async fn a_binary_that_is_gone_is_named_by_its_path() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let installed = Installed::new();
    let app = installed.start(endpoint.addr, &[]);
    let path = installed.files.path("app");
    std::fs::remove_file(&path).unwrap();
    app.signal("-USR2");
    app.logged(&["upgrade failed", &format!("cannot start {path}"), "No such file"]).await;
    ask(&app).await;
}

#[tokio::test]
async fn a_binary_that_says_nothing_is_ended_in_time() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let installed = Installed::new();
    let app = installed.start(endpoint.addr, &[("LINKERD2_PROXY_UPGRADE_TIMEOUT", "300ms")]);
    installed.replace("exec sleep 1000");
    app.signal("-USR2");
    app.logged(&["upgrade failed", "the new process does not listen after 300ms"]).await;
    assert!(!runs(started(&app).unwrap()));
    ask(&app).await;
}

#[tokio::test]
async fn a_second_upgrade_is_refused_and_the_end_of_the_process_ends_the_first() {
    let endpoint = Endpoint::start().await;
    let installed = Installed::new();
    let mut app = installed.start(endpoint.addr, &[("LINKERD2_PROXY_UPGRADE_TIMEOUT", "10m")]);
    installed.replace("exec sleep 1000");
    app.signal("-USR2");
    app.logged(&[STARTED]).await;
    app.signal("-USR2");
    app.logged(&["SIGUSR2 refused", "an upgrade is under way"]).await;
    assert_eq!(processes(&app, STARTED).len(), 1);
    app.terminate();
    assert!(app.ended().await.success());
    assert!(!runs(started(&app).unwrap()));
}

#[tokio::test]
async fn a_process_that_drains_is_not_upgraded() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let response = tokio::spawn(body(client.send_request(get(), true).unwrap().0));
    endpoint.asked.recv().await.unwrap();
    app.terminate();
    app.logged(&["draining"]).await;
    app.signal("-USR2");
    app.logged(&["SIGUSR2 refused", "this process drains"]).await;
    endpoint.answer.send_replace(true);
    assert_eq!(response.await.unwrap().unwrap(), b"answer");
    assert!(app.ended().await.success());
}

#[tokio::test]
async fn a_process_that_cannot_reach_what_the_old_one_can_does_not_take_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // Connections that are open stay so when the listener closes.
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from("answer"), true).unwrap();
                }
            });
        }
    });
    let app = App::start(addr, &[("LINKERD2_PROXY_UPGRADE_TIMEOUT", "1s")]);
    let ready = async {
        while admin(app.admin, "GET", "/ready", "").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ready).await.expect("it is ready");
    accepting.abort();
    assert!(accepting.await.unwrap_err().is_cancelled());
    app.signal("-USR2");
    app.logged(&["upgrade failed", "it cannot reach an endpoint in each direction, as this one can"]).await;
    assert!(!runs(started(&app).unwrap()));
    ask(&app).await;
}

#[tokio::test]
async fn endpoints_that_nobody_can_reach_do_not_hold_up_an_upgrade() {
    let unreachable = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut app = App::start(unreachable, &[("LINKERD2_PROXY_UPGRADE_TIMEOUT", "10m")]);
    let told = Instant::now();
    app.signal("-USR2");
    app.logged(&["took over"]).await;
    assert!(app.ended().await.success());
    let _started = Started(&app);
    assert!(told.elapsed() < PATIENCE);
    assert_eq!(admin(app.admin, "GET", "/live", "").await.0, 200);
}

#[test]
fn a_hand_over_without_a_process_before_is_an_error() {
    for (version, reason) in [("1", "standard input has no listeners"), ("2", "must be 1")] {
        let mut command = command();
        command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1").env("APP_HANDOVER", version);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("error: APP_HANDOVER: ") && stderr.contains(reason), "{stderr}");
    }
}
