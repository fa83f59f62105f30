//! How a link changes over time.

use serde::{Deserialize, Serialize};
use std::{f64::consts::TAU, fmt, time::Duration};

/// How bandwidth and delay change over time, as factors of the direction's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// They do not change.
    #[default]
    Steady,
    /// From `after` on they are multiplied, for good.
    Step {
        /// How long the link stays as it is.
        after: Duration,
        /// The factor of bandwidth from then on.
        bandwidth: f64,
        /// The factor of delay from then on.
        delay: f64,
    },
    /// They swing around the direction's values, delay against bandwidth.
    Sine {
        /// How long one swing takes.
        period: Duration,
        /// How far bandwidth swings, as a share of it in 0 to 1.
        bandwidth: f64,
        /// How far delay swings, as a share of it in 0 to 1.
        delay: f64,
    },
    /// Bandwidth is lost for a while, again and again; first after one full interval without.
    Dip {
        /// From the start of one dip to that of the next.
        every: Duration,
        /// How long a dip lasts.
        lasting: Duration,
        /// The factor of bandwidth meanwhile.
        bandwidth: f64,
    },
}

/// Factors of a direction's bandwidth and delay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of bandwidth; never below [`Factors::LEAST`].
    pub bandwidth: f64,
    /// Of delay; never negative.
    pub delay: f64,
}

// === impl Profile ===

impl Profile {
    /// The profile that the plan means by a name.
    pub fn named(name: &str) -> Option<Self> {
        let ms = Duration::from_millis;
        match name {
            "steady" => Some(Self::Steady),
            // In the middle of the measured time: two seconds after a warm-up of one.
            "step" => Some(Self::Step { after: ms(2_000), bandwidth: 1.0, delay: 4.0 }),
            "sine" => Some(Self::Sine { period: ms(1_000), bandwidth: 0.8, delay: 0.8 }),
            "dip" => Some(Self::Dip { every: ms(500), lasting: ms(150), bandwidth: 0.1 }),
            _ => None,
        }
    }

    /// The factors `at` after the start of the link.
    pub fn at(&self, at: Duration) -> Factors {
        let Factors { bandwidth, delay } = match *self {
            Self::Step { after, bandwidth, delay } if at >= after => Factors { bandwidth, delay },
            Self::Sine { period, bandwidth, delay } => {
                let swing = (at.as_secs_f64() / period.as_secs_f64() * TAU).sin();
                Factors { bandwidth: 1.0 + bandwidth * swing, delay: 1.0 - delay * swing }
            }
            Self::Dip { every, lasting, bandwidth }
                if at >= every && at.as_secs_f64() % every.as_secs_f64() < lasting.as_secs_f64() =>
            {
                Factors { bandwidth, delay: 1.0 }
            }
            Self::Steady | Self::Step { .. } | Self::Dip { .. } => Factors { bandwidth: 1.0, delay: 1.0 },
        };
        Factors { bandwidth: bandwidth.max(Factors::LEAST), delay: delay.max(0.0) }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Step { .. } => "step",
            Self::Sine { .. } => "sine",
            Self::Dip { .. } => "dip",
        })
    }
}

// === impl Factors ===

impl Factors {
    /// The least factor of bandwidth: a link that carries nothing would never end.
    pub const LEAST: f64 = 0.001;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(profile: &Profile, ms: u64, bandwidth: f64, delay: f64) {
        let got = profile.at(Duration::from_millis(ms));
        assert!(
            (got.bandwidth - bandwidth).abs() < 1e-6 && (got.delay - delay).abs() < 1e-6,
            "{profile:?} at {ms} ms: {got:?}"
        );
    }

    #[test]
    fn step_changes_once() {
        let step = Profile::Step { after: Duration::from_millis(100), bandwidth: 0.5, delay: 2.0 };
        check(&step, 99, 1.0, 1.0);
        check(&step, 100, 0.5, 2.0);
        check(&step, 10_000, 0.5, 2.0);
    }

    #[test]
    fn sine_swings_delay_against_bandwidth() {
        let sine = Profile::Sine { period: Duration::from_millis(400), bandwidth: 0.5, delay: 0.25 };
        check(&sine, 0, 1.0, 1.0);
        check(&sine, 100, 1.5, 0.75);
        check(&sine, 300, 0.5, 1.25);
    }

    #[test]
    fn dip_comes_back_and_goes() {
        let dip =
            Profile::Dip { every: Duration::from_millis(100), lasting: Duration::from_millis(20), bandwidth: 0.1 };
        check(&dip, 0, 1.0, 1.0);
        check(&dip, 110, 0.1, 1.0);
        check(&dip, 150, 1.0, 1.0);
        check(&dip, 210, 0.1, 1.0);
    }

    #[test]
    fn bandwidth_never_ends() {
        let lost = Profile::Step { after: Duration::ZERO, bandwidth: 0.0, delay: -1.0 };
        check(&lost, 1, Factors::LEAST, 0.0);
    }
}
