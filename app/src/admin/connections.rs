//! The page of open connections, for programs and for people.
//!
//! It is bounded, however many there are: connections with blocked streams come first, and the ones that have been blocked
//! for longest before the others.

use super::table::{plain, seconds, table};
use crate::{metrics::PEERS, worker::Worker};
use http::{HeaderMap, Uri, header};
use proxy_http::stats::{BlockedStream, Connection, FlowStatus, LimitingWindow, WindowLimit, WindowSizes};
use serde_json::{Value, json};
use std::{cmp::Reverse, fmt::Write as _, time::Duration};

/// How the page is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Json,
    Text,
}

/// The connections that the page shows.
#[derive(Debug)]
pub(super) struct Page {
    connections: Vec<Row>,
    left_off: u64,
}

#[derive(Debug)]
struct Row {
    direction: &'static str,
    /// As metrics name it.
    peer: &'static str,
    connection: Connection,
}

/// Connections on one page.
const MAX_CONNECTIONS: usize = 1_000;
/// Blocked streams that one page names.
const MAX_BLOCKED: usize = 10_000;
const HEADINGS: [&str; 13] = [
    "DIRECTION",
    "PEER",
    "ADDRESS",
    "AGE",
    "STREAMS",
    "READ",
    "WRITTEN",
    "GRANTED",
    "BY PEER",
    "RTT",
    "MB/S",
    "HELD",
    "BLOCKED",
];
/// The first columns have words, the others figures.
const WORDS: usize = 3;

// === impl Format ===

impl Format {
    /// The format that a request asks for; JSON if it asks for none. `None`: one that there is not.
    pub(super) fn asked(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let mut formats = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("format="));
        match formats.next_back() {
            Some("json") => Some(Self::Json),
            Some("text") => Some(Self::Text),
            Some(_) => None,
            None => {
                let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
                let types = accept.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
                // The first that there is; weights are left out.
                let known = types.filter_map(|range| match range.trim() {
                    "application/json" => Some(Self::Json),
                    "text/plain" => Some(Self::Text),
                    _ => None,
                });
                Some(known.into_iter().next().unwrap_or(Self::Json))
            }
        }
    }
}

// === impl Page ===

impl Page {
    /// Asks all workers.
    pub(super) fn new(directions: &[&'static str], workers: &[Worker]) -> Self {
        let (mut connections, mut open) = (Vec::new(), 0);
        for worker in workers {
            for (direction, stats) in directions.iter().zip(&worker.stats) {
                for (peer, name) in PEERS {
                    let transport = stats.transport(peer);
                    open += transport.open_connections();
                    let all = transport.connections(MAX_CONNECTIONS).into_iter();
                    connections.extend(all.map(|connection| Row { direction, peer: name, connection }));
                    // After each, so that lines which are not shown are not kept for long.
                    bound(&mut connections);
                }
            }
        }
        let left_off = open.saturating_sub(connections.len() as u64);
        Self { connections, left_off }
    }

    pub(super) fn json(&self) -> String {
        let connections: Vec<_> = self.connections.iter().map(Row::json).collect();
        format!("{:#}\n", json!({ "connections": connections, "left_off": self.left_off }))
    }

    /// A table, with a line for each blocked stream under its connection.
    pub(super) fn text(&self) -> String {
        let rows = self.connections.iter().map(|row| (row.cells(), row.lines()));
        let mut text = table(HEADINGS, WORDS, rows);
        if self.left_off > 0 {
            let _ = writeln!(text, "and {} connections more", self.left_off);
        }
        text
    }
}

// === impl Row ===

impl Row {
    /// The sort key: the connection with the stream that has been blocked for longest first, the oldest first of the others.
    fn place(&self) -> Reverse<(Option<Duration>, bool, Duration)> {
        let http2 = self.connection.http2.as_ref();
        let longest = http2.and_then(|http2| http2.blocked.iter().map(|stream| stream.time).max());
        let is_blocked = http2.is_some_and(|http2| http2.blocked_count > 0);
        Reverse((longest, is_blocked, self.connection.age))
    }

    fn json(&self) -> Value {
        let Connection { peer, age, streams, read_bytes, written_bytes, http2, .. } = &self.connection;
        let windows = |WindowSizes { stream, connection, .. }| json!({ "stream": stream, "connection": connection });
        let http2 = http2.as_ref().map(|http2| {
            let blocked: Vec<_> = http2
                .blocked
                .iter()
                .map(|BlockedStream { id, path, reason, time, .. }| {
                    json!({ "id": id, "path": path, "reason": reason.name(), "seconds": time.as_secs_f64() })
                })
                .collect();
            let limit = http2
                .limited_by_window
                .map(|limit| json!({ "window": window_name(limit), "seconds": limit.time.as_secs_f64() }));
            json!({
                "granted": windows(http2.granted),
                "granted_by_peer": windows(http2.granted_by_peer),
                "round_trip_seconds": http2.round_trip.map(|time| time.as_secs_f64()),
                "bandwidth_bytes_per_second": http2.bandwidth,
                "held_bytes": http2.held_bytes,
                "crowded": http2.is_crowded,
                "limited_by_window": limit,
                "blocked_streams": http2.blocked_count,
                "blocked": blocked,
            })
        });
        json!({
            "direction": self.direction,
            "peer": self.peer,
            "address": peer,
            "age_seconds": age.as_secs_f64(),
            "streams": streams,
            "read_bytes": read_bytes,
            "written_bytes": written_bytes,
            "http2": http2,
        })
    }

    /// A line for each blocked stream, and for a window that limits the connection.
    fn lines(&self) -> String {
        let mut text = String::new();
        let Some(FlowStatus { blocked, blocked_count, limited_by_window, .. }) = &self.connection.http2 else {
            return text;
        };
        for BlockedStream { id, path, reason, time, .. } in blocked {
            let path = path.as_deref().map_or("-".to_owned(), plain);
            let _ = writeln!(text, "    stream {id}  {}  {}  {path}", reason.name(), seconds(*time));
        }
        if *blocked_count > blocked.len() {
            let _ = writeln!(text, "    and {} blocked streams more", blocked_count - blocked.len());
        }
        if let Some(limit) = limited_by_window {
            let _ = writeln!(text, "    limited by our {} window  {}", window_name(*limit), seconds(limit.time));
        }
        text
    }

    fn cells(&self) -> [String; HEADINGS.len()] {
        let Connection { peer, age, streams, read_bytes, written_bytes, http2, .. } = &self.connection;
        let none = || "-".to_owned();
        let windows = |WindowSizes { stream, connection, .. }| format!("{stream}/{connection}");
        let of = |cell: &dyn Fn(&FlowStatus) -> Option<String>| http2.as_ref().and_then(cell).unwrap_or_else(none);
        [
            self.direction.to_owned(),
            self.peer.to_owned(),
            peer.as_deref().map_or_else(none, plain),
            seconds(*age),
            streams.to_string(),
            read_bytes.to_string(),
            written_bytes.to_string(),
            of(&|http2| Some(windows(http2.granted))),
            of(&|http2| Some(windows(http2.granted_by_peer))),
            of(&|http2| http2.round_trip.map(|time| format!("{:.1}ms", time.as_secs_f64() * 1e3))),
            of(&|http2| http2.bandwidth.map(|bandwidth| format!("{:.1}", bandwidth as f64 / 1e6))),
            of(&|http2| Some(format!("{}{}", http2.held_bytes, if http2.is_crowded { " (crowded)" } else { "" }))),
            of(&|http2| Some(http2.blocked_count.to_string())),
        ]
    }
}

/// Keeps as many connections and names of blocked streams as a page may have.
fn bound(connections: &mut Vec<Row>) {
    connections.sort_by_cached_key(Row::place);
    connections.truncate(MAX_CONNECTIONS);
    let mut left = MAX_BLOCKED;
    for http2 in connections.iter_mut().filter_map(|row| row.connection.http2.as_mut()) {
        http2.blocked.truncate(left);
        left -= http2.blocked.len();
    }
}

fn window_name(limit: WindowLimit) -> &'static str {
    match limit.window {
        LimitingWindow::Stream => "stream",
        LimitingWindow::Connection => "connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_unless_text_is_asked_for() {
        let check = |query: &str, accept: &'static str, expect| {
            let uri = format!("/connections{query}").parse().unwrap();
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(Format::asked(&uri, &headers), expect, "{query} {accept}");
        };
        check("", "*/*", Some(Format::Json));
        check("", "text/html,text/plain;q=0.9,*/*;q=0.8", Some(Format::Text));
        check("", "application/json, text/plain", Some(Format::Json));
        check("?format=text", "application/json", Some(Format::Text));
        check("?a=b&format=json", "text/plain", Some(Format::Json));
        check("?format=xml", "*/*", None);
    }

    #[test]
    fn a_terminal_obeys_nothing_of_a_peer() {
        assert_eq!(plain("/a\u{1b}[2J\u{7f}é"), "/a?[2J?é");
    }
}
