//! The log: nothing that happens to it stops the traffic, and nobody fills it.

use crate::{
    support::{App, Endpoint, LogReader, PATIENCE, admin, body, connect, get},
    tls::{Rig, pki::Authority},
};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Enough requests to fill a pipe and the queue before it, at some thirty lines each.
const REQUESTS: usize = 150;

/// Sends requests, each of which logs, and reads the answers.
async fn ask_all(app: &App) {
    let mut client = connect(app.proxy).await;
    for number in 0..REQUESTS {
        let asked = async { body(client.send_request(get(), true).unwrap().0).await };
        let answer = timeout(PATIENCE / 4, asked).await.unwrap_or_else(|_| panic!("request {number} hangs"));
        assert_eq!(answer.unwrap(), b"answer");
    }
}

/// Log lines that were lost for a reason.
async fn lost(app: &App, reason: &str) -> u64 {
    let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
    let name = format!("log_lines_lost_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let settings = [("LINKERD2_PROXY_LOG", "trace")];
    let mut app = App::start_unread(LogReader::Stops, endpoint.addr, &settings);
    ask_all(&app).await;
    assert!(lost(&app, "queue").await > 0, "what is dropped is counted");
    // Nor does it hold up the end.
    app.terminate();
    assert!(timeout(Duration::from_secs(20), app.ended()).await.expect("it ends").success());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let settings = [("LINKERD2_PROXY_LOG", "trace")];
    let mut app = App::start_unread(LogReader::Closes, endpoint.addr, &settings);
    ask_all(&app).await;
    assert!(lost(&app, "error").await > 0, "what is not written is counted");
    app.terminate();
    assert!(app.ended().await.success());
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_end() {
    let endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    app.terminate();
    app.ended().await;
    app.logged(&["\"drained\""]).await;
}

#[tokio::test]
async fn clients_that_are_not_allowed_do_not_fill_the_log() {
    const CLIENTS: usize = 40;
    let names: Vec<_> = (0..1_000).map(|number| format!("name-{number}.clients.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let clients = Authority::new("clients");
    let rig = Rig::start_mutual(&clients, &[("SERVER_TLS_ALLOWED_CLIENTS", "web.example")]).await;
    let identity = clients.issue(&names);
    let started = Instant::now();
    for _ in 0..CLIENTS {
        assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap().status, 403);
    }
    let seconds = started.elapsed().as_secs() as usize;
    rig.app.logged(&["not among those allowed", "name-0.clients.example", "and 992 more"]).await;
    let lines: Vec<_> = rig.app.log().into_iter().filter(|line| line.contains("not among")).collect();
    assert!(lines.len() <= seconds + 2, "{} lines in {seconds} s", lines.len());
    assert!(lines.iter().all(|line| line.len() < 1_000), "{lines:?}");
}
