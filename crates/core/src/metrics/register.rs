//! Makes metrics and registers them. A label's values are all known beforehand: every series exists from the
//! start, as rates need the zero, and nobody outside can add one.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// Registers metrics by fixed names.
///
/// # Panics
///
/// Every method does if a name is invalid or taken, which every test that starts a server would show.
pub(super) struct Register<'a>(pub(super) &'a Registry);

#[expect(
    clippy::expect_used,
    reason = "names and labels are fixed; every test that starts a server checks them"
)]
impl Register<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Opts::new(name, help)).expect("the name is valid"))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Opts::new(name, help)).expect("the name is valid"))
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let family =
            self.add(IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is valid"));
        for value in values {
            let _ = family.with_label_values(&[value]);
        }
        family
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntGaugeVec {
        let family = self.add(IntGaugeVec::new(Opts::new(name, help), &[label]).expect("the name is valid"));
        for value in values {
            let _ = family.with_label_values(&[value]);
        }
        family
    }

    /// A counter of seconds, or of something else that comes in parts.
    pub(super) fn sums(&self, name: &str, help: &str, label: &str, values: &[&str]) -> CounterVec {
        let family = self.add(CounterVec::new(Opts::new(name, help), &[label]).expect("the name is valid"));
        for value in values {
            let _ = family.with_label_values(&[value]);
        }
        family
    }

    /// Histograms, one for each value, in the order of the values.
    pub(super) fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        label: &str,
        values: [&str; N],
    ) -> [Histogram; N] {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let family = self.add(HistogramVec::new(options, &[label]).expect("the name is valid"));
        values.map(|value| family.with_label_values(&[value]))
    }

    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("the name is unique");
        collector
    }
}
