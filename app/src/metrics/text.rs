//! The text format of Prometheus, for scrapers that do not ask for OpenMetrics.

/// Turns OpenMetrics text into Prometheus's own, version 0.0.4: there a counter's name ends in `_total` where its help and type
/// are said, too, and nothing says the end.
pub(crate) fn to_plain_text(openmetrics: &str) -> String {
    let mut plain = String::with_capacity(openmetrics.len() + 1_024);
    let mut help = None;
    for line in openmetrics.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let declared = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        let Some((name, kind)) = declared else {
            plain.extend([line, "\n"]);
            continue;
        };
        let suffix = if kind == "counter" { "_total" } else { "" };
        let kind = if kind == "unknown" { "untyped" } else { kind };
        if let Some(text) = help.take().and_then(|help| help.strip_prefix("# HELP ")?.strip_prefix(name)) {
            plain.extend(["# HELP ", name, suffix, text, "\n"]);
        }
        plain.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_end_in_total_and_nothing_says_the_end() {
        let openmetrics = "# HELP request Requests.\n# TYPE request counter\nrequest_total{a=\"# EOF\"} 1\n\
                           # HELP open Open.\n# TYPE open gauge\nopen 2\n# HELP s Time.\n# TYPE s histogram\n\
                           # UNIT s seconds\ns_sum 0.5\n# EOF\n";
        let plain = "# HELP request_total Requests.\n# TYPE request_total counter\nrequest_total{a=\"# EOF\"} 1\n\
                     # HELP open Open.\n# TYPE open gauge\nopen 2\n# HELP s Time.\n# TYPE s histogram\ns_sum 0.5\n";
        assert_eq!(to_plain_text(openmetrics), plain);
    }
}
