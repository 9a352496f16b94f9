//! Random histories: people, drivers and crashes in any order, and what must hold after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tensorpool_crds::{MAX_NODE_STREAMS, StreamIdRange, StreamPhase};
use tensorpool_operator::{DriverLife, Finalizer, Observed, Plan, plan};

use crate::build::{
    applied, at_most, class, driver, essence, name_of, priority, quota, removes, report, settled,
    stream, world,
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Something that happens between two plans.
#[derive(Clone, Debug)]
enum Step {
    Create {
        name: usize,
        id: Option<u32>,
        urgent: bool,
    },
    Delete {
        name: usize,
    },
    /// Without waiting for the finalizer.
    Vanish {
        name: usize,
    },
    Limit {
        streams: Option<u64>,
    },
    Class {
        there: bool,
    },
    /// A driver follows its policy: bit n says whether the n-th stream has memory.
    Follow {
        node: usize,
        living: u8,
    },
    Driver {
        node: usize,
        life: DriverLife,
    },
    /// The operator dies after it wrote statuses and before it wrote policies.
    Half,
    Plan,
}

fn step() -> impl Strategy<Value = Step> {
    let life = prop_oneof![
        Just(DriverLife::Never),
        Just(DriverLife::Alive),
        Just(DriverLife::Silent),
        Just(DriverLife::Dead)
    ];
    prop_oneof![
        3 => (0..NAMES.len(), proptest::option::of(20_000_u32..20_004), any::<bool>())
            .prop_map(|(name, id, urgent)| Step::Create { name, id, urgent }),
        2 => (0..NAMES.len()).prop_map(|name| Step::Delete { name }),
        1 => (0..NAMES.len()).prop_map(|name| Step::Vanish { name }),
        1 => proptest::option::of(0_u64..5).prop_map(|streams| Step::Limit { streams }),
        1 => any::<bool>().prop_map(|there| Step::Class { there }),
        4 => (0..NODES.len(), any::<u8>()).prop_map(|(node, living)| Step::Follow { node, living }),
        1 => (0..NODES.len(), life).prop_map(|(node, life)| Step::Driver { node, life }),
        1 => Just(Step::Half),
        3 => Just(Step::Plan),
    ]
}

/// A world with its clock.
struct History {
    observed: Observed,
    second: i64,
}

impl History {
    fn new() -> Self {
        let mut observed = world([]);
        observed.priorities = vec![Arc::new(priority("high", 100, false))];
        observed.classes = vec![Arc::new(small_class())];
        Self {
            observed,
            second: 0,
        }
    }

    fn happen(&mut self, step: &Step) {
        let position = |observed: &Observed, name: usize| {
            let mut streams = observed.streams.iter();
            streams.position(|it| name_of(it) == NAMES[name])
        };
        match step {
            Step::Create { name, id, urgent } => {
                if position(&self.observed, *name).is_none() {
                    self.second += 1;
                    let mut made = stream(NAMES[*name], self.second);
                    made.spec.stream_id = *id;
                    made.spec.priority_class_name = urgent.then(|| "high".to_owned());
                    self.observed.streams.push(Arc::new(made));
                }
            }
            Step::Delete { name } => {
                if let Some(index) = position(&self.observed, *name) {
                    let object = Arc::make_mut(&mut self.observed.streams[index]);
                    if object.metadata.finalizers.is_some() {
                        object.metadata.deletion_timestamp = Some(crate::build::NOW);
                    } else {
                        self.observed.streams.remove(index);
                    }
                }
            }
            Step::Vanish { name } => {
                if let Some(index) = position(&self.observed, *name) {
                    self.observed.streams.remove(index);
                }
            }
            Step::Limit { streams } => {
                let limit = streams.map(|it| Arc::new(quota("all", at_most(it))));
                self.observed.quotas = limit.into_iter().collect();
            }
            Step::Class { there } => {
                let class = there.then(|| Arc::new(small_class()));
                self.observed.classes = class.into_iter().collect();
            }
            Step::Follow { node, living } => self.follow(NODES[*node], *living),
            Step::Driver { node, life } => self.observed.nodes[*node].driver = *life,
            Step::Half => {
                let kept = self.observed.pool_nodes.clone();
                self.observed = applied(&self.observed, &plan(&self.observed));
                self.observed.pool_nodes = kept;
            }
            Step::Plan => self.observed = applied(&self.observed, &plan(&self.observed)),
        }
    }

    fn follow(&mut self, node: &str, living: u8) {
        let nodes = &self.observed.pool_nodes;
        if nodes.iter().all(|it| name_of(it) != node) {
            return;
        }
        driver(&mut self.observed, node, |spec, status| {
            let chosen = spec
                .iter()
                .enumerate()
                .filter(|(index, _)| living >> (index % 8) & 1 == 1);
            status.streams = chosen
                .map(|(_, it)| report(it, StreamPhase::Ready))
                .collect();
        });
    }
}

/// So few numbers that they run out.
fn small_class() -> tensorpool_crds::TensorPoolClass {
    let mut class = class("default");
    class.spec.stream_id_range = StreamIdRange {
        from: 20_000,
        to: 20_007,
    };
    class
}

fn check(observed: &Observed, plan: &Plan) {
    numbers_are_unique(observed, plan);
    what_lives_stays(observed, plan);
    // Where an object went meanwhile, its number and place are free one plan later.
    if removes(plan) || somebody_vanished(observed) {
        settled(observed.clone());
    } else {
        let again = tensorpool_operator::plan(&applied(observed, plan));
        assert_eq!(essence(&again), essence(plan), "it plans itself again");
    }
    for (name, node) in &plan.nodes {
        assert!(node.spec.streams.len() <= MAX_NODE_STREAMS, "{name}");
    }
    for (key, it) in &plan.streams {
        assert!(
            it.conditions.iter().all(|it| !it.message.is_empty()),
            "{key:?}"
        );
        if it.finalizer == Finalizer::Remove {
            let waited_for = observed.pool_nodes.iter().filter(|object| {
                let facts = observed.nodes.iter().find(|it| it.name == name_of(object));
                facts.is_some_and(|it| it.driver.is_expected_back())
            });
            let mut reports = waited_for.flat_map(|it| it.status.iter().flat_map(|it| &it.streams));
            assert!(
                reports.all(|report| report.uid != it.uid),
                "{key:?} still lives"
            );
        }
    }
}

/// Whether a node was told of a stream whose object is not there any more.
fn somebody_vanished(observed: &Observed) -> bool {
    let there: BTreeSet<&str> = observed
        .streams
        .iter()
        .filter_map(|it| it.metadata.uid.as_deref())
        .collect();
    let mut told = observed.pool_nodes.iter().flat_map(|it| &it.spec.streams);
    told.any(|it| !there.contains(it.uid.as_str()))
}

fn numbers_are_unique(observed: &Observed, plan: &Plan) {
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    for it in plan.streams.values() {
        if let Some(id) = it.stream_id {
            let other = owners.insert(id, &it.uid);
            assert_eq!(other, None, "number {id} is given twice");
        }
    }
    // A stream that is new on a number meets nobody who still reports it.
    for planned in plan.nodes.values().flat_map(|it| &it.spec.streams) {
        let id = planned.stream_id;
        assert_eq!(owners.get(&id), Some(&planned.uid.as_str()));
        let is_new = observed.streams.iter().all(|it| {
            let given = it.status.as_ref().and_then(|it| it.stream_id);
            it.metadata.uid.as_deref() != Some(&planned.uid) || given != Some(id)
        });
        let nodes = || observed.pool_nodes.iter();
        let told = nodes().flat_map(|it| &it.spec.streams);
        let told = told.map(|it| (it.stream_id, it.uid.as_str()));
        let reported = nodes().flat_map(|it| it.status.iter().flat_map(|it| &it.streams));
        let reported = reported.map(|it| (it.stream_id, it.uid.as_str()));
        let own = (id, planned.uid.as_str());
        if is_new && told.chain(reported.clone()).all(|it| it != own) {
            assert!(
                reported.clone().all(|it| it.0 != id),
                "{id} is given while a node reports it"
            );
        }
    }
}

fn what_lives_stays(observed: &Observed, plan: &Plan) {
    let kept: BTreeSet<&str> = observed
        .streams
        .iter()
        .filter(|it| it.metadata.deletion_timestamp.is_none())
        .filter_map(|it| it.metadata.uid.as_deref())
        .collect();
    for object in &observed.pool_nodes {
        let told: BTreeSet<&str> = object
            .spec
            .streams
            .iter()
            .map(|it| it.uid.as_str())
            .collect();
        let living = object.status.iter().flat_map(|it| &it.streams);
        for report in
            living.filter(|it| kept.contains(it.uid.as_str()) && told.contains(it.uid.as_str()))
        {
            let node = &plan.nodes[name_of(object)];
            let stays = node.spec.streams.iter().any(|it| it.uid == report.uid);
            assert!(
                stays,
                "{} lives on {} and is taken away",
                report.name,
                name_of(object)
            );
        }
    }
}

fn shuffled(observed: &Observed, seed: u64) -> Observed {
    fn turn<T>(items: &mut [T], seed: u64) {
        let count = u64::try_from(items.len()).expect("it is small");
        if count > 1 {
            let by = usize::try_from(seed % count).expect("it is small");
            items.rotate_left(by);
            if seed & 1 == 1 {
                items.reverse();
            }
        }
    }
    let mut other = observed.clone();
    turn(&mut other.streams, seed);
    turn(&mut other.classes, seed >> 3);
    turn(&mut other.priorities, seed >> 5);
    turn(&mut other.quotas, seed >> 7);
    turn(&mut other.pool_nodes, seed >> 11);
    turn(&mut other.nodes, seed >> 13);
    other
}

/// `PROPTEST_CASES` asks for more.
fn histories() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES");
    ProptestConfig {
        cases: asked.ok().and_then(|it| it.parse().ok()).unwrap_or(64),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn simulation_of_people_drivers_and_crashes_keeps_every_promise(
        steps in proptest::collection::vec(step(), 1..60),
        seed: u64,
    ) {
        let mut history = History::new();
        for step in &steps {
            history.happen(step);
            let planned = plan(&history.observed);
            check(&history.observed, &planned);
            // The order in which things were read does not matter; nor does planning twice.
            prop_assert_eq!(&plan(&history.observed), &planned);
            prop_assert_eq!(&plan(&shuffled(&history.observed, seed)), &planned);
        }
    }
}
