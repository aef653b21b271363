//! The whole broker in worlds made from seeds: producers, transactions, workers, consumers and
//! groups over a network that loses and delays, a disk that fails, and a node that dies, while
//! topics come and go, lose records and are compacted. What all of them saw must be what could have
//! been.
//!
//! `world` says what happens, `clients` who does what, `checkers` what must not be, `events` what must
//! have happened somewhere. All is done on
//! one thread and in simulated time, so that a seed gives the same world again.

mod checkers;
mod clients;
mod events;
mod history;
mod link;
#[path = "../support/producer.rs"]
mod producer;
#[path = "../support/reading.rs"]
mod reading;
#[path = "../support/sim.rs"]
mod sim;
mod world;

use checkers::{Fault, Findings, faults};
use events::Event;
use world::{Broken, live};

/// What the checkers find in a seed's world.
async fn look_at(seed: u64, broken: Broken) -> Findings {
    let history = live(seed, broken).await;
    println!("seed {seed}: {history}");
    faults(&history)
}

/// Some dozens of seeds, or those that `AFFLUX_SEEDS=1000..2000` names. What checkers look for could
/// have happened in the dozens.
#[tokio::test]
async fn no_world_shows_a_fault() {
    let asked = std::env::var("AFFLUX_SEEDS").ok();
    let bounds = asked
        .as_deref()
        .unwrap_or("0..48")
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
    let (from, to) = bounds.expect("AFFLUX_SEEDS is FROM..TO");
    let mut with_faults = Vec::new();
    let mut missing = Event::ALL.to_vec();
    for seed in from..to {
        let history = live(seed, Broken::Nothing).await;
        println!("seed {seed}: {history}");
        missing.retain(|event| !event.happened_in(&history));
        let findings = faults(&history);
        if !findings.is_empty() {
            println!("seed {seed}: {findings:#?}");
            with_faults.push(seed);
        }
    }
    assert!(with_faults.is_empty(), "these seeds show faults: {with_faults:?}");
    assert!(asked.is_some() || missing.is_empty(), "none of them has {missing:?}");
}

/// Some of a few worlds with something wrong show one of these faults.
async fn must_find(broken: Broken, expected: &[Fault]) {
    let mut found = Findings::new();
    for seed in 0..16 {
        found = look_at(seed, broken).await;
        if found.iter().any(|(fault, _)| expected.contains(fault)) {
            return;
        }
    }
    panic!("{broken:?} is not seen: {found:?}");
}

/// Whoever finds something can look at it again.
#[tokio::test]
async fn a_seed_gives_the_same_world_again() {
    for seed in 0..4 {
        let first = format!("{:#?}", live(seed, Broken::Nothing).await);
        let again = format!("{:#?}", live(seed, Broken::Nothing).await);
        let parts = first.lines().zip(again.lines()).enumerate();
        let parting: Vec<_> = parts.filter(|(_, (first, again))| first != again).take(4).collect();
        assert!(parting.is_empty(), "seed {seed}: {parting:?}");
        assert_eq!(first.len(), again.len(), "seed {seed}");
    }
}

#[tokio::test]
async fn the_checkers_see_acknowledgements_before_the_sync() {
    must_find(Broken::Durability, &[Fault::Lost]).await;
}

#[tokio::test]
async fn the_checkers_see_that_readers_are_shown_too_much() {
    must_find(Broken::Isolation, &[Fault::Precommitted, Fault::Aborted]).await;
}

#[tokio::test]
async fn the_checkers_see_that_what_comes_again_is_written_again() {
    must_find(Broken::Sequences, &[Fault::Twice]).await;
}

#[tokio::test]
async fn the_checkers_see_that_producers_are_forgotten_too_early() {
    must_find(Broken::Memory, &[Fault::Twice]).await;
}

#[tokio::test]
async fn the_checkers_see_that_what_is_deleted_stays() {
    must_find(Broken::Deletion, &[Fault::Risen]).await;
}
