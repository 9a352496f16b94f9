//! The driver and real client machines together in a world of faults, replayable from a seed.
//!
//! `TP_SIM_SEED=n` replays one seed and prints its transcript. Without it, 200 seeds run. Every run has
//! a time of faults and a time of peace; the oracle watches both, and after the peace it asks whether
//! every client got what it wants.

mod faults;
mod oracle;
mod process;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use faults::{Faults, Random};
use world::World;

const SEEDS: u64 = 200;

/// Lines of a run, kept outside of it so that a panic does not take them along.
type Transcript = Rc<RefCell<Vec<String>>>;

#[expect(
    clippy::disallowed_methods,
    reason = "the seed to replay comes from the person who runs the test"
)]
fn chosen_seed() -> Option<u64> {
    let seed = std::env::var("TP_SIM_SEED").ok()?;
    Some(seed.parse().expect("TP_SIM_SEED is a number"))
}

/// Runs one world; a failure says how to see it again.
fn run(name: &str, seed: u64, run: impl FnOnce(&mut World)) -> u64 {
    let transcript = Transcript::default();
    let lines = Rc::clone(&transcript);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, lines);
        run(&mut world);
        world.actions()
    }));
    match result {
        Ok(actions) => {
            if chosen_seed().is_some() {
                println!("{}", transcript.borrow().join("\n"));
            }
            actions
        }
        Err(panic) => {
            let lines = transcript.borrow();
            let last = lines.len().saturating_sub(300);
            println!("{}", lines[last..].join("\n"));
            println!("{name} failed, replay with TP_SIM_SEED={seed}");
            resume_unwind(panic)
        }
    }
}

fn seeds() -> Vec<u64> {
    chosen_seed().map_or_else(|| (0..SEEDS).collect(), |seed| vec![seed])
}

#[test]
// spec: D-5-1, D-6-1, D-10-2, D-4.8-4, D-4.9-12, D-4.9-13, D-4.9-14, GC-1, W-15.14-1
fn sim_clients_recover_from_every_mix_of_faults() {
    let seeds = seeds();
    let mut faults = 0;
    for seed in &seeds {
        run("mix of faults", *seed, |world| {
            world.live_through(Faults::mixed(&mut Random::new(*seed)), 25);
            world.live_in_peace(20);
            faults += world.faults_injected();
        });
    }
    assert!(faults > seeds.len() as u64, "faults were injected");
    println!("count: simulation seeds = {}", seeds.len());
    println!("count: simulated faults = {faults}");
}

#[test]
// spec: D-4.9-12, D-5-1, D-6-1, GC-2
fn sim_in_a_cluster_quotas_hold_and_what_nobody_touches_lives_on() {
    let seeds = seeds();
    let (mut faults, mut emptied) = (0, 0);
    for seed in &seeds {
        run("cluster", *seed, |world| {
            world.be_a_cluster();
            world.live_through(Faults::of_a_cluster(&mut Random::new(*seed)), 25);
            world.live_in_peace(20);
            faults += world.faults_injected();
            emptied += world.emptied();
        });
    }
    assert!(faults > 10 * seeds.len() as u64, "faults were injected");
    if chosen_seed().is_none() {
        assert!(
            emptied > seeds.len() as u64 / 2,
            "{emptied} epochs were emptied"
        );
    }
    println!("count: simulation seeds = {}", seeds.len());
    println!("count: simulated faults = {faults}");
}

#[test]
fn sim_a_peaceful_world_has_no_refusals_and_no_lost_leases() {
    let seeds: Vec<u64> = seeds().into_iter().take(20).collect();
    for seed in &seeds {
        run("peace", *seed, |world| {
            world.live_in_peace(15);
            assert_eq!(
                world.leases_lost(),
                0,
                "nobody loses a lease without a fault"
            );
        });
    }
    println!("count: simulation seeds = {}", seeds.len());
}

#[test]
// spec: D-10-2, X-2-27, W-15.14-1
fn sim_a_crash_at_every_action_boundary_is_recovered_from() {
    let seed = chosen_seed().unwrap_or(1);
    // One run without a crash says how many actions there are in the first seconds.
    let actions = run("no crash", seed, World::short_story);
    assert!(actions > 80, "{actions} actions");
    for boundary in 0..actions {
        run("crash at action boundary", seed, |world| {
            world.crash_after_action(boundary);
            world.short_story();
            world.live_in_peace(15);
            assert_eq!(world.crashes(), 1, "action {boundary}");
        });
    }
    println!("count: simulated crashes = {actions}");
}

#[test]
// spec: GC-2
fn sim_a_hundred_producer_restarts_fit_into_memory_for_three_epochs() {
    for seed in seeds().into_iter().take(3) {
        run("producer restarts", seed, |world| {
            world.limit_memory_to_epochs(3);
            world.restart_producer_times(100);
            world.live_in_peace(20);
            assert_eq!(
                world.internal_errors(),
                0,
                "no attach failed for lack of memory"
            );
        });
    }
    println!("count: simulation seeds = 3");
}

#[test]
// spec: GC-2, D-10-2
fn sim_with_memory_for_two_epochs_it_recovers_and_a_driver_restart_too() {
    for seed in seeds().into_iter().take(3) {
        run("two epochs", seed, |world| {
            world.limit_memory_to_epochs(2);
            world.restart_producer_times(10);
            world.crash_driver();
            world.restart_producer_times(10);
            world.live_in_peace(20);
        });
    }
    println!("count: simulation seeds = 3");
}
