//! The whole broker in worlds made from seeds: producers, transactions, workers, consumers and
//! groups over a network that loses and delays, a disk that fails, and a node that dies. What all
//! of them saw must be what could have been.
//!
//! `world` says what happens, `clients` who does what, `checkers` what must not be. A seed mostly
//! gives the same world again; threads of blocking requests are what it does not decide.

mod checkers;
mod clients;
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
use world::{Broken, live};

/// What the checkers find in a seed's world.
async fn look_at(seed: u64, broken: Broken) -> Findings {
    let history = live(seed, broken).await;
    println!("seed {seed}: {history}");
    faults(&history)
}

/// Some dozens of seeds, or those that `AFFLUX_SEEDS=1000..2000` names.
#[tokio::test]
async fn no_world_shows_a_fault() {
    let seeds = std::env::var("AFFLUX_SEEDS").unwrap_or_else(|_| "0..48".to_owned());
    let bounds = seeds
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
    let (from, to) = bounds.expect("AFFLUX_SEEDS is FROM..TO");
    let mut with_faults = Vec::new();
    for seed in from..to {
        let findings = look_at(seed, Broken::Nothing).await;
        if !findings.is_empty() {
            println!("seed {seed}: {findings:#?}");
            with_faults.push(seed);
        }
    }
    assert!(with_faults.is_empty(), "these seeds show faults: {with_faults:?}");
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
