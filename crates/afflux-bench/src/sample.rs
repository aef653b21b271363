//! Medians, percentiles and interleaved rounds.

use std::time::Duration;

use anyhow::Result;

/// Runs both sides in turn, `rounds` times, and returns the median of each.
pub(crate) fn interleaved(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<(f64, f64)> {
    let mut samples = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Neither side always comes first, into a colder cache or a fuller disk.
        if round.is_multiple_of(2) {
            samples.0.push(ours()?);
            samples.1.push(theirs()?);
        } else {
            samples.1.push(theirs()?);
            samples.0.push(ours()?);
        }
    }
    Ok((median(&mut samples.0), median(&mut samples.1)))
}

/// The middle of the values, or of the two in the middle; NaN of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// Durations, for percentiles.
#[derive(Debug, Default, Clone)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The least duration that `percent` of all are not above, in milliseconds; NaN of none.
    pub(crate) fn percentile_millis(&mut self, percent: f64) -> f64 {
        self.0.sort_unstable();
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        let found = self.0.get(rank.saturating_sub(1));
        found.map_or(f64::NAN, |duration| duration.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        for (mut values, expected) in
            [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 100.0], 3.5)]
        {
            assert!((median(&mut values) - expected).abs() < 1e-9, "{values:?}");
        }
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut durations = Durations::default();
        assert!(durations.percentile_millis(50.0).is_nan());
        for millis in (1..=100).rev() {
            durations.push(Duration::from_millis(millis));
        }
        for (percent, expected) in [(50.0, 50.0), (99.0, 99.0), (99.1, 100.0), (100.0, 100.0)] {
            assert!((durations.percentile_millis(percent) - expected).abs() < 1e-9, "{percent}");
        }
    }

    #[test]
    fn sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char| {
            order.borrow_mut().push(name);
            Ok(order.borrow().len() as f64)
        };
        let (ours, theirs) = interleaved(3, || side('a'), || side('b')).unwrap();
        assert_eq!(order.into_inner(), "abbaab");
        assert!((ours - 4.0).abs() < 1e-9 && (theirs - 3.0).abs() < 1e-9);
    }
}
