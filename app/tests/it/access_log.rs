//! The access log of the binary: its lines, and where they go.

use crate::{
    support::{App, Endpoint, PATIENCE, admin, body, command, connect, endpoint, get},
    tls::{Rig, pki::Authority},
};
use http::{HeaderValue, Request, Response};
use serde_json::Value;
use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A file for the log, removed at the end.
pub(crate) struct LogFile(PathBuf);

impl LogFile {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("app-access-log-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        Self(env::temp_dir().join(name))
    }

    pub(crate) fn settings<'a>(&'a self, format: &'a str) -> [(&'a str, &'a str); 2] {
        [("LINKERD2_PROXY_ACCESS_LOG", format), ("LINKERD2_PROXY_ACCESS_LOG_FILE", self.0.to_str().unwrap())]
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// Waits for so many lines.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        let found = async {
            loop {
                let text = self.text();
                let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
                if lines.len() >= count {
                    return lines.into_iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let lines = tokio::time::timeout(PATIENCE, found).await.expect("lines are written");
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn endpoint_that_answers() -> Endpoint {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    endpoint
}

#[tokio::test]
async fn a_line_of_json_has_all_facts_of_a_request() {
    let (file, endpoint) = (LogFile::new(), endpoint_that_answers().await);
    let app = App::start(endpoint.addr, &file.settings("json"));
    let hostile = HeaderValue::from_bytes(b"curl \"8\"\\ \xff\ttab").unwrap();
    let request = Request::post("http://test.example/a?b=%22c")
        .header("user-agent", hostile)
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let mut client = connect(app.proxy).await;
    let (response, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sending.send_data("12345".into(), true).unwrap();
    assert_eq!(body(response).await.unwrap(), b"answer");
    let line: Value = serde_json::from_str(&file.lines(1).await[0]).unwrap();
    for (name, expected) in [
        ("direction", Value::from("outbound")),
        ("method", "POST".into()),
        ("host", "test.example".into()),
        ("path", "/a?b=%22c".into()),
        ("version", "HTTP/2.0".into()),
        ("status", 200.into()),
        ("response_bytes", 6.into()),
        ("endpoint", endpoint.addr.to_string().into()),
        ("attempts", 1.into()),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c".into()),
        ("user_agent", "curl \"8\"\\ \u{fffd}\ttab".into()),
        ("proxy_error", Value::Null),
        ("reset_by", Value::Null),
    ] {
        assert_eq!(line[name], expected, "{name} of {line}");
    }
    assert!(line["client.addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let (head, total) = (line["head_ns"].as_u64().unwrap(), line["total_ns"].as_u64().unwrap());
    assert!(0 < head && head <= total, "{line}");
}

#[tokio::test]
async fn the_common_log_format_is_there_too() {
    let (file, endpoint) = (LogFile::new(), endpoint_that_answers().await);
    let app = App::start(endpoint.addr, &file.settings("apache"));
    body(connect(app.proxy).await.send_request(get(), true).unwrap().0).await.unwrap();
    let line = file.lines(1).await.remove(0);
    assert!(line.starts_with("127.0.0.1:") && line.contains(" - - [2"), "{line}");
    assert!(line.contains("Z] \"GET / HTTP/2.0\" 200 6 host=\"test.example\" "), "{line}");
    assert!(line.contains(&format!(" endpoint=\"{}\" attempts=1", endpoint.addr)), "{line}");
}

#[tokio::test]
async fn the_proxys_own_answers_have_a_line_with_the_reason() {
    let file = LogFile::new();
    let reset = endpoint(|_, _, mut respond| respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM)).await;
    let app = App::start(reset, &file.settings("json"));
    let mut client = connect(app.proxy).await;
    let long = Request::get(format!("http://test.example/{}", "p".repeat(9_000))).body(()).unwrap();
    assert_eq!(client.send_request(long, true).unwrap().0.await.unwrap().status(), 414);
    let line: Value = serde_json::from_str(&file.lines(1).await[0]).unwrap();
    assert_eq!((&line["status"], &line["proxy_error"]), (&414.into(), &"uri_too_long".into()));
    assert_eq!((&line["proxy_error_detail"], &line["attempts"]), (&"URI is too long".into(), &0.into()));
    client.send_request(get(), true).unwrap().0.await.unwrap_err();
    let line: Value = serde_json::from_str(&file.lines(2).await[1]).unwrap();
    assert_eq!((&line["reset_by"], &line["reset_code"]), (&"endpoint".into(), &"ENHANCE_YOUR_CALM".into()));
    assert_eq!(line["status"], Value::Null);
}

#[tokio::test]
async fn the_file_is_opened_again_on_sighup() {
    let (file, moved, endpoint) = (LogFile::new(), LogFile::new(), endpoint_that_answers().await);
    let app = App::start(endpoint.addr, &file.settings("json"));
    let mut client = connect(app.proxy).await;
    body(client.send_request(get(), true).unwrap().0).await.unwrap();
    file.lines(1).await;
    fs::rename(&file.0, &moved.0).unwrap();
    app.signal("-HUP");
    while !file.0.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    body(client.send_request(get(), true).unwrap().0).await.unwrap();
    file.lines(1).await;
    moved.lines(1).await;
}

#[tokio::test]
async fn lines_that_wait_are_written_before_the_end() {
    let file = LogFile::new();
    let answers = endpoint(|count, _, mut respond| {
        let status = if count % 2 == 0 { 200 } else { 503 };
        let rsp = Response::builder().status(status).body(()).unwrap();
        let _ = respond.send_response(rsp, true);
    });
    let mut settings = file.settings("json").to_vec();
    settings.push(("LINKERD2_PROXY_ACCESS_LOG_ERRORS_ONLY", "true"));
    let mut app = App::start(answers.await, &settings);
    let mut client = connect(app.proxy).await;
    for _ in 0..10 {
        client.send_request(get(), true).unwrap().0.await.unwrap();
    }
    drop(client);
    app.terminate();
    assert!(app.ended().await.success());
    let text = file.text();
    assert_eq!(text.lines().count(), 5, "errors only: {text}");
    assert!(text.lines().all(|line| line.contains("\"status\":503,")), "{text}");
}

#[tokio::test]
async fn a_part_of_the_requests_may_have_lines() {
    const REQUESTS: usize = 400;
    for (sample, expected) in [("0", 0..=0), ("0.5", 100..=300), ("1", REQUESTS..=REQUESTS)] {
        let (file, endpoint) = (LogFile::new(), endpoint_that_answers().await);
        let mut settings = file.settings("json").to_vec();
        settings.push(("LINKERD2_PROXY_ACCESS_LOG_SAMPLE", sample));
        let mut app = App::start(endpoint.addr, &settings);
        let mut client = connect(app.proxy).await;
        for _ in 0..REQUESTS {
            body(client.send_request(get(), true).unwrap().0).await.unwrap();
        }
        drop(client);
        app.terminate();
        assert!(app.ended().await.success());
        let lines = file.text().lines().count();
        // Ten standard deviations.
        assert!(expected.contains(&lines), "{lines} of {REQUESTS} at {sample}");
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_names_in_its_certificate() {
    let (file, clients) = (LogFile::new(), Authority::new("clients"));
    let rig = Rig::start_mutual(&clients, &file.settings("json")).await;
    let identity = clients.issue(&["web.example"]);
    assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap().status, 200);
    let line: Value = serde_json::from_str(&file.lines(1).await[0]).unwrap();
    assert_eq!(line["client.id"], "web.example");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_once() {
    for (path, reason) in [("/nonexistent/folder/log", "No such file"), ("/", "directory")] {
        for args in [&["check"][..], &[]] {
            let mut command = command();
            command.args(args).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
            command.env("LINKERD2_PROXY_ACCESS_LOG", "json").env("LINKERD2_PROXY_ACCESS_LOG_FILE", path);
            let output = command.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{errors}");
            assert!(errors.contains("LINKERD2_PROXY_ACCESS_LOG_FILE: ") && errors.contains(reason), "{errors}");
        }
    }
}

#[test]
fn a_pipe_that_nobody_reads_is_an_error_and_holds_up_nothing() {
    let log = LogFile::new();
    assert!(process::Command::new("mkfifo").arg(&log.0).status().unwrap().success());
    for arguments in [&["check"][..], &[]] {
        let mut command = command();
        command.args(arguments).envs(log.settings("json")).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && stderr.contains("LINKERD2_PROXY_ACCESS_LOG_FILE: "),
            "{arguments:?} {stderr}"
        );
    }
}

#[tokio::test]
async fn heads_that_are_refused_have_a_line_with_the_status() {
    for (format, bad, large) in [
        ("json", "\"version\":\"HTTP/1.1\",\"status\":400,", "\"version\":\"HTTP/2.0\",\"status\":431,"),
        ("apache", "] \"- - HTTP/1.1\" 400 - ", "] \"- - HTTP/2.0\" 431 - "),
    ] {
        let (file, endpoint) = (LogFile::new(), endpoint_that_answers().await);
        let app = App::start(endpoint.addr, &file.settings(format));
        let mut client = TcpStream::connect(app.proxy).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost a\r\n\r\n").await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        let line = file.lines(1).await.remove(0);
        assert!(line.contains(bad) && line.contains("bad_request"), "{line}");
        let mut request = get();
        for _ in 0..80 {
            request.headers_mut().append("x-large", HeaderValue::try_from("x".repeat(1_000)).unwrap());
        }
        assert_eq!(connect(app.proxy).await.send_request(request, true).unwrap().0.await.unwrap().status(), 431);
        let lines = file.lines(2).await;
        assert!(lines[1].contains(large) && lines[1].contains("head_too_large"), "{lines:?}");
    }
}

/// The process goes on at the limit of a file's size, and counts the lines that are lost.
#[tokio::test]
async fn a_file_at_its_size_limit_ends_nothing() {
    let (file, endpoint) = (LogFile::new(), endpoint_that_answers().await);
    let mut shell = Command::new("/bin/sh");
    // Standard error may be a file, which is at the limit already.
    shell.env_clear().args(["-c", "ulimit -f 1 && exec \"$0\" 2>/dev/null", env!("CARGO_BIN_EXE_app")]);
    let app = App::start_by(shell, endpoint.addr, &file.settings("json"));
    let mut client = connect(app.proxy).await;
    let full = async {
        loop {
            body(client.send_request(get(), true).unwrap().0).await.unwrap();
            let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
            let lost =
                metrics.lines().find_map(|line| line.strip_prefix("access_log_lines_lost_total{reason=\"error\"} "));
            if lost.is_some_and(|lost| lost != "0") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("the file fills");
    body(client.send_request(get(), true).unwrap().0).await.unwrap();
}
