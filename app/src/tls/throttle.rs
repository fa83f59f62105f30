//! Log lines that strangers cause.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Lets one line pass a second; so clients cannot fill the log by connecting.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

const PAUSE: Duration = Duration::from_secs(1);

impl Throttle {
    pub(crate) fn admits(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admits = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if admits {
            *last = Some(now);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_passes_a_second() {
        let throttle = Throttle::default();
        assert!(throttle.admits() && !throttle.admits());
        tokio::time::advance(PAUSE / 2).await;
        assert!(!throttle.admits());
        tokio::time::advance(PAUSE / 2).await;
        assert!(throttle.admits() && !throttle.admits());
    }
}
