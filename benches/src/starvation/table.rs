//! The table of scenes, of which the report is made.

use super::{Beside, Rss, Scene, Traffic};
use crate::{
    load::Workload,
    matrix::{Latency, Record},
    report::Spread,
};
use std::fmt::Write as _;

/// The results of scenes, in the order in which they were first measured.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<(Scene, Vec<Beside>)>,
}

// === impl Table ===

impl Table {
    /// Adds another run, which replaces earlier measurements of its scenes.
    pub fn add_run(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut new: Vec<(Scene, Vec<Beside>)> = Vec::new();
        for record in records {
            if let Record::Starvation { scene, sample: Ok(sample), .. } = record {
                match new.iter_mut().find(|(other, _)| *other == scene) {
                    Some((_, samples)) => samples.push(sample),
                    None => new.push((scene, vec![sample])),
                }
            }
        }
        for (scene, samples) in new {
            match self.rows.iter_mut().find(|(other, _)| *other == scene) {
                Some(row) => row.1 = samples,
                None => self.rows.push((scene, samples)),
            }
        }
    }

    /// Leaves out all other scenes.
    pub(super) fn retain(&mut self, scenes: &[Scene]) {
        self.rows.retain(|(scene, _)| scenes.contains(scene));
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The scenes, each with its measurements.
    pub fn rows(&self) -> impl Iterator<Item = (&Scene, &[Beside])> {
        self.rows.iter().map(|(scene, samples)| (scene, samples.as_slice()))
    }

    /// Markdown: a row for each scene, of medians.
    pub fn markdown(&self) -> String {
        let mut text = "| stopped | windows | MB/s without | with | share | small requests | P50 ms without | with | P99 ms without | with | RSS MiB start | peak | after |\n| --- | --- |".to_owned();
        _ = writeln!(text, "{}", " ---: |".repeat(11));
        for (scene, samples) in &self.rows {
            let figure = |figure: &dyn Fn(&Beside) -> Option<f64>| Spread::median_of(samples.iter().filter_map(figure));
            let show =
                |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
            let latency = |of: fn(&Beside) -> &Traffic, at: fn(&Latency) -> u64| {
                show(figure(&|sample| Some(at(&of(sample).latency_us?) as f64 / 1e3)), 1)
            };
            let mib = |of: fn(&Rss) -> u64| show(figure(&|sample| Some(of(&sample.rss) as f64 / 1024.0)), 0);
            let kind = if scene.workload == Workload::Upload { "uploads" } else { "readers" };
            let least = samples.iter().map(|sample| sample.with.ok()).min().unwrap_or_default();
            let sent = samples.first().map_or(0, |sample| sample.with.requests);
            let columns = [
                format!("{} {kind}", scene.readers),
                scene.setting(),
                show(figure(&|sample| Some(sample.without.megabytes_per_second)), 1),
                show(figure(&|sample| Some(sample.with.megabytes_per_second)), 1),
                show(figure(&|sample| Some(sample.share())), 2),
                format!("{least} of {sent}"),
                latency(|sample| &sample.without, |at| at.p50),
                latency(|sample| &sample.with, |at| at.p50),
                latency(|sample| &sample.without, |at| at.p99),
                latency(|sample| &sample.with, |at| at.p99),
                mib(|rss| rss.start),
                mib(|rss| rss.peak),
                mib(|rss| rss.after),
            ];
            _ = writeln!(text, "| {} |", columns.join(" | "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::starvation::{Stop, tests::scene};

    #[test]
    fn table_has_the_least_of_the_answered_and_medians_of_the_rest() {
        let sample = |rate, ok, peak| Beside {
            without: Traffic { megabytes_per_second: 100.0, ..Traffic::default() },
            with: Traffic {
                megabytes_per_second: rate,
                requests: 10,
                ends: [("ok".to_owned(), ok)].into(),
                ..Traffic::default()
            },
            rss: Rss { peak, ..Rss::default() },
            ..Beside::default()
        };
        let record = |round, sample| Record::Starvation {
            scene: scene(Workload::Download, 64, Stop::Window),
            round,
            sample: Ok(sample),
        };
        let mut table = Table::default();
        table.add_run([
            record(0, sample(90.0, 10, 2 << 10)),
            record(1, sample(50.0, 9, 9 << 10)),
            record(2, sample(95.0, 10, 3 << 10)),
        ]);
        let text = table.markdown();
        assert!(text.contains("| 64 readers | adaptive 2each | 100.0 | 90.0 | 0.90 | 9 of 10 |"), "{text}");
        assert!(text.contains("| 0 | 3 | 0 |"), "{text}");
    }
}
