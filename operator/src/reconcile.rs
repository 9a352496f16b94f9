//! The loop of a leader: observe, plan, write what differs, wait for news.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tensorpool_crds::{TensorPoolClass, TensorPoolClassSpec, Time, field_manager};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::DriverLife;
use crate::caches::Caches;
use crate::changes::{Change, Part, Target, changes};
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::metrics::Metrics;
use crate::plan::plan;
use crate::stop::Stop;
use crate::write::{WriteError, reference, write};

/// Events of this time are answered together.
const GATHER: Duration = Duration::from_millis(200);
/// Without any news everything is looked at again after this.
const AT_LEAST: Duration = Duration::from_secs(30);
/// How often the loop shows that it lives while it waits.
const BEAT: Duration = Duration::from_secs(5);
/// Writes at one time.
const WRITES: usize = 8;
/// First pause after a write that failed; doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The default class, created while there is none of its name.
#[derive(Clone, Debug)]
pub struct DefaultClass {
    /// Its name.
    pub name: String,
    /// What it offers.
    pub spec: TensorPoolClassSpec,
}

/// A leader at work.
pub(crate) struct Reconciler {
    pub(crate) client: Client,
    pub(crate) caches: Arc<Caches>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) default_class: Option<DefaultClass>,
    pub(crate) identity: String,
}

/// Writes that failed lately, and when each may be tried again.
#[derive(Debug, Default)]
struct Pauses(BTreeMap<Target, (Instant, Duration)>);

impl Pauses {
    fn holds(&self, target: &Target, now: Instant) -> bool {
        self.0.get(target).is_some_and(|(until, _)| *until > now)
    }

    /// `asked` is how long the API server asks for, if it does.
    fn failed(&mut self, target: &Target, now: Instant, asked: Option<Duration>) {
        let last = self.0.get(target).map(|(_, pause)| *pause);
        let pause = last.map_or(FIRST_PAUSE, |last| last * 2);
        let pause = pause.max(asked.unwrap_or_default()).min(LAST_PAUSE);
        self.0.insert(target.clone(), (now + pause, pause));
    }

    fn succeeded(&mut self, target: &Target) {
        self.0.remove(target);
    }

    /// Forgets what has not been tried again for long: its object is gone, or somebody else mended it.
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (until, _)| *until + LAST_PAUSE > now);
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        let later = self.0.values().map(|(until, _)| *until);
        later.filter(|until| *until > now).min()
    }
}

impl Reconciler {
    /// Works until `stop` is raised, and ends between two writes.
    pub(crate) async fn run(self, mut stop: Stop) {
        self.metrics.leads(true);
        let reporter = Reporter {
            controller: field_manager::OPERATOR.to_owned(),
            instance: Some(self.identity.clone()),
        };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let mut heartbeats = Heartbeats::default();
        let mut pauses = Pauses::default();
        tokio::select! {
            () = stop.raised() => {}
            () = self.health.ready() => {}
        }
        while !stop.is_raised() {
            self.health.beat();
            self.ensure_default_class().await;
            let now = Instant::now();
            let (observed, labels) = self.caches.observe(&mut heartbeats, now);
            // A large cluster takes a while to plan; the lease is renewed meanwhile.
            let planning = spawn_blocking(move || {
                let planned = plan(&observed);
                (observed, planned)
            });
            let (observed, planned) = match planning.await {
                Ok(both) => both,
                Err(error) => resume_unwind(error.into_panic()),
            };
            self.metrics.planned(&planned, now.elapsed());
            let time = Time(Timestamp::now());
            let todo = changes(&observed, &planned, &labels, &time);
            self.write_all(todo, &mut pauses, &recorder, &stop).await;
            let now = Instant::now();
            pauses.forget(now);
            let wake = [pauses.next(now), heartbeats.next_change(now)];
            let wake = wake.into_iter().flatten().min();
            let most = wake.map_or(AT_LEAST, |at| (at - now).min(AT_LEAST));
            let lives = observed.nodes.iter().map(|it| (it.name.clone(), it.driver));
            self.wait(most, lives.collect(), &mut heartbeats, &mut stop)
                .await;
        }
        self.metrics.leads(false);
    }

    /// Until something changes, a driver falls silent or speaks again, it is time, or everything ends.
    async fn wait(
        &self,
        most: Duration,
        lives: BTreeMap<String, DriverLife>,
        heartbeats: &mut Heartbeats,
        stop: &mut Stop,
    ) {
        let deadline = Instant::now() + most;
        while Instant::now() < deadline {
            self.health.beat();
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                () = stop.raised() => return,
                () = self.caches.changed.notified() => {
                    tokio::select! {
                        () = stop.raised() => {}
                        () = sleep(GATHER) => {}
                    }
                    return;
                }
                () = sleep(BEAT.min(left)) => {
                    let nodes = lives.keys().cloned();
                    if self.caches.lives(nodes, heartbeats, Instant::now()) != lives {
                        return;
                    }
                }
            }
        }
    }

    /// Part by part, so that a stream is persisted before a node hears of it. A node does not hear of a
    /// stream whose finalizer or status is not written yet.
    async fn write_all(
        &self,
        todo: Vec<Change>,
        pauses: &mut Pauses,
        recorder: &Recorder,
        stop: &Stop,
    ) {
        let mut unwritten: BTreeSet<String> = BTreeSet::new();
        for part in Part::ALL {
            let now = Instant::now();
            let mut ready = Vec::new();
            for change in todo.iter().filter(|change| change.target.part == part) {
                let blocked = change.introduces.iter().any(|uid| unwritten.contains(uid));
                if stop.is_raised() || blocked || pauses.holds(&change.target, now) {
                    unwritten.extend(change.stream.clone());
                } else {
                    ready.push(change);
                }
            }
            let written = stream::iter(ready).map(|change| async move {
                let result = write(&self.client, change).await;
                self.health.beat();
                (change, result)
            });
            let written: Vec<_> = written.buffer_unordered(WRITES).collect().await;
            for (change, result) in written {
                self.account(change, &result, pauses);
                // The status comes with the next plan, once the mark has been seen.
                if result.is_err() || part == Part::Mark {
                    unwritten.extend(change.stream.clone());
                }
                if result.is_ok() {
                    self.tell(change, recorder).await;
                }
            }
        }
    }

    fn account(&self, change: &Change, result: &Result<(), WriteError>, pauses: &mut Pauses) {
        let Target {
            part,
            namespace,
            name,
        } = &change.target;
        let namespace = namespace.as_deref().unwrap_or_default();
        match result {
            Ok(()) => {
                self.metrics.wrote(part.label(), "written");
                tracing::info!(part = part.label(), namespace, name, "written");
                pauses.succeeded(&change.target);
            }
            Err(error) => {
                self.metrics.wrote(part.label(), error.reason());
                let cause: &dyn std::error::Error = error;
                if error.is_stale() {
                    tracing::debug!(
                        part = part.label(),
                        namespace,
                        name,
                        error = cause,
                        "out of date"
                    );
                } else {
                    tracing::warn!(
                        part = part.label(),
                        namespace,
                        name,
                        error = cause,
                        "not written"
                    );
                }
                pauses.failed(&change.target, Instant::now(), error.retry_after());
            }
        }
    }

    /// Events for people. One that cannot be written is in the log; the status has it all the same.
    async fn tell(&self, change: &Change, recorder: &Recorder) {
        for news in &change.news {
            let event = Event {
                type_: if news.is_good {
                    EventType::Normal
                } else {
                    EventType::Warning
                },
                reason: news.reason.to_owned(),
                note: Some(news.note.chars().take(1_000).collect()),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &reference(change)).await {
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(
                    error = cause,
                    reason = news.reason,
                    "an event was not written"
                );
            }
        }
    }

    async fn ensure_default_class(&self) {
        let Some(DefaultClass { name, spec }) = &self.default_class else {
            return;
        };
        if self.caches.has_class(name) {
            return;
        }
        let api: Api<TensorPoolClass> = Api::all(self.client.clone());
        let parameters = PostParams {
            field_manager: Some(field_manager::OPERATOR.to_owned()),
            ..PostParams::default()
        };
        match api
            .create(&parameters, &TensorPoolClass::new(name, spec.clone()))
            .await
        {
            Ok(_) => tracing::info!(name, "made the default class"),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(name, error = cause, "could not make the default class");
            }
        }
    }
}
