//! The whole broker in worlds made from seeds: producers, transactions, workers, consumers and
//! groups over a network that loses and delays, a disk that fails, and a node that dies, while
//! topics come and go, lose records and are compacted. What all of them saw must be what could have
//! been.
//!
//! `world` says what happens, `clients` who does what, `checkers` what must not be. All is done on
//! one thread and in simulated time, so that a seed gives the same world again.

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

use std::collections::BTreeMap;

use checkers::{Fault, Findings, faults};
use history::{About, Deed, Found, Kind, Outcome, Sweep, What, Word, is_tombstone, key_of};
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

/// What checkers look for could have happened.
#[tokio::test]
async fn what_worlds_are_for_happens_in_them() {
    let mut missing = vec![
        "deleted",
        "trimmed",
        "grown",
        "retained",
        "compacted",
        "exhausted",
        "forgotten",
        "returned",
    ];
    for seed in 0..48 {
        let history = &live(seed, Broken::Nothing).await;
        let is_done = |deed: &&Deed| deed.outcome == Outcome::Done(());
        let did = |is: fn(What) -> bool| history.deeds.iter().filter(is_done).any(|it| is(it.what));
        let left = |kind: Kind| {
            let its = history.left.iter().filter(move |(id, _)| history.kinds[*id] == kind);
            its.flat_map(|(_, partitions)| partitions.values())
        };
        let has_gap = |found: &Found| {
            let mut pairs = found.all.iter().zip(found.all.iter().skip(1));
            pairs.any(|((first, _), (next, _))| first + 1 < *next)
        };
        let orders = || history.transactions.iter().map(|it| (&it.id, it.order));
        let is_fresh = |(id, (producer, epoch, _)): (&String, (i64, i16, i64))| {
            let mut others = orders().filter(|(other, _)| *other == id);
            others.any(|(_, (other, worn, _))| other < producer && worn > 30_000 && epoch < 100)
        };
        // Of a key that was deleted nothing is left, and somebody has read its tombstone.
        let swept = || history.sweeps.iter().map(|it| (it, history.left.get(&it.topic)));
        let is_forgotten = |(sweep, left): (&Sweep, Option<&BTreeMap<i32, Found>>)| {
            let there = left.and_then(|left| left.get(&sweep.partition));
            let gone = sweep.records.iter().filter(|(_, value)| is_tombstone(value));
            let has = |value: &str| {
                let all = there.iter().flat_map(|found| &found.all);
                all.filter(|(_, it)| key_of(it) == key_of(value)).count() > 0
            };
            there.is_some() && gone.into_iter().any(|(_, value)| !has(value))
        };
        // A static member has the place that another one of its name had before.
        let words = || history.words.iter().filter(|it| it.about == About::Sync);
        let is_back = |word: &Word| {
            let mut before = words().filter(|it| it.ended < word.begun && it.member != word.member);
            before.any(|it| (&it.instance, it.generation) == (&word.instance, word.generation))
        };
        missing.retain(|what| !match *what {
            "deleted" => did(|it| it == What::Delete),
            "trimmed" => left(Kind::Passing).any(|found| found.start > 0),
            "grown" => did(|it| matches!(it, What::Grow(count) if count > 3)),
            "retained" => left(Kind::Retained).any(|found| found.start > 0),
            "compacted" => left(Kind::Compacted).any(has_gap),
            "forgotten" => swept().any(is_forgotten),
            "returned" => words().any(is_back),
            _ => orders().any(is_fresh),
        });
        if missing.is_empty() {
            return;
        }
    }
    panic!("none of them has {missing:?}");
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
