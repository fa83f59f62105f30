//! Log lines that strangers cause.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Lets one line of a kind pass a second; so clients cannot fill the log by connecting.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<LastLine>);

#[derive(Debug, Default)]
struct LastLine {
    at: Option<Instant>,
    left_out: u64,
}

const PAUSE: Duration = Duration::from_secs(1);

impl Throttle {
    /// Whether a line may be logged now, and how many were left out since the last one. `None`: it may not.
    pub(crate) fn admits(&self) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            last.left_out += 1;
            return None;
        }
        last.at = Some(now);
        Some(mem::take(&mut last.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_passes_a_second() {
        let throttle = Throttle::default();
        assert_eq!((throttle.admits(), throttle.admits()), (Some(0), None));
        tokio::time::advance(PAUSE / 2).await;
        assert_eq!(throttle.admits(), None);
        tokio::time::advance(PAUSE / 2).await;
        assert_eq!((throttle.admits(), throttle.admits()), (Some(2), None));
    }
}
