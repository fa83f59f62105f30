//! Pauses between attempts to connect.

use std::time::Duration;

/// Pauses between attempts to connect: from `min`, doubled each time, up to `max`, which wins if `min` is longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first pause. Default: 100 ms.
    pub min: Duration,
    /// The longest pause, before jitter. Default: 10 s.
    pub max: Duration,
    /// The largest part of a pause that is added to it at random: 0.1 makes 1 s last up to 1.1 s. Default: 0.1; below
    /// zero counts as zero.
    pub jitter: f64,
}

// === impl Backoff ===

impl Default for Backoff {
    /// 100 ms to 10 s, with a tenth of jitter.
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.1 }
    }
}

impl Backoff {
    /// The pause before the next attempt. `failures`: failed attempts in a row before the last one.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let pause = self.min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.max);
        pause + pause.mul_f64(self.jitter.max(0.0) * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let pauses: Vec<_> = (0..6).map(|failures| backoff.pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(u32::MAX), backoff.max);
    }

    #[test]
    fn jitter_only_adds() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(1), jitter: 0.5 };
        for _ in 0..100 {
            let pause = backoff.pause(0);
            assert!((Duration::from_secs(1)..=Duration::from_millis(1500)).contains(&pause), "{pause:?}");
        }
    }
}
