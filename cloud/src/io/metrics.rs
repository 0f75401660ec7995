//! What the service counts and times, by Prometheus' conventions: base units (seconds, bytes), `_total` on counters.
//!
//! Nothing here has a label whose values come from outside: reasons, codes and lanes are names of ours, so the number of
//! series is bounded. Counters begin at 0 with the service, but for `simquota_journal_entries_total`, which is the
//! journal's own. `cloud/OPERATIONS.md` says what each is good for; a test holds dashboard and alerts against a scrape.

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::ledger::Ledger;
use crate::ledger::account::{Account, Pocket, Slot};
use crate::ledger::entry::{Cause, Entry};

/// From half a millisecond, below which no disk syncs, to ten seconds, when a device has given up.
const LATENCY_S: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const BATCH_MESSAGES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// Everything that a scrape shows.
pub struct Metrics {
    registry: Registry,
    /// Messages taken from the broker, by `lane`.
    pub received: IntCounterVec,
    /// Messages refused, by `reason`.
    pub refused: IntCounterVec,
    /// Messages that found no place on the line, or in the queue.
    pub unsent: IntCounter,
    /// Credit requests decided, by result `code`.
    pub decided: IntCounterVec,
    /// From a credit request's arrival to its answer being handed to the connection.
    pub grant: Histogram,
    /// Messages that shared one sync.
    pub batch: Histogram,
    /// Writing a batch's entries and syncing them.
    pub sync: Histogram,
    /// The journal's length.
    pub entries: IntCounter,
    /// Octets debited by usage, to packages, debt and control.
    pub charged: IntCounter,
    /// Octets that packages hold for grants.
    pub reserved: Gauge,
    /// Octets that may still be granted.
    pub available: Gauge,
    /// Octets that no package covers.
    pub debt: Gauge,
    /// Devices known.
    pub devices: IntGauge,
    /// SIMs that nobody has.
    pub sims_free: IntGauge,
    /// Messages that wait for the pipeline, by `lane`.
    pub queue: IntGaugeVec,
    /// Their octets.
    pub queue_bytes: IntGaugeVec,
    /// Connections that stand, by `lane`.
    pub connected: IntGaugeVec,
    /// Subscriptions that deliver nothing, by `lane`.
    pub silent: IntGaugeVec,
    /// 1 while the store takes no writes.
    pub read_only: IntGauge,
    /// 1 when leases and packages end no more.
    pub sweeper_stopped: IntGauge,
    /// Entries since the last checkpoint.
    pub checkpoint_lag: IntGauge,
    /// Events that the broker has not given back yet.
    pub events_pending: IntGauge,
    /// Events that wait for a receiver, by `hook`.
    pub hook_pending: IntGaugeVec,
    /// Tries to deliver, by `hook` and `outcome` (`delivered`, `failed`).
    pub hook_tries: IntCounterVec,
    /// Requests over HTTP, by `path` and status `code`.
    pub http: IntCounterVec,
}

/// Names and registers, and keeps the first mistake.
struct Maker(Registry);

type Made<T> = Result<T, prometheus::Error>;

impl Maker {
    fn put<T: prometheus::core::Collector + Clone + 'static>(&self, made: Made<T>) -> Made<T> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.put(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.put(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.put(IntGauge::new(name, help))
    }

    fn octets(&self, name: &str, help: &str) -> Made<Gauge> {
        self.put(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Made<IntGaugeVec> {
        self.put(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<Histogram> {
        self.put(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }
}

impl Metrics {
    /// All of them, at 0.
    ///
    /// # Errors
    /// When a name is no name or is there twice: a defect.
    pub fn new() -> Result<Self, prometheus::Error> {
        let m = Maker(Registry::new());
        let build = m.gauges(
            "simquota_build_info",
            "Always 1; the version of the service is its label.",
            "version",
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let made = Self {
            received: m.counters(
                "simquota_messages_received_total",
                "Messages taken from the broker.",
                &["lane"],
            )?,
            refused: m.counters(
                "simquota_messages_refused_total",
                "Messages refused, with the reason that ops/rejected names.",
                &["reason"],
            )?,
            unsent: m.counter(
                "simquota_messages_unsent_total",
                "Messages dropped because there was no place for them; devices ask again.",
            )?,
            decided: m.counters(
                "simquota_credit_decisions_total",
                "Credit requests decided, by result code.",
                &["code"],
            )?,
            grant: m.histogram(
                "simquota_grant_seconds",
                "From a credit request's arrival to its answer being handed to the connection.",
                LATENCY_S,
            )?,
            batch: m.histogram(
                "simquota_batch_messages",
                "Messages that shared one sync of the disk.",
                BATCH_MESSAGES,
            )?,
            sync: m.histogram(
                "simquota_journal_sync_seconds",
                "Writing a batch of entries to the journal, its sync included.",
                LATENCY_S,
            )?,
            entries: m.counter(
                "simquota_journal_entries_total",
                "Entries of the journal since it began.",
            )?,
            charged: m.counter(
                "simquota_charged_bytes_total",
                "Octets debited by usage, to packages, debt and control.",
            )?,
            reserved: m.octets(
                "simquota_reserved_bytes",
                "Octets that packages hold for grants.",
            )?,
            available: m.octets(
                "simquota_available_bytes",
                "Octets of packages that may still be granted.",
            )?,
            debt: m.octets(
                "simquota_debt_bytes",
                "Octets used that no package covers yet.",
            )?,
            devices: m.gauge("simquota_devices", "Devices known.")?,
            sims_free: m.gauge("simquota_sims_free", "SIMs of the pool that no device has.")?,
            queue: m.gauges(
                "simquota_queue_messages",
                "Messages that wait for the pipeline.",
                "lane",
            )?,
            queue_bytes: m.gauges(
                "simquota_queue_bytes",
                "Octets of the messages that wait for the pipeline.",
                "lane",
            )?,
            connected: m.gauges(
                "simquota_broker_connected",
                "1 while the connection to the broker stands.",
                "lane",
            )?,
            silent: m.gauges(
                "simquota_subscription_silent",
                "1 while a subscription was granted and delivers nothing.",
                "lane",
            )?,
            read_only: m.gauge(
                "simquota_read_only",
                "1 while the store takes no writes and nothing is promised.",
            )?,
            sweeper_stopped: m.gauge(
                "simquota_sweeper_stopped",
                "1 when leases and packages do not end any more.",
            )?,
            checkpoint_lag: m.gauge(
                "simquota_checkpoint_lag_entries",
                "Entries after the last checkpoint: what a restart reads.",
            )?,
            events_pending: m.gauge(
                "simquota_events_pending",
                "Events that the broker has not given back yet.",
            )?,
            hook_pending: m.gauges(
                "simquota_hook_events_pending",
                "Events that wait for a receiver of web hooks; at most 1000 are kept in memory.",
                "hook",
            )?,
            hook_tries: m.counters(
                "simquota_hook_tries_total",
                "Tries to deliver an event to a receiver of web hooks.",
                &["hook", "outcome"],
            )?,
            http: m.counters(
                "simquota_http_requests_total",
                "Requests over HTTP.",
                &["path", "code"],
            )?,
            registry: m.0,
        };
        // A series that is not there is no rate of 0: what can be known of labels is there from the start.
        for reason in ["forged", "damaged", "rate-limited", "read-only"] {
            made.refused.with_label_values(&[reason]);
        }
        for code in ["2001", "4012"] {
            made.decided.with_label_values(&[code]);
        }
        made.http.with_label_values(&["/metrics", "200"]);
        for lane in ["control", "usage"] {
            made.received.with_label_values(&[lane]);
            for gauge in [
                &made.queue,
                &made.queue_bytes,
                &made.connected,
                &made.silent,
            ] {
                gauge.with_label_values(&[lane]).set(0);
            }
        }
        Ok(made)
    }

    /// The text of a scrape (`text/plain; version=0.0.4`).
    ///
    /// # Errors
    /// When a metric is not whole: a defect.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts entries that have just become durable.
    pub(crate) fn durable(&self, entries: &[Entry]) {
        for entry in entries {
            match &entry.cause {
                Cause::Credit(credit) => {
                    let code = credit.code.0.to_string();
                    self.decided.with_label_values(&[&code]).inc();
                }
                Cause::Usage(_) | Cause::Closed(_) => self.charged.inc_by(charged(entry)),
                _ => {}
            }
        }
    }

    /// What the ledger adds up to. It walks over packages and devices: once in a few seconds.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a gauge is a picture, not a balance"
    )]
    pub(crate) fn look(&self, ledger: &Ledger) {
        let (mut reserved, mut available) = (0.0, 0.0);
        for package in ledger.packages.values() {
            reserved += package.balances.reserved.value() as f64;
            available += package.balances.available.value() as f64;
        }
        let debt = ledger.devices.values();
        let debt: f64 = debt.map(|device| device.debt.value() as f64).sum();
        self.reserved.set(reserved);
        self.available.set(available);
        self.debt.set(debt);
        self.devices.set(whole(ledger.devices.len()));
        self.sims_free.set(whole(ledger.index.free_sims.len()));
        let before = self.entries.get();
        self.entries
            .inc_by(ledger.last.value().saturating_sub(before));
    }
}

/// A count as a gauge takes it.
pub(crate) fn whole(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn charged(entry: &Entry) -> u64 {
    let debits = entry.moves.iter().filter(|movement| {
        matches!(
            movement.to,
            Account::Package(_, Pocket::Used) | Account::Device(_, Slot::Debt | Slot::Control)
        )
    });
    debits.map(|movement| movement.octets.value()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_scrape_names_each_metric_with_its_help() {
        let metrics = Metrics::new().unwrap();
        metrics.refused.with_label_values(&["forged"]).inc();
        metrics.grant.observe(0.003);
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        for line in [
            "# TYPE simquota_grant_seconds histogram",
            "simquota_grant_seconds_bucket{le=\"0.005\"} 1",
            "simquota_grant_seconds_bucket{le=\"0.0025\"} 0",
            "simquota_messages_refused_total{reason=\"forged\"} 1",
            "simquota_broker_connected{lane=\"usage\"} 0",
            "simquota_read_only 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
