//! Followers: snapshots in pieces, whole ticks, slow ones, and tokens that no longer lead on.

use afflux_env::sim::Sim;
use afflux_types::{Offset, Tick};

use super::world::{Client, World};
use crate::{Event, ResumeToken, ddl, frames::sole_partition};

fn world(sim: &Sim) -> World {
    let world = World::open(sim).unwrap();
    world.topic("s", 1).unwrap();
    world
        .sql(
            "CREATE SOURCE s (k BIGINT, v BIGINT) WITH (topic = 's', format = 'json');
             CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS v FROM s GROUP BY k;",
        )
        .unwrap();
    world
}

fn produce(world: &World, range: std::ops::Range<i64>) {
    let values: Vec<_> = range.map(|v| format!("{{\"k\":{},\"v\":{v}}}", v % 20)).collect();
    drop(world.produce("s", 0, &values));
}

#[test]
fn a_snapshot_and_its_changes_are_the_view_at_every_tick() {
    let sim = Sim::new(1);
    let mut world = world(&sim);
    produce(&world, 0..40);
    assert!(world.settle());
    let mut follower = world.follow("sums", None);
    let mut pieces = 0;
    let mut client = Client::default();
    for at in 1..50 {
        produce(&world, at * 10..at * 10 + 10);
        loop {
            let logged = world.log.step();
            let step = world.line.step();
            if at == 1
                && client.token.is_none()
                && let Some(Event::Snapshot { rows, last, .. }) = follower.try_next().unwrap()
            {
                // Ticks go by while the snapshot is on its way.
                pieces += 1;
                assert!(rows.len() < 20, "it is bounded");
                assert_eq!(follower.token().is_some(), last);
                if last {
                    follower = world.follow("sums", None);
                    client.drain(&mut follower);
                }
                continue;
            }
            if client.token.is_some() {
                client.drain(&mut follower);
                assert_eq!(client.rows(), world.rows("sums"));
            }
            if !logged && step != crate::line::Step::Again {
                break;
            }
        }
    }
    assert!(pieces > 3, "{pieces}");
    assert!(client.ticks > 20, "{}", client.ticks);
    assert_eq!(client.resets, 0);
}

#[test]
fn a_slow_follower_reads_the_log_and_gets_every_tick() {
    let sim = Sim::new(2);
    let mut world = world(&sim);
    assert!(world.settle());
    let (mut slow, mut fast) = (world.follow("sums", None), world.follow("sums", None));
    let (mut one, mut other) = (Client::default(), Client::default());
    one.drain(&mut slow);
    other.drain(&mut fast);
    let early = one.token;
    for at in 0..200 {
        produce(&world, at * 10..at * 10 + 10);
        assert!(world.settle());
        other.drain(&mut fast);
    }
    one.drain(&mut slow);
    assert_eq!(one.rows(), world.rows("sums"));
    assert_eq!((one.ticks, one.resets), (200, 0));
    assert_eq!((other.ticks, other.resets), (200, 0));
    // A token from long ago, and one from the middle, lead to the same.
    let mut late = Client::default();
    late.drain(&mut world.follow("sums", early));
    assert_eq!((late.ticks, late.resets), (200, 0));
    assert_eq!(late.rows(), world.rows("sums"));
}

#[test]
fn a_token_that_does_not_lead_on_is_answered_with_a_reset_and_a_snapshot() {
    let sim = Sim::new(3);
    let mut world = world(&sim);
    for at in 0..100 {
        produce(&world, at * 10..at * 10 + 10);
        assert!(world.settle());
    }
    let mut client = Client::default();
    client.drain(&mut world.follow("sums", None));
    let token = client.token.unwrap();
    let check = |world: &World, token: ResumeToken, resets: usize| {
        let mut client = Client::default();
        client.drain(&mut world.follow("sums", Some(token)));
        assert_eq!(client.resets, resets, "{token}");
        if resets > 0 {
            assert_eq!(client.rows(), world.rows("sums"));
        }
    };
    check(&world, token, 0);
    let other = crate::ViewIncarnation(token.incarnation.0 ^ 1);
    check(&world, ResumeToken { incarnation: other, ..token }, 1);
    check(&world, ResumeToken { tick: Tick(token.tick.0 + 1_000_000), ..token }, 1);
    check(&world, ResumeToken { tick: Tick(1), ..token }, 0);
    let topic = sole_partition(&ddl::pipeline_topic(world.id("sums")));
    world.log.trim(&topic, Offset(50)).unwrap();
    check(&world, ResumeToken { tick: Tick(1), ..token }, 1);
    check(&world, token, 0);
}
